"""metadata.csv: written, read back, and refused with its rows named."""

from pathlib import Path

import pytest

from open_miipher.base.errors import UserError
from open_miipher.index import Entry, Index, read_extra_columns, read_index, write_index

HEADER = "file_path,sample_rate,num_frames,num_channels"


def make(root: Path, *rows: str, header: str = HEADER) -> Path:
    (root / "metadata.csv").write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    return root


def test_what_is_written_is_read(tmp_path: Path) -> None:
    entries = [
        Entry('b/comma, "quote"\nnewline\r.wav', 48000, 1, 2, {"text": 'say "yes",\nplease'}),
        Entry("日本語/ä.flac", 8000, 123, 1, {"speaker": "7"}),
        Entry("a.wav", 24000, 24000, 1),
    ]
    assert write_index(tmp_path, entries) == tmp_path / "metadata.csv"
    index = read_index(tmp_path)
    assert [entry.file_path for entry in index.entries] == [
        "a.wav",
        'b/comma, "quote"\nnewline\r.wav',
        "日本語/ä.flac",
    ]
    assert index.entries[0].extra == {"text": "", "speaker": ""}
    assert index.entries[1].extra == {"text": 'say "yes",\nplease', "speaker": ""}
    assert (index.entries[2].sample_rate, index.entries[2].num_frames) == (8000, 123)
    assert index.num_seconds == pytest.approx(1 + 1 / 48000 + 123 / 8000)
    assert [path.name for path in tmp_path.iterdir()] == ["metadata.csv"]
    assert read_extra_columns(tmp_path)["a.wav"] == {"text": "", "speaker": ""}


def test_the_fingerprint_follows_what_matters() -> None:
    entry = Entry("a.wav", 24000, 100, 1, {"text": "one"})
    same = Entry("a.wav", 24000, 100, 1, {"text": "two"})
    others = [
        Entry("b.wav", 24000, 100, 1),
        Entry("a.wav", 16000, 100, 1),
        Entry("a.wav", 24000, 101, 1),
        Entry("a.wav", 24000, 100, 2),
    ]
    fingerprint = Index(Path("x"), [entry]).fingerprint
    assert Index(Path("y"), [same]).fingerprint == fingerprint
    all_of_them = {Index(Path("x"), [other]).fingerprint for other in others}
    assert len(all_of_them | {fingerprint}) == 5


def test_columns_may_stand_in_any_order_and_after_a_byte_order_mark(tmp_path: Path) -> None:
    header = "\ufeffspeaker,num_frames,file_path,num_channels,sample_rate"
    make(tmp_path, "7,100,a.wav,1,24000", header=header)
    assert read_index(tmp_path).entries == [Entry("a.wav", 24000, 100, 1, {"speaker": "7"})]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("/etc/a.wav,24000,100,1", "'/etc/a.wav' must be relative"),
        ("a/../../b.wav,24000,100,1", "without .."),
        (",24000,100,1", "must be relative"),
        ("b.wav,0,100,1", "sample_rate is '0'"),
        ("b.wav,24000,-1,1", "num_frames is '-1'"),
        ("b.wav,24000,many,1", "num_frames is 'many'"),
        ("b.wav,24000,1e3,1", "num_frames is '1e3'"),
        ("b.wav,24000,100,", "num_channels is ''"),
        ("a.wav,24000,100,1", "'a.wav' stands twice"),
        ("b.wav,24000,100", "has 3 columns, the header 4"),
        ("b.wav,24000,100,1,x", "has 5 columns, the header 4"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, row: str, reason: str) -> None:
    make(tmp_path, "a.wav,24000,100,1", row)
    with pytest.raises(UserError) as error:
        read_index(tmp_path)
    assert "metadata.csv row 3" in str(error.value)
    assert reason in str(error.value)


def test_all_wrong_rows_come_at_once_ten_of_them_named(tmp_path: Path) -> None:
    make(tmp_path, *(f"../{n}.wav,24000,100,1" for n in range(12)))
    with pytest.raises(UserError) as error:
        read_index(tmp_path)
    message = str(error.value)
    assert "row 2:" in message
    assert "row 11:" in message
    assert "row 12:" not in message
    assert "… and 2 more" in message


def test_no_directory_no_file_no_column_no_rows(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere is not a directory"):
        read_index(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"make_metadata_csv\.py --root-dir"):
        read_index(tmp_path)
    with pytest.raises(UserError, match="no column sample_rate, num_channels"):
        read_index(make(tmp_path, "a.wav,1", header="file_path,num_frames"))
    with pytest.raises(UserError, match="lists no files"):
        read_index(make(tmp_path))
    with pytest.raises(UserError, match="no column file_path"):
        read_index(make(tmp_path, header=""))
    (tmp_path / "metadata.csv").write_bytes(b"file_path\n\xff\xfe")
    with pytest.raises(UserError, match="not CSV in UTF-8"):
        read_extra_columns(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_index(tmp_path, [Entry("a.wav", 24000, 100, 1)])
    before = (tmp_path / "metadata.csv").read_bytes()
    with pytest.raises(UnicodeEncodeError):
        write_index(tmp_path, [Entry("\udcff.wav", 24000, 100, 1)])
    assert (tmp_path / "metadata.csv").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["metadata.csv"]
    with pytest.raises(UserError, match="cannot be written: No such file"):
        write_index(tmp_path / "nowhere", [Entry("a.wav", 24000, 100, 1)])
