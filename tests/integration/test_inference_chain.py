"""A chain out of a real checkpoint: the right weights, exact lengths, equal noise, or a refusal."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from open_miipher.audio.resample import num_output_frames
from open_miipher.base.errors import UserError
from open_miipher.checkpoint import Checkpoint
from open_miipher.restoration import Chain, RestoreOptions, Restorer

RNG = np.random.default_rng(0)


def noise(num_samples: int, level: float = 0.1) -> np.ndarray:
    return (level * RNG.standard_normal(num_samples)).astype(np.float32)


def test_a_chain_has_the_rates_of_its_parts_and_the_averaged_weights(chain: Path) -> None:
    loaded = Chain.from_checkpoint(chain)
    assert (loaded.input_rate, loaded.input_hop) == (24000, 300)
    assert (loaded.output_rate, loaded.output_hop) == (24000, 300)
    assert loaded.restores_level
    checkpoint = Checkpoint.open(chain)
    for ema in (True, False):
        loaded = Chain.from_checkpoint(chain, ema=ema)
        generator = checkpoint.build("generator", ema)
        generator.merge(on_gpu=False)
        expected = generator.state_dict()
        for name, tensor in loaded.vocoder.state_dict().items():
            assert torch.equal(tensor, expected[name])
        for name, tensor in loaded.cleaner.trained_state_dict().items():
            assert torch.equal(tensor, checkpoint.weights("cleaner")[name])
    assert not any(module.training for module in (loaded.cleaner, loaded.vocoder))


def test_the_fingerprint_tells_weights_and_precision_apart(chain: Path, make_chain, tmp_path):
    fingerprints = {
        Chain.from_checkpoint(chain).fingerprint,
        Chain.from_checkpoint(chain, ema=False).fingerprint,
        Chain.from_checkpoint(chain, amp="bf16").fingerprint,
        Chain.from_checkpoint(make_chain(tmp_path, seed=1)).fingerprint,
    }
    assert len(fingerprints) == 4
    assert Chain.from_checkpoint(chain / "ckpt/latest").fingerprint in fingerprints


@pytest.mark.parametrize("place", ["", "ckpt", "ckpt/latest", "ckpt/step-00000007", "copy"])
def test_any_name_of_a_checkpoint_will_do(chain: Path, tmp_path: Path, place: str) -> None:
    path = chain / place
    if place == "copy":
        path = shutil.copytree(chain / "ckpt/latest", tmp_path / "copy")
    assert Restorer.from_checkpoint(path, device="cpu").model.output_rate == 24000


def test_forty_awkward_lengths_are_exact(chain: Path) -> None:
    model = Chain.from_checkpoint(chain)
    options = RestoreOptions(sample_rate="input", chunk_seconds=0.5, overlap_seconds=0.1)
    restorer = Restorer(model, options)
    lengths = [1, 2, 3, 149, 150, 151, 299, 300, 301, 449, 12000, 12001, 11999, 20001]
    cases = [(n, 24000) for n in lengths]
    cases += [(n, rate) for rate in (8000, 11025, 16000, 44100, 192000) for n in (1, 7, 700, 9999)]
    cases += [(n, 48000) for n in (1, 599, 600, 601, 24001, 47999)]
    assert len(cases) == 40
    for num_samples, rate in cases:
        restored, rate_out = restorer.restore(noise(num_samples), rate)
        assert (len(restored), rate_out) == (num_samples, rate)
        assert np.isfinite(restored).all()
        assert num_output_frames(num_samples, rate, 24000) >= 1


def test_the_batch_changes_nothing(chain: Path) -> None:
    waveform = np.stack([noise(30000), noise(30000)])
    options = RestoreOptions(channels="each", chunk_seconds=0.5, overlap_seconds=0.1)
    one, four = (
        Restorer.from_checkpoint(chain, options, batch_size, device="cpu").restore(waveform, 24000)
        for batch_size in (1, 4)
    )
    np.testing.assert_allclose(one[0], four[0], atol=1e-5)


def test_restoring_twice_gives_the_same_and_another_seed_does_not(peak_chain: Path) -> None:
    waveform = noise(20000)
    first, again, other = (
        Restorer.from_checkpoint(peak_chain, RestoreOptions(seed=seed), device="cpu").restore(
            waveform, 24000
        )[0]
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-4


def test_a_chain_without_levels_gets_the_inputs(peak_chain: Path) -> None:
    model = Chain.from_checkpoint(peak_chain)
    assert not model.restores_level
    waveform = noise(48000, 0.02)
    for level, expected in (("none", 0.9), ("peak", 0.9)):
        restored, _ = Restorer(model, RestoreOptions(level=level)).restore(waveform, 24000)
        assert np.abs(restored).max() == pytest.approx(expected, abs=1e-3)
    restored, _ = Restorer(model).restore(waveform, 24000)
    ratio = np.sqrt(np.mean(restored**2) / np.mean(waveform**2))
    assert ratio == pytest.approx(1.0, abs=0.02)


def test_bf16_stays_near_float32(chain: Path) -> None:
    waveform = noise(24000)
    full, half = (
        Restorer.from_checkpoint(chain, device="cpu", amp=amp).restore(waveform, 24000)[0]
        for amp in ("no", "bf16")
    )
    assert full.dtype == half.dtype == np.float32
    assert 0 < np.abs(full - half).max() < 0.2 * np.abs(full).max() + 1e-3


def only(chain: Path, *names: str) -> dict:
    return {name: Checkpoint.open(chain).weights(name) for name in names}


def test_an_incomplete_chain_is_refused_with_the_stage_to_take(chain, make_chain, tmp_path):
    for names, says in {
        ("cleaner",): "feature cleaner alone.*stage 3",
        ("generator",): "vocoder alone.*stage 3",
    }.items():
        path = make_chain(tmp_path / names[0], weights=only(chain, *names))
        with pytest.raises(UserError, match=says):
            Chain.from_checkpoint(path)


def test_another_base_encoder_is_refused(make_chain, tmp_path) -> None:
    with pytest.raises(UserError, match="base encoder with other weights"):
        Chain.from_checkpoint(make_chain(tmp_path, fingerprint="another"))


def test_another_architecture_is_refused(chain, make_chain, tmp_path) -> None:
    for network in ("cleaner", "generator"):
        weights = only(chain, "cleaner", "generator")
        name = next(iter(weights[network]))
        weights[network][name] = torch.zeros(3, 3, 3, 3)
        path = make_chain(tmp_path / network, weights=weights)
        with pytest.raises(UserError, match=r"architecture|shape"):
            Chain.from_checkpoint(path, ema=False)
        del weights[network][name]
        path = make_chain(tmp_path / f"{network} less", weights=weights)
        with pytest.raises(UserError, match=r"architecture|lack"):
            Chain.from_checkpoint(path, ema=False)


def test_a_truncated_or_missing_checkpoint_is_refused(chain, tmp_path) -> None:
    with pytest.raises(UserError, match="there is no checkpoint"):
        Chain.from_checkpoint(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no complete checkpoint"):
        Chain.from_checkpoint(tmp_path)
    for cut in ("generator.safetensors", "files.json", "config.yaml"):
        copy = shutil.copytree((chain / "ckpt/latest").resolve(), tmp_path / cut)
        (copy / cut).write_bytes((copy / cut).read_bytes()[:-20])
        with pytest.raises(UserError, match="damaged"):
            Chain.from_checkpoint(copy)


def test_a_target_in_the_configuration_is_refused(chain, tmp_path) -> None:
    copy = shutil.copytree((chain / "ckpt/latest").resolve(), tmp_path / "copy")
    text = (copy / "networks.json").read_text()
    text = text.replace('"name": "conformer"', '"name": "conformer", "_target_": "os.system"')
    assert "_target_" in text
    (copy / "networks.json").write_text(text)
    import hashlib

    files = json.loads((copy / "files.json").read_text())
    files["networks.json"] = {
        "bytes": len(text.encode()),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    (copy / "files.json").write_text(json.dumps(files))
    with pytest.raises(UserError, match=r"cleaner of .*_target_ is refused"):
        Chain.from_checkpoint(copy)
