"""Fourier transforms as torch's, and in a form that ONNX holds while a graph is exported.

ONNX's own transform is slow in onnxruntime where the length is no power of two, and it has no
exponential of complex numbers. In a graph, such transforms are matrix products.
"""

import math

import torch
from torch import Tensor


def rfft(x: Tensor, n: int) -> Tensor:
    """As `torch.fft.rfft`: (…, m) real, m ≤ n, with zeros behind -> (…, n / 2 + 1) complex."""
    if not _as_product(n):
        return torch.fft.rfft(x, n)
    cosine, sine = _waves(x.shape[-1], n, x.device)
    return torch.complex(x @ cosine, -(x @ sine))


def irfft(spectrum: Tensor, n: int) -> Tensor:
    """As `torch.fft.irfft` of an even n: (…, n / 2 + 1) complex -> (…, n) real."""
    if not _as_product(n):
        return torch.fft.irfft(spectrum, n)
    cosine, sine = _waves(n, n, spectrum.device)
    bins = torch.arange(n // 2 + 1, device=spectrum.device)
    # Every bin but the first and the last stands for its mirror image, too.
    shares = (1 + ((bins > 0) & (bins < n // 2)).float()) / n
    return (spectrum.real * shares) @ cosine.T - (spectrum.imag * shares) @ sine.T


def exp(x: Tensor) -> Tensor:
    """As `torch.exp` of complex numbers."""
    if not torch.compiler.is_exporting():
        return torch.exp(x)
    size = torch.exp(x.real)
    return torch.complex(size * torch.cos(x.imag), size * torch.sin(x.imag))


def magnitude(spectrum: Tensor) -> Tensor:
    """As `abs` of complex numbers, four times as fast on a CPU; it has no gradient at 0.

    The square of what is below 1e-19 is 0.
    """
    real, imaginary = spectrum.real, spectrum.imag
    return (real * real + imaginary * imaginary).sqrt()


def _as_product(n: int) -> bool:
    return torch.compiler.is_exporting() and n & (n - 1) != 0


def _waves(size: int, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of every bin, (size, n / 2 + 1) each.

    They are computed in the graph, so that no file holds them.
    """
    places = torch.arange(size, device=device)[:, None]
    bins = torch.arange(n // 2 + 1, device=device)
    angles = (places * bins % n).float() * (2 * math.pi / n)
    return angles.cos(), angles.sin()
