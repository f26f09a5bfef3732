"""Numbers, lengths of time and sizes, as people read them."""

import pytest

from open_miipher.base.amounts import counted, duration, size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (12.34, "12.3 s"),
        (59.96, "1.0 min"),
        (90, "1.5 min"),
        (3599, "1.00 h"),
        (4_444_200, "1,234.50 h"),
    ],
)
def test_a_duration_is_never_0_of_0_hours(seconds, text) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1234, "1.2 kB"),
        (999_960, "1.0 MB"),
        (5.44e6, "5.4 MB"),
        (1.2345e12, "1,234.5 GB"),
    ],
)
def test_a_size_is_never_0_of_0_megabytes(num_bytes, text) -> None:
    assert size(num_bytes) == text


def test_one_is_no_plural() -> None:
    assert [counted(1, things) for things in ("files", "batches")] == ["1 file", "1 batch"]
    assert [counted(number, "texts") for number in (0, 2000)] == ["0 texts", "2,000 texts"]
