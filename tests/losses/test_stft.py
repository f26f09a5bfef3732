import math

import pytest
import torch

from open_miipher.base.errors import UserError
from open_miipher.losses import MultiResolutionSTFTConfig, MultiResolutionSTFTLoss

MIIPHER = MultiResolutionSTFTConfig(win_lengths=[240, 600, 1200], hop_lengths=[50, 120, 240])


@pytest.fixture(params=[MultiResolutionSTFTConfig(), MIIPHER], ids=["wavefit", "miipher"])
def loss(request):
    return MultiResolutionSTFTLoss(request.param)


def waveforms(batch: int = 4) -> torch.Tensor:
    return 0.1 * torch.randn(batch, 5000, generator=torch.Generator().manual_seed(0))


def test_equal_waveforms_have_no_distance(loss):
    estimate = waveforms().requires_grad_()
    losses = loss(waveforms(), estimate)
    assert max(losses.values()) < 1e-6
    sum(losses.values()).backward()
    assert torch.isfinite(estimate.grad).all()


@pytest.mark.parametrize("factor", [0.5, 3.0, -3.0])
def test_a_scaled_copy_has_the_known_distance(loss, factor):
    """|S - aS| / |S| = |1 - |a|| and |log S - log aS| = |log |a||, at every resolution."""
    losses = loss(waveforms(), factor * waveforms())
    assert losses["stft_convergence"] == pytest.approx(abs(1 - abs(factor)), rel=1e-4)
    assert losses["stft_magnitude"] == pytest.approx(abs(math.log(abs(factor))), rel=1e-4)


def test_convergence_follows_the_definition():
    config = MultiResolutionSTFTConfig([64], [48], [16])
    target, estimate = waveforms(2)[:1], waveforms(2)[1:]
    window = torch.nn.functional.pad(torch.hann_window(48), (8, 8))

    def magnitude(waveform):
        frames = torch.nn.functional.pad(waveform, (32, 32)).unfold(1, 64, 16)
        return torch.fft.rfft(frames * window).abs()

    s, s_hat = magnitude(target), magnitude(estimate)
    losses = MultiResolutionSTFTLoss(config)(target, estimate)
    torch.testing.assert_close(losses["stft_convergence"], (s - s_hat).norm() / s.norm())
    expected = (s.log() - s_hat.log()).abs().mean()
    torch.testing.assert_close(losses["stft_magnitude"], expected, atol=1e-4, rtol=1e-4)


def test_mean_over_halves_is_the_whole_in_value_and_gradient(loss):
    target = waveforms() * torch.tensor([[1e-3], [0.1], [1.0], [3.0]])
    start = waveforms().flip(0)
    whole = start.clone().requires_grad_()
    joined = sum(loss(target, whole).values())
    joined.backward()
    halves = start.clone().requires_grad_()
    parts = [sum(loss(target[rows], halves[rows]).values()) for rows in ([0, 1], [2, 3])]
    torch.testing.assert_close(sum(parts) / 2, joined)
    (sum(parts) / 2).backward()
    torch.testing.assert_close(halves.grad, whole.grad)


def test_stacked_iterations_are_the_mean_of_each(loss):
    target, first, second = waveforms(), waveforms().flip(0), 0.3 * waveforms().flip(1)
    stacked = loss(target, torch.stack([first, second]))
    for name, value in stacked.items():
        torch.testing.assert_close(
            value, (loss(target, first)[name] + loss(target, second)[name]) / 2
        )


def test_silence_is_safe(loss):
    """Digital silence as target, as estimate, and as both, beside a sample that is not."""
    target = torch.cat([torch.zeros(2, 3000), waveforms(2)[:, :3000]])
    estimate = torch.stack([*waveforms(2)[:, :3000], torch.zeros(3000), torch.zeros(3000)])
    estimate[1] = 0
    estimate.requires_grad_()
    losses = loss(target, estimate)
    sum(losses.values()).backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert torch.isfinite(estimate.grad).all()
    assert losses["stft_convergence"] < 1.01  # (0 + 0 + 1 + 1) / 4: no silent target explodes


def test_the_floor_is_that_of_a_sine(loss):
    """A sine at the floor raises the magnitude in its bin by 3 dB; far below, nothing counts."""
    config = MultiResolutionSTFTConfig([1024], [1024], [256], floor_db=-60.0)
    measure = MultiResolutionSTFTLoss(config)
    sine = 1e-3 * torch.sin(2 * math.pi * 64 / 1024 * torch.arange(8192.0))[None]
    magnitude = measure._magnitude(sine, 1024, 1024, 256, measure._floor(1024))
    assert magnitude[0, 64, 16] == pytest.approx(2**0.5 * 1e-3 * 256, rel=1e-3)
    quiet = 1e-7 * waveforms()
    assert loss(quiet, 3 * quiet)["stft_magnitude"] < 1e-4
    assert loss(quiet, 3 * quiet)["stft_convergence"] == 0


@pytest.mark.parametrize("num_samples", [1, 100, 513])
def test_short_waveforms_are_measured(loss, num_samples):
    losses = loss(waveforms()[:, :num_samples], 2 * waveforms()[:, :num_samples])
    assert losses["stft_convergence"] == pytest.approx(1.0, abs=0.01)


def test_zeros_at_the_end_are_no_distance(loss):
    padded = [torch.nn.functional.pad(x, (0, 4000)) for x in (waveforms(), 2 * waveforms())]
    assert loss(*padded)["stft_convergence"] == pytest.approx(1.0, rel=1e-4)


def test_autocast_does_not_reach_the_transform(loss):
    with torch.autocast("cpu", torch.bfloat16):
        losses = loss(waveforms(), waveforms().flip(0))
    exact = loss(waveforms(), waveforms().flip(0))
    assert losses == exact


def test_resolutions_must_match():
    with pytest.raises(UserError, match="3, 2, 3"):
        MultiResolutionSTFTLoss(MultiResolutionSTFTConfig(win_lengths=[1, 2]))
