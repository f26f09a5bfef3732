"""metadata.csv: written, read back, and refused with its rows named."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from open_miipher.base.errors import UserError
from open_miipher.index import Entry, columns, read_extra_columns, read_index, write_index
from open_miipher.index import rows as index_rows
from open_miipher.index.columns import check_path

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
    assert [path.name for path in tmp_path.iterdir()] == ["metadata.csv"]
    assert read_extra_columns(tmp_path)["a.wav"] == {"text": "", "speaker": ""}


@pytest.mark.parametrize(
    "name",
    [
        "talk\r.wav",
        "\r",
        "a\r\nb",
        "a\nb",
        'a"b',
        '"',
        " a ",
        "a, b",
        "\u2028\x85\x0b\x1c",
        "a;b\t#",
    ],
)
def test_any_name_is_read_as_it_was_written(tmp_path: Path, name: str) -> None:
    """A carriage return alone made an index that nothing could read, or make again."""
    write_index(tmp_path, [Entry(name, 8000, 1, 1, {"text": name})])
    assert [entry.file_path for entry in read_index(tmp_path)] == [name]
    assert read_extra_columns(tmp_path) == {name: {"text": name}}


def test_the_fingerprint_follows_what_matters(tmp_path: Path) -> None:
    def fingerprint(entry: Entry) -> str:
        write_index(tmp_path, [entry])
        return read_index(tmp_path).fingerprint

    entry = Entry("a.wav", 24000, 100, 1, {"text": "one"})
    others = [
        Entry("b.wav", 24000, 100, 1),
        Entry("a.wav", 16000, 100, 1),
        Entry("a.wav", 24000, 101, 1),
        Entry("a.wav", 24000, 100, 2),
    ]
    own = fingerprint(entry)
    assert fingerprint(replace(entry, extra={"text": "two"})) == own
    assert len({own, *map(fingerprint, others)}) == 5


def test_the_fingerprint_is_that_of_earlier_versions(tmp_path: Path) -> None:
    """A run resumes only on the fingerprint that its checkpoint holds."""
    rows = ["a.wav,24000,0100,1,one", "日本語/ä.flac,8000,123456789012,2,"]
    make(tmp_path, *rows, '"b/comma, ""quote"".wav",48000,1,8,', header=HEADER + ",text")
    expected = "3d393936839300dbcd7df92cfd8a73279b353f5082a2632ac1de7b52dc2b2f8f"
    assert read_index(tmp_path).fingerprint == expected


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
        ("b\0.wav,24000,100,1", "'b\\x00.wav' holds a NUL"),
        ('"b\0.wav",24000,100,1', "'b\\x00.wav' holds a NUL"),
        ("b.wav,0,100,1", "sample_rate is '0'"),
        ("b.wav,24000,-1,1", "num_frames is '-1'"),
        ("b.wav,24000,many,1", "num_frames is 'many'"),
        ("b.wav,24000,1e3,1", "num_frames is '1e3'"),
        ("b.wav,24000,100,", "num_channels is ''"),
        ("b.wav,24000,²,1", "num_frames is '²'"),
        ("b.wav,24000,000,1", "num_frames is '000'"),
        ("b.wav,2147483648,100,1", "sample_rate is '2147483648', more than 2147483647"),
        ("b.wav,24000,1000000000000000000000,1", "num_frames is '1000000000000000000000', more"),
        (".,24000,100,1", "'.' must be relative"),
        ('"",24000,100,1', "'' must be relative"),
        ("a/..,x,100,1", "'a/..' must be relative"),
        ("a.wav,24000,100,1", "'a.wav' stands twice"),
        ("a.wav,8000,7,2", "'a.wav' stands twice"),
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
    make(tmp_path, '"a.wav",24000,100,1', row)  # read by the csv module
    with pytest.raises(UserError) as quoted:
        read_index(tmp_path)
    assert str(quoted.value) == str(error.value)


def test_all_wrong_rows_come_at_once_ten_of_them_named(tmp_path: Path) -> None:
    make(tmp_path, *(f"../{n}.wav,24000,100,1" for n in range(12)))
    with pytest.raises(UserError) as error:
        read_index(tmp_path)
    message = str(error.value)
    assert "row 2:" in message
    assert "row 11:" in message
    assert "row 12:" not in message
    assert "… and 2 more" in message


def test_wrong_rows_of_several_kinds_come_in_the_order_of_the_rows(tmp_path: Path) -> None:
    make(
        tmp_path,
        "a.wav,1,1,1",
        "b.wav,1,x,1",
        "a.wav,1,1,1",
        "/c.wav,x,1,1",
        "b.wav,1,1,1",
        "a.wav,1,1,",
    )
    with pytest.raises(UserError) as error:
        read_index(tmp_path)
    path = tmp_path / "metadata.csv"
    assert str(error.value).splitlines()[1:] == [
        f"  - {path} row 3: num_frames is 'x', not a positive whole number",
        f"  - {path} row 4: 'a.wav' stands twice",
        f"  - {path} row 5: file_path '/c.wav' must be relative to the directory, without ..",
        f"  - {path} row 7: num_channels is '', not a positive whole number",
    ]


def test_what_looks_odd_and_is_right_is_read(tmp_path: Path) -> None:
    make(tmp_path, "a..b.wav,024000,00000000000000000000000000007,1", "c/.,1,1,1", "d./e,1,1,1")
    assert read_index(tmp_path).entries == [
        Entry("a..b.wav", 24000, 7, 1),
        Entry("c/.", 1, 1, 1),
        Entry("d./e", 1, 1, 1),
    ]


def test_line_ends_of_windows_and_a_missing_last_one(tmp_path: Path) -> None:
    expected = [Entry("a.wav", 1, 2, 3), Entry("b.wav", 4, 5, 6)]
    (tmp_path / "metadata.csv").write_bytes(f"{HEADER}\r\na.wav,1,2,3\r\nb.wav,4,5,6\r\n".encode())
    assert read_index(tmp_path).entries == expected
    (tmp_path / "metadata.csv").write_bytes(f"{HEADER}\na.wav,1,2,3\nb.wav,4,5,6".encode())
    assert read_index(tmp_path).entries == expected
    make(tmp_path, "a.wav,1,2,3", "", "b.wav,4,5,6")
    with pytest.raises(UserError, match="row 3 has 0 columns, the header 4"):
        read_index(tmp_path)


def test_of_two_columns_of_a_name_the_last_counts(tmp_path: Path) -> None:
    make(tmp_path, "x,1,a.wav,1,2,3,y", header=f"text,sample_rate,{HEADER},text")
    assert read_index(tmp_path).entries == [Entry("a.wav", 1, 2, 3, {"text": "y"})]


@pytest.mark.parametrize(
    ("paths", "ascend"),
    [
        (["a"], True),
        (["a", "a.", "a/b", "b"], True),
        (["a/" * 40 + "x", "a/" * 40 + "x0", "a/" * 40 + "y"], True),
        (["z", "ä", "日本語", "\U0001f600"], True),  # as Python sorts them
        (["a", "a"], False),
        (["b", "a"], False),
        (["a", "aa", "a"], False),
        (["a", "a\0"], False),  # not found to, though it does
        (["a", "b" * (index_rows.PADDING + 1)], False),
        (["", ""], False),
    ],
)
def test_only_paths_that_ascend_are_found_to(paths: list[str], ascend: bool) -> None:
    assert columns._ascends(index_rows._joined([[path] for path in paths]), 0) == ascend


@pytest.mark.parametrize("block", [1, 40, 10**6])
def test_a_path_that_stands_twice_is_found_wherever_it_stands(block: int, tmp_path: Path) -> None:
    """In rows that ascend, only the neighbours are compared, over the ends of blocks too."""
    paths = [f"{k:03d}.wav" for k in range(100)]
    with (
        mock.patch.object(index_rows, "_BLOCK_BYTES", block),
        mock.patch.object(columns, "_READ_ROWS", 7),
    ):
        with mock.patch.object(columns._Writer, "paths", None):  # nothing is read back
            read_index(make(tmp_path, *(f"{path},1,1,1" for path in paths)))
        for row, again in ((1, 0), (50, 49), (99, 98), (99, 0), (0, 99), (30, 70)):
            rows = [*paths[:row], paths[again], *paths[row:]]
            last = max(row, again + (again >= row)) + 2
            for extra in ("", ",text"):
                make(tmp_path, *(f"{path},1,1,1{extra}" for path in rows), header=HEADER + extra)
                with pytest.raises(UserError, match=f"row {last}: '{paths[again]}' stands twice"):
                    read_index(tmp_path)
        read_index(make(tmp_path, *(f"{path},1,1,1" for path in reversed(paths))))


def test_an_entry_is_asked_for_by_its_number(tmp_path: Path) -> None:
    index = read_index(make(tmp_path, "a.wav,1,2,3", "b.wav,4,5,6"))
    assert len(index) == 2
    assert index[1] == Entry("b.wav", 4, 5, 6)
    for number in (-1, 2):
        with pytest.raises(IndexError, match=f"no row {number}"):
            index[number]


_FIELDS = st.text('ab./,"\n\rä 01', max_size=6) | st.integers(-1, 30).map(str)
_PATHS = st.text("ab/ä", min_size=1, max_size=6) | st.sampled_from(
    ["a" * 80 + end for end in "xyz"]
)
_OWN = ("file_path", "sample_rate", "num_frames", "num_channels")
_HEADERS = (
    _OWN,
    (*_OWN, "text", "speaker"),
    ("text", *_OWN),
    ("file_path", "text", *_OWN[1:]),
    ("num_frames", "speaker", "num_channels", "sample_rate", "file_path"),
)


@st.composite
def _tables(draw: st.DrawFn) -> tuple[tuple[str, ...], list[list[str]]]:
    """Columns, and rows of which most can be right."""
    header = draw(st.sampled_from(_HEADERS))
    number = st.integers(1, 10**9).map(str)
    right = {"file_path": _PATHS, "text": _FIELDS, "speaker": _FIELDS}
    row = st.tuples(*(right.get(name, number) for name in header)).map(list)
    wrong = st.lists(_FIELDS, min_size=len(header), max_size=len(header))
    return header, draw(st.lists(row | row | row | wrong, max_size=12))


@given(
    table=_tables(),
    ordered=st.booleans(),
    quoted=st.booleans(),
    block=st.sampled_from([1, 50, 10**6]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_every_file_is_read_as_its_rows_one_by_one(
    table, ordered, quoted, block, tmp_path: Path
) -> None:
    """Against the plain loop over the csv module that this once was."""
    header, rows = table
    if ordered:
        rows.sort(key=lambda row: row[header.index("file_path")])
    path = tmp_path / "metadata.csv"
    with path.open("w", newline="") as file:
        if quoted:
            csv.writer(file).writerows([header, *rows])
        else:
            file.writelines(",".join(row) + "\n" for row in [header, *rows])
    with path.open(newline="") as file:
        try:
            read = list(csv.reader(file, strict=True))[1:]
        except csv.Error:
            read = [[]]
    with mock.patch.object(index_rows, "_BLOCK_BYTES", block):
        if any(len(row) != len(header) for row in read):
            with pytest.raises(UserError):
                read_index(tmp_path)
            return
        entries, problems = _one_by_one(header, read)
        if problems or not entries:
            with pytest.raises(UserError) as error:
                read_index(tmp_path)
            assert not problems or [f"{path} {p}" for p in problems[:10]] == [
                line.removeprefix("  - ")
                for line in str(error.value).splitlines()
                if " row " in line
            ]
            return
        index = read_index(tmp_path)
    assert index.entries == entries
    lines = [f"{e.file_path}\0{e.sample_rate},{e.num_frames},{e.num_channels}\n" for e in entries]
    assert index.fingerprint == sha256("".join(lines).encode()).hexdigest()
    texts = [text.encode() for e in entries for text in (e.file_path, *e.extra.values())]
    assert index.columns.texts.tobytes() == b"".join(texts)
    assert np.diff(index.columns.offsets).tolist() == [len(text) for text in texts]


def _one_by_one(header: Sequence[str], rows: list[list[str]]) -> tuple[list[Entry], list[str]]:
    """Return the entries, and the sentences on what is wrong."""
    entries, problems, seen = [], [], set()
    for number, fields in enumerate(rows, start=2):
        row = dict(zip(header, fields, strict=True))
        own = [row.pop(name) for name in _OWN]
        try:
            check_path(own[0])
            values = [_positive(name, text) for name, text in zip(_OWN[1:], own[1:], strict=True)]
            if own[0] in seen:
                raise ValueError(f"{own[0]!r} stands twice")
        except ValueError as error:
            problems.append(f"row {number}: {error}")
            continue
        seen.add(own[0])
        entries.append(Entry(own[0], *values, row))
    return entries, problems


def _positive(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ValueError(f"{name} is {text!r}, not a positive whole number")
    return int(text)


def test_no_directory_no_file_no_column_no_rows(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere is not a directory"):
        read_index(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"make_metadata_csv\.py --root-dir"):
        read_index(tmp_path)
    with pytest.raises(UserError, match="no column sample_rate, num_channels"):
        read_index(make(tmp_path, "a.wav,1", header="file_path,num_frames"))
    with pytest.raises(UserError, match="lists no files"):
        read_index(make(tmp_path))
    with pytest.raises(UserError, match="is empty; make the index with"):
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
