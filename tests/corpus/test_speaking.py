"""Lines of text that are to be spoken."""

from open_miipher.corpus.speaking import lines_of_file


def test_lines_end_where_editors_end_them_and_nowhere_else(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_bytes("\ufeffone\x0ctwo\u2028three\x85four\r\n\nfive\x1csix\n\n".encode())
    assert lines_of_file(path) == ["one\x0ctwo\u2028three\x85four", "", "five\x1csix", ""]
    path.write_bytes(b"one\rtwo")
    assert lines_of_file(path) == ["one", "two"]
