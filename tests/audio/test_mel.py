"""Log-mel against a direct computation, padding, frame counts, and the way back."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from open_miipher.audio.mel import LogMel, MelConfig, check_front_end
from open_miipher.audio.resample import resample_on_device
from open_miipher.base.errors import UserError


def direct_log_mel(waveform: np.ndarray, config: MelConfig, frame: int) -> np.ndarray:
    """One frame by the definition, in float64: window, DFT sum, HTK triangles."""
    centre = frame * config.hop_length + config.hop_length // 2
    time = np.arange(config.win_length) - config.win_length // 2
    inside = (centre + time >= 0) & (centre + time < len(waveform))
    samples = np.where(inside, waveform[np.clip(centre + time, 0, len(waveform) - 1)], 0)
    window = 0.5 + 0.5 * np.cos(2 * np.pi * time / config.win_length)
    bins = np.arange(config.n_fft // 2 + 1)
    phases = np.exp(-2j * np.pi * np.outer(bins, time) / config.n_fft)
    magnitude = np.abs(phases @ (samples * window))

    def mel(frequency: np.ndarray) -> np.ndarray:
        return 2595 * np.log10(1 + frequency / 700)

    low, high = mel(np.array([config.f_min, config.f_max]))
    edges = 700 * (10 ** (np.linspace(low, high, config.n_mels + 2) / 2595) - 1)
    frequency = bins * config.sample_rate / config.n_fft
    rising = (frequency - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequency) / (edges[2:] - edges[1:-1])[:, None]
    basis = np.maximum(0, np.minimum(rising, falling))
    return np.log(np.maximum(basis @ magnitude, config.floor))


@pytest.mark.parametrize(
    "config",
    [MelConfig(), MelConfig(16000, 1024, 1024, 160, 80, 60.0, 7600.0, 1e-3)],
    ids=["wavefit", "other"],
)
def test_frames_equal_the_definition(config: MelConfig) -> None:
    waveform = np.random.default_rng(0).standard_normal(8000) * 0.1
    found = LogMel(config)(torch.from_numpy(waveform)[None].float())[0].numpy()
    for frame in (0, 1, 13, len(found) - 1):
        np.testing.assert_allclose(found[frame], direct_log_mel(waveform, config, frame), atol=2e-4)


def test_every_band_of_the_default_has_weight() -> None:
    basis = LogMel(MelConfig()).basis
    assert basis.shape == (128, 1025)
    assert (basis.max(dim=1).values > 0.3).all()


def test_frames_are_the_ceiling_for_every_length() -> None:
    log_mel = LogMel(MelConfig(n_fft=512, win_length=300, hop_length=75, n_mels=8))
    for num_samples in range(1, 2001):
        assert log_mel(torch.ones(1, num_samples)).shape == (1, -(-num_samples // 75), 8)
    assert LogMel(MelConfig())(torch.ones(2, 1)).shape == (2, 1, 128)


def test_zeros_after_the_end_change_nothing_and_lie_at_the_floor() -> None:
    config = MelConfig()
    log_mel = LogMel(config)
    waveform = torch.randn(2, 5000)
    alone = log_mel(waveform)
    padded = log_mel(torch.nn.functional.pad(waveform, (0, 6000)))
    torch.testing.assert_close(padded[:, : alone.shape[1]], alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(padded[:, 20:], torch.full_like(padded[:, 20:], np.log(1e-5)))


def test_autocast_changes_nothing() -> None:
    log_mel = LogMel(MelConfig())
    waveform = torch.randn(1, 3000)
    expected = log_mel(waveform)
    with torch.autocast("cpu", torch.bfloat16):
        found = log_mel(waveform)
        magnitude = log_mel.magnitude_from(found)
    assert found.dtype == magnitude.dtype == torch.float32
    assert found.equal(expected)
    assert magnitude.equal(log_mel.magnitude_from(expected))


def test_the_way_back_keeps_the_mel_and_scales() -> None:
    log_mel = LogMel(MelConfig())
    rate = torch.arange(24000) / 24000
    chirp = torch.sin(2 * np.pi * (100 + 2500 * rate) * rate)[None] + 0.01 * torch.randn(1, 24000)
    mel = log_mel(chirp)
    magnitude = log_mel.magnitude_from(mel)
    assert magnitude.shape == (1, 80, 1025)
    assert (magnitude >= 0).all()
    again = (magnitude @ log_mel.basis.T).clamp(min=1e-5)
    inside = mel[:, 2:-2].exp()
    assert ((again[:, 2:-2] - inside).norm() / inside.norm()) < 0.05
    louder = log_mel.magnitude_from(log_mel(2 * chirp))
    torch.testing.assert_close(louder, 2 * magnitude, rtol=1e-3, atol=1e-3)


def test_nothing_of_it_is_saved_or_trained() -> None:
    log_mel = LogMel(MelConfig())
    assert not log_mel.state_dict()
    assert not list(log_mel.parameters())


def test_a_config_that_cannot_be_is_refused_with_all_that_is_wrong() -> None:
    with pytest.raises(UserError) as caught:
        MelConfig(0, 512, 1024, 0, 0, 4000.0, 4000.0, 0.0)
    lines = str(caught.value).splitlines()
    assert lines[0] == "5 problems:"
    for words in (
        "sample_rate=0 must be at least 1",
        "hop_length=0, win_length=1024 and n_fft=512 must be above 0",
        "n_mels=0 must be at least 1",
        "f_min=4000 and f_max=4000 must rise",
        "floor=0 must be above 0",
    ):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    "more",
    [
        {"hop_length": 1201},
        {"win_length": 2049},
        {"n_mels": -1},
        {"f_min": -1.0},
        {"f_max": float("nan")},
        {"floor": -1e-5},
    ],
)
def test_one_value_out_of_range_is_told_in_a_sentence(more) -> None:
    with pytest.raises(UserError, match=f"^a mel front end's .*{next(iter(more))}=[^\n]*$"):
        MelConfig(**more)


def test_no_mel_reaches_above_half_the_sample_rate() -> None:
    assert LogMel(MelConfig(sample_rate=16000, f_max=8000.0)).basis.shape == (128, 1025)
    with pytest.raises(UserError, match="f_max=8001 is above half its sample rate, 8000 Hz"):
        LogMel(MelConfig(sample_rate=16000, f_max=8001.0))


def test_a_folder_s_front_end_is_compared_by_value(tmp_path) -> None:
    config = MelConfig(f_max=4000.0)
    check_front_end(tmp_path, config)
    note = tmp_path / "mel.json"
    note.write_text(json.dumps({**asdict(config), "f_max": 4000, "by": "hand"}))
    check_front_end(tmp_path, config)
    note.write_text(json.dumps({**asdict(config), "f_max": 8000, "n_fft": 1024}))
    with pytest.raises(UserError, match=r"n_fft is 1024, not 2048, f_max is 8000, not 4000\.0; "):
        check_front_end(tmp_path, config)


@pytest.mark.parametrize("damaged", [b"", b"{", b"[1]", b"null", b"\xff\xfe", b'{"n_fft": 10'])
def test_a_damaged_note_is_told_in_a_sentence(damaged, tmp_path) -> None:
    (tmp_path / "mel.json").write_bytes(damaged)
    with pytest.raises(UserError, match=r"^[^\n]*mel\.json is damaged; make the mels anew [^\n]*$"):
        check_front_end(tmp_path, MelConfig())


@pytest.mark.gpu
def test_the_gpu_hears_the_same() -> None:
    waveform = torch.randn(2, 24000)
    log_mel = LogMel(MelConfig())
    expected = log_mel(waveform)
    found = log_mel.cuda()(waveform.cuda()).cpu()
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    resampled = resample_on_device(waveform.cuda(), 24000, 16000).cpu()
    expected = resample_on_device(waveform, 24000, 16000)
    torch.testing.assert_close(resampled, expected, atol=1e-4, rtol=0)
