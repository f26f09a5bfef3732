"""Diagonal state-space layers (S4D): long convolutions with few parameters, without custom kernels.

Gu et al., "On the Parameterization and Initialization of Diagonal State Space Models" (NeurIPS
2022, arXiv 2206.11893).
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from open_miipher.base.precision import in_float32

_DT_RANGE = (1e-3, 1e-1)  # steps at the start, drawn evenly on a logarithmic scale


class S4D(nn.Module):
    """A bank of linear recurrences, computed as one convolution over the whole signal.

    Channel h gives y = k * u + D u with k[l] = 2 Re Σ_n C_n B_n (e^{Δ A_n} − 1) / A_n · e^{Δ A_n l}
    (zero-order hold; states come in conjugate pairs). At the start A_n is −1/2 + iπn (S4D-Lin).
    Backward in time, A and C are other parameters; B and Δ are shared.

    Args:
        width: channels.
        is_causal: leave out the direction that looks ahead.
        num_states: of each channel and direction, in pairs: an even number.
    """

    def __init__(self, width: int, is_causal: bool = False, num_states: int = 64) -> None:
        super().__init__()
        num_pairs, num_directions = num_states // 2, 1 if is_causal else 2
        low, high = map(math.log, _DT_RANGE)
        shape = (num_directions, width, num_pairs)
        self.log_dt = nn.Parameter(low + (high - low) * torch.rand(width))
        self.log_A_real = nn.Parameter(torch.full(shape, math.log(0.5)))
        self.A_imag = nn.Parameter((math.pi * torch.arange(num_pairs)).expand(shape).clone())
        self.B = nn.Parameter(torch.tensor([1.0, 0.0]).expand(width, num_pairs, 2).clone())
        self.C = nn.Parameter(torch.randn(*shape, 2) * math.sqrt(0.5))
        self.D = nn.Parameter(torch.randn(width))
        self._keeps = False
        self._kept: dict[int, Tensor] = {}

    @property
    def ssm_parameters(self) -> list[nn.Parameter]:
        """Those of the recurrences, which train at a rate of their own and do not decay."""
        return [self.log_dt, self.log_A_real, self.A_imag, self.B, self.C]

    def forward(self, x: Tensor) -> Tensor:
        """Filter signals: (batch, width, samples) -> the same, float32 whatever autocast says."""
        with in_float32(x.device):
            x = x.float()
            filtered = convolve(x, self.kernels(x.shape[-1]))
            return torch.addcmul(filtered, x, self.D[:, None])

    def kernels(self, num_samples: int) -> Tensor:
        """Return the impulse responses: (directions, width, num_samples) float32."""
        if num_samples in self._kept:
            return self._kept[num_samples]
        with in_float32(self.C.device):
            # Phases grow with the sample's number: what they are multiples of needs float64.
            rate = torch.complex(-self.log_A_real.double().exp(), self.A_imag.double())
            exponent = rate * self.log_dt.double().exp()[:, None]
            weights = torch.view_as_complex(self.C) * torch.view_as_complex(self.B)
            held = (exponent.exp() - 1) / rate
            made = 2 * power_series(weights * held.to(weights.dtype), exponent, num_samples)
        if self._keeps:
            self._kept[num_samples] = made
        return made

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Inside the block, where no parameter changes, compute each kernel once."""
        self._keeps = True
        try:
            yield
        finally:
            self._keeps, self._kept = False, {}


def power_series(weights: Tensor, exponents: Tensor, num_samples: int) -> Tensor:
    """Return Re Σ_n w_n e^{z_n l} for l = 0 … num_samples − 1.

    With l = a S + c and S ≈ √num_samples, e^{z l} = e^{z a S} · e^{z c}: two small tables and one
    product of matrices take the place of a table with a number for each state and sample.

    Args:
        weights: (…, states) complex64.
        exponents: (…, states) complex128.
        num_samples: length of the result.

    Returns:
        (…, num_samples) float32.
    """
    size = max(1, math.isqrt(num_samples))
    counts = torch.arange(size, device=weights.device)
    steps = torch.arange(-(-num_samples // size), device=weights.device) * size
    fine = _exponentials(exponents, counts)  # (…, states, size)
    coarse = weights[..., None] * _exponentials(exponents, steps)
    real = torch.cat([coarse.real, -coarse.imag], -2).transpose(-1, -2)
    product = real @ torch.cat([fine.real, fine.imag], -2)  # Re(xy) = Re x Re y − Im x Im y
    return product.flatten(-2)[..., :num_samples]


def _exponentials(exponents: Tensor, counts: Tensor) -> Tensor:
    """Return e^{z l} as complex64: (…, states) and (counts,) -> (…, states, counts)."""
    size = (exponents.real[..., None] * counts).float().exp()
    angle = torch.remainder(exponents.imag[..., None] * counts, 2 * math.pi).float()
    return torch.polar(size, angle)


def convolve(x: Tensor, kernels: Tensor) -> Tensor:
    """Convolve along time with what is before each sample, and with what is after it.

    y[t] = Σ_{j ≤ t} k₀[t − j] x[j] + Σ_{j > t} k₁[j − t − 1] x[j], by FFT.

    Args:
        x: (batch, width, samples) float32.
        kernels: (1 or 2, width, samples); with one, y does not depend on what comes after.

    Returns:
        (batch, width, samples) float32.
    """
    num_samples = x.shape[-1]
    size = fast_length(2 * num_samples)
    kernel = nn.functional.pad(kernels[0], (0, size - num_samples))
    if len(kernels) == 2:  # the time before 0 is at the end of the circle
        kernel = kernel + nn.functional.pad(kernels[1].flip(-1), (size - num_samples, 0))
    convolved: Tensor = _Circular.apply(x, kernel)
    return convolved


def fast_length(least: int) -> int:
    """Return the first number from `least` on without a prime factor above 5, which FFTs like.

    As scipy's `next_fast_len`, into which a compiler cannot look.
    """
    found = 1 << (least - 1).bit_length()
    fives = 1
    while fives < found:
        power = fives  # 5ⁱ 3ʲ
        while power < found:
            found = min(found, power << (-(-least // power) - 1).bit_length())
            power *= 3
        fives *= 5
    return found


class _Circular(torch.autograd.Function):
    """Circular convolution with a kernel of at least twice the length: (batch, width, samples).

    Its backward keeps the signal alone, and has transforms of real numbers; autograd's own keeps
    spectra of twice that size, and transforms complex numbers.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor) -> Tensor:
        """(batch, width, samples), (width, size) -> (batch, width, samples)."""
        ctx.save_for_backward(x, kernel)
        size = kernel.shape[-1]
        spectrum = torch.fft.rfft(x, size).mul_(torch.fft.rfft(kernel))
        return torch.fft.irfft(spectrum, size)[..., : x.shape[-1]].contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Correlate the gradient with the kernel, and with the signal."""
        x, kernel = ctx.saved_tensors
        size = kernel.shape[-1]
        with in_float32(x.device):
            of_output = torch.fft.rfft(gradient, size)
            of_kernel = torch.einsum("bhf,bhf->hf", of_output, torch.fft.rfft(x, size).conj())
            of_x = of_output.mul_(torch.fft.rfft(kernel).conj())
            to_x = torch.fft.irfft(of_x, size)[..., : x.shape[-1]]
            return to_x, torch.fft.irfft(of_kernel, size)
