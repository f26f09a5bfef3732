import pytest

from open_miipher.evaluation.tables import format_table


def test_text_goes_to_the_left_and_numbers_to_the_right() -> None:
    rows = [["a.wav", "3.1", "fine"], ["long name.wav", "-", "not so"], ["b.wav", "-inf", ""]]
    assert format_table(["file", "dB", "says"], rows) == (
        "file             dB  says\n"
        "-------------  ----  ------\n"
        "a.wav           3.1  fine\n"
        "long name.wav     -  not so\n"
        "b.wav          -inf"
    )  # fmt: skip
    assert format_table(["file"], []) == "file\n----"


def test_a_row_with_another_number_of_cells_is_refused() -> None:
    with pytest.raises(ValueError, match="2 cells"):
        format_table(["file", "dB"], [["a.wav"]])
