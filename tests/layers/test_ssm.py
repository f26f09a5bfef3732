import pytest
import torch
from scipy.fft import next_fast_len

from open_miipher.layers import ssm
from open_miipher.layers.ssm import S4D, convolve, fast_length


def recurrence(layer: S4D, num_samples: int) -> torch.Tensor:
    """The impulse responses by running the states, sample after sample, in float64."""
    rate = torch.complex(-layer.log_A_real.double().exp(), layer.A_imag.double())
    factor = torch.exp(rate * layer.log_dt.double().exp()[:, None])
    state = torch.view_as_complex(layer.B.double()) * (factor - 1) / rate
    weights = torch.view_as_complex(layer.C.double())
    heard = []
    for _ in range(num_samples):
        heard.append(2 * (weights * state).sum(-1).real)
        state = state * factor
    return torch.stack(heard, -1)


@pytest.mark.parametrize("num_samples", [1, 2, 17, 1000, 20000])
@pytest.mark.parametrize("is_causal", [True, False])
@torch.no_grad()
def test_kernels_are_what_the_recurrence_answers(num_samples, is_causal):
    torch.manual_seed(0)
    layer = S4D(4, is_causal)
    kernels = layer.kernels(num_samples)
    assert kernels.shape == (1 if is_causal else 2, 4, num_samples)
    assert kernels.dtype == torch.float32
    wanted = recurrence(layer, num_samples)
    torch.testing.assert_close(kernels.double(), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("num_samples", [1, 2, 31, 200])
@pytest.mark.parametrize("is_causal", [True, False])
@torch.no_grad()
def test_the_layer_is_the_sum_over_before_and_after(num_samples, is_causal):
    torch.manual_seed(1)
    layer = S4D(3, is_causal)
    x = torch.randn(2, 3, num_samples)
    kernels = recurrence(layer, num_samples)
    wanted = layer.D.double()[:, None] * x
    for t in range(num_samples):
        for j in range(num_samples):
            if j <= t:
                wanted[..., t] += kernels[0, :, t - j] * x[..., j]
            elif not is_causal:
                wanted[..., t] += kernels[1, :, j - t - 1] * x[..., j]
    torch.testing.assert_close(layer(x).double(), wanted, rtol=0, atol=1e-5)


def test_a_causal_layer_hears_nothing_of_what_comes():
    torch.manual_seed(0)
    layer, x = S4D(2, is_causal=True), torch.randn(1, 2, 50)
    changed = x.clone()
    changed[..., 30:] = 0
    torch.testing.assert_close(layer(changed)[..., :30], layer(x)[..., :30])
    assert not torch.allclose(layer(changed)[..., 30:], layer(x)[..., 30:])


def test_autocast_changes_nothing():
    torch.manual_seed(0)
    layer, x = S4D(2), torch.randn(1, 2, 64)
    with torch.autocast("cpu", torch.bfloat16):
        heard = layer(x)
    assert torch.equal(heard, layer(x))


def test_what_the_kernel_keeps_for_backward_is_less_than_the_activations():
    """By a table of every state and sample it would be 64 times as much."""
    layer, x = S4D(16), torch.randn(4, 16, 16000)
    kept = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer.kernels(x.shape[-1])
    assert sum(kept) < 2 * x.numel() * x.element_size()


def test_kernels_are_computed_once_while_they_are_kept(monkeypatch):
    computed = []

    def count(*arguments):
        computed.append(arguments[-1])
        return series(*arguments)

    series = ssm.power_series
    monkeypatch.setattr(ssm, "power_series", count)
    layer, x = S4D(2), torch.randn(1, 2, 40)
    with torch.no_grad(), layer.kept():
        first = layer(x)
        assert torch.equal(layer(x), first)
        assert computed == [40]
        layer(x[..., :20])
        assert computed == [40, 20]
    with torch.no_grad():
        layer.log_dt += 0.1
    assert not torch.allclose(layer(x), first)


def test_one_kernel_alone_is_a_plain_convolution():
    kernel, x = torch.randn(1, 1, 9), torch.randn(1, 1, 9)
    plain = torch.nn.functional.conv1d(x, kernel.flip(-1), padding=8)[..., :9]
    torch.testing.assert_close(convolve(x, kernel), plain)


def test_gradients_are_those_of_finite_differences():
    x = torch.randn(2, 2, 7, dtype=torch.float64, requires_grad=True)
    kernels = torch.randn(2, 2, 7, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 2, 7, dtype=torch.float64)

    def plain(x, kernels):
        lags = torch.arange(7)[:, None] - torch.arange(7)
        before, after = kernels[0][:, lags.clamp(min=0)], kernels[1][:, (-lags - 1).clamp(min=0)]
        return torch.einsum("htj,bhj->bht", torch.where(lags >= 0, before, after), x)

    torch.testing.assert_close(convolve(x, kernels), plain(x, kernels))
    ours = torch.autograd.grad((convolve(x, kernels) * weights).sum(), (x, kernels))
    theirs = torch.autograd.grad((plain(x, kernels) * weights).sum(), (x, kernels))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_transforms_have_the_length_that_scipy_takes():
    for least in (*range(1, 3000), 96_000, 123_457, 1_000_001):
        assert fast_length(least) == next_fast_len(least, real=True)
