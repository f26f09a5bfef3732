import pytest

from open_miipher.evaluation.tables import format_table


def test_columns_are_aligned_names_left_numbers_right() -> None:
    assert format_table(["file", "dB"], [["a.wav", "3.1"], ["long name.wav", "-12.0"]]) == (
        "file              dB\n"
        "-------------  -----\n"
        "a.wav            3.1\n"
        "long name.wav  -12.0"
    )  # fmt: skip


def test_a_row_with_another_number_of_cells_is_refused() -> None:
    with pytest.raises(ValueError, match="2 cells"):
        format_table(["file", "dB"], [["a.wav"]])
