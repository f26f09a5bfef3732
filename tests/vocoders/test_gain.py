import math

import pytest
import torch

from open_miipher.audio.mel import LogMel, MelConfig
from open_miipher.vocoders.gain import PeakGain, PowerGain

CONFIG = MelConfig()
NUM_FRAMES = 40


@pytest.fixture
def gain():
    return PowerGain(CONFIG)


def sine(frequency: float, amplitude: float) -> torch.Tensor:
    time = torch.arange(NUM_FRAMES * CONFIG.hop_length) / CONFIG.sample_rate
    return amplitude * torch.sin(2 * math.pi * frequency * time)[None]


def voice() -> torch.Tensor:
    """Harmonics of 120 Hz falling by 12 dB an octave, with a little noise: (1, samples)."""
    harmonics = torch.cat([sine(120.0 * n, 0.1 / n**2) for n in range(1, 60)])
    noise = torch.randn(harmonics.shape[1], generator=torch.Generator().manual_seed(0))
    return harmonics.sum(0, keepdim=True) + 1e-4 * noise


def stft_power(waveform: torch.Tensor) -> torch.Tensor:
    """Mean |STFT|² over the mel's frames and the bins of the two-sided spectrum: (batch,)."""
    before = (CONFIG.n_fft - CONFIG.hop_length) // 2
    padded = torch.nn.functional.pad(waveform, (before, CONFIG.n_fft))
    spectrum = torch.stft(
        padded,
        CONFIG.n_fft,
        CONFIG.hop_length,
        CONFIG.win_length,
        torch.hann_window(CONFIG.win_length),
        center=False,
        onesided=False,
        return_complex=True,
    )
    num_frames = waveform.shape[1] // CONFIG.hop_length
    return spectrum[..., :num_frames].abs().square().mean(dim=(1, 2))


def decibels(ratio: torch.Tensor) -> float:
    return float(10 * torch.log10(ratio))


@pytest.mark.parametrize("power", [1e-3, 1.0, 300.0])
def test_power_gain_gives_the_asked_power(gain, power):
    noise = torch.randn(1, NUM_FRAMES * CONFIG.hop_length)
    for waveform in (sine(440.0, 0.02), noise, voice()):
        scaled = gain(waveform, torch.tensor([power]))
        torch.testing.assert_close(stft_power(scaled), torch.tensor([power]), rtol=0.01, atol=0)


def test_white_noise_of_known_level_has_the_known_power(gain):
    """Mean |STFT|² of noise of variance σ² is σ² Σ window²."""
    noise = 0.1 * torch.randn(8, 30000, generator=torch.Generator().manual_seed(1))
    expected = 0.01 * torch.hann_window(CONFIG.win_length).square().sum()
    assert abs(decibels(stft_power(noise).mean() / expected)) < 0.15


@pytest.mark.parametrize(
    ("name", "waveform", "shortfall"),
    [
        ("voice", voice(), 0.3),
        ("low sine", sine(150.0, 0.1), 0.3),
        ("noise", 0.1 * torch.randn(1, 12000, generator=torch.Generator().manual_seed(0)), 1.0),
    ],
)
def test_power_in_a_log_mel_is_close_to_the_true_power(gain, name, waveform, shortfall):
    level = gain.levels(LogMel(CONFIG)(waveform))
    assert -shortfall < decibels(level / stft_power(waveform)) < 0.05, name


@pytest.mark.parametrize("amplitude", [0.001, 0.03, 1.0])
def test_power_gain_puts_back_the_level_of_what_was_analysed(gain, amplitude):
    speech = amplitude * voice()
    louder = gain(7.7 * speech, gain.levels(LogMel(CONFIG)(speech)))
    assert abs(decibels(louder.square().mean() / speech.square().mean())) < 0.3


def test_silence_comes_out_as_silence(gain):
    silence = torch.zeros(1, 3000)
    levels = gain.levels(LogMel(CONFIG)(silence))
    assert gain(torch.randn(1, 3000), levels).abs().max() < 1e-5
    for rule, level in ((gain, levels), (gain, levels * 0), (PeakGain(), levels * 0 + 0.9)):
        z = silence.clone().requires_grad_()
        y = rule(z, level)
        y.sum().backward()
        assert torch.equal(y.detach(), silence)
        assert torch.isfinite(z.grad).all()


def test_peak_gain_is_per_sample():
    waveform = torch.randn(3, 100) * torch.tensor([[1e-3], [1.0], [50.0]])
    rule = PeakGain()
    scaled = rule(waveform, rule.levels(torch.zeros(3, 2, 4)))
    torch.testing.assert_close(scaled.abs().amax(1), torch.full((3,), 0.9))
    torch.testing.assert_close(rule.target(waveform, waveform), scaled)


def test_first_noise_has_a_smooth_envelope_of_the_log_mel(gain):
    """White noise becomes noise that falls by 26 dB towards half the sample rate."""
    log_mel = LogMel(CONFIG)
    noise = torch.randn(2, 60001, generator=torch.Generator().manual_seed(0))
    dark = noise[:1, 1:] + 0.9 * noise[:1, :-1]
    features = log_mel(dark).mean(1, keepdim=True).expand(1, 200, -1)
    difference = (log_mel(gain.start(noise[1:, 1:], features)) - features)[:, 5:-5].mean(1)
    # 24 coefficients resolve 500 Hz, and the bins under the lowest band are empty.
    assert difference[:, 30:].abs().mean() < 0.2  # nepers


def test_griffin_lim_steps_approach_the_log_mel():
    log_mel = LogMel(CONFIG)
    features = log_mel(voice())
    noise = torch.randn(1, features.shape[1] * CONFIG.hop_length)
    errors = []
    for steps in (0, 1, 4):
        gain = PowerGain(CONFIG, griffin_lim_steps=steps)
        errors.append((log_mel(gain.start(noise, features)) - features).abs().mean())
    assert errors[1] < 0.6 * errors[0]
    assert errors[2] < errors[1]


def test_first_noise_of_a_flat_envelope_is_white_at_its_level(gain):
    """A log-mel of magnitudes all alike gives filters that are nearly constant: y = a ε."""
    magnitude = 5.0
    basis = LogMel(CONFIG).basis
    features = (basis.sum(1) * magnitude).log().expand(1, 100, -1)
    noise = torch.randn(1, 100 * CONFIG.hop_length, generator=torch.Generator().manual_seed(0))
    expected = magnitude / torch.hann_window(CONFIG.win_length).square().sum().sqrt()
    ratio = gain.start(noise, features).std() / (expected * noise.std())
    assert abs(20 * math.log10(ratio)) < 1.0


@pytest.mark.parametrize("steps", [0, 2])
def test_first_noise_depends_on_near_frames_only(steps):
    """So overlapping chunks start alike."""
    gain = PowerGain(CONFIG, griffin_lim_steps=steps)
    features = torch.randn(1, 60, CONFIG.n_mels)
    noise = torch.randn(1, 60 * CONFIG.hop_length)
    whole = gain.start(noise, features)
    part = gain.start(noise[:, 20 * CONFIG.hop_length :], features[:, 20:])
    near = 4 * (1 + steps)  # frames under one window, for each transform there and back
    inner = slice((20 + near) * CONFIG.hop_length, None), slice(near * CONFIG.hop_length, None)
    scale = whole.std()
    torch.testing.assert_close(
        whole[:, inner[0]] / scale, part[:, inner[1]] / scale, atol=1e-3, rtol=0
    )
