"""The blockwise convolution against numpy's."""

import numpy as np
import pytest

from open_miipher.degradation.filtering import convolve


@pytest.mark.parametrize("num_samples", [1, 2, 99, 100, 101, 5000])
@pytest.mark.parametrize("num_taps", [1, 2, 64, 301])
def test_equals_numpy_at_any_length_and_delay(num_samples, num_taps):
    rng = np.random.default_rng(num_samples + num_taps)
    waveform = rng.standard_normal(num_samples).astype(np.float32)
    kernel = rng.standard_normal(num_taps).astype(np.float32)
    full = np.pad(np.convolve(waveform, kernel), (0, num_samples))
    for delay in {0, num_taps // 2, num_taps - 1}:
        result = convolve(waveform, kernel, delay)
        assert result.dtype == np.float32
        assert np.allclose(result, full[delay : delay + num_samples], atol=2e-4)
