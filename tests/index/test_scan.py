"""Scanning a tree: links, loops, names, bad files; verifying an index against its files."""

import contextlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from open_miipher.base.errors import Notice, UserError
from open_miipher.index import Entry, find_audio, read_index, scan, verify_index, write_index


def write(
    path: Path, num_frames: int = 100, rate: int = 8000, num_channels: int = 1, **how
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full((num_frames, num_channels), 0.1), rate, **how)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Good files, links, a loop, and things that are no audio."""
    root = tmp_path / "root"
    write(root / "b.wav", 200, 16000, 2)
    write(root / "a" / "deep" / "er" / "日本語, ä.flac")
    write(root / "a" / "UPPER.WAV")
    write(tmp_path / "elsewhere" / "c.wav")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "again.wav").symlink_to("../b.wav")
    (root / "a" / "loop").symlink_to("..")
    (root / "a" / "self").symlink_to("self")
    (root / "notes.txt").write_text("no audio")
    write(root / ".b.wav.123.tmp.wav")
    write(root / ".hidden" / "d.wav")
    (root / "folder.wav").mkdir()
    return root


GOOD = ["a/UPPER.WAV", "a/again.wav", "a/deep/er/日本語, ä.flac", "b.wav", "linked/c.wav"]


def test_files_are_found_once_for_each_name(tree: Path) -> None:
    assert find_audio(tree) == GOOD
    assert find_audio(tree, ("flac",)) == ["a/deep/er/日本語, ä.flac"]
    assert find_audio(str(tree), ("txt",)) == ["notes.txt"]


def test_mutual_links_end(tmp_path: Path) -> None:
    write(tmp_path / "one" / "a.wav")
    write(tmp_path / "two" / "b.wav")
    (tmp_path / "one" / "link").symlink_to(tmp_path / "two")
    (tmp_path / "two" / "link").symlink_to(tmp_path / "one")
    assert find_audio(tmp_path) == ["one/a.wav", "one/link/b.wav", "two/b.wav", "two/link/a.wav"]


def test_what_cannot_be_listed_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere is not a directory"):
        find_audio(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is not a directory"):
        find_audio(write(tmp_path / "a.wav"))


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file beside one that may not be listed, also where root runs the tests."""
    write(tmp_path / "in" / "a.wav")
    folder = tmp_path / "in" / "lost+found"
    folder.mkdir(mode=0)
    scandir = os.scandir

    def refusing(path):
        if str(path) == str(folder):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    return folder


def test_a_folder_that_may_not_be_listed_is_told_and_the_rest_is_found(locked: Path) -> None:
    with pytest.warns(Notice, match=r"lost\+found cannot be listed: Permission denied; what lies"):
        assert find_audio(locked.parent) == ["a.wav"]
    with pytest.raises(UserError, match=r"lost\+found cannot be listed: Permission denied"):
        find_audio(locked)


def test_what_may_be_listed_but_not_looked_at_is_not_passed_over(tmp_path, monkeypatch) -> None:
    write(tmp_path / "a.wav")

    class Entry:
        name, path = "a.wav", str(tmp_path / "a.wav")

        def refuse(self):
            raise PermissionError(13, "Permission denied", self.path)

        is_dir = is_file = is_symlink = refuse

    monkeypatch.setattr(os, "scandir", lambda path: contextlib.nullcontext([Entry()]))
    assert find_audio(tmp_path) == ["a.wav"]


def test_other_kinds_of_files_are_counted_and_the_mend_is_told(tmp_path: Path) -> None:
    root = tmp_path / "my files"
    for name in ("a.oga", "b.caf", "c.wave", "d.WAV", "e.aifc"):
        write(root / name, format="WAV")
    for name in ("t.gsm", "d/t.GSM", "t.dss", "t.m4p", "t.vox", "x.txt", "README", "metadata.csv"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("")
    with pytest.warns(Notice) as told:
        assert len(scan(root).entries) == 5
    assert [str(one.message) for one in told] == [
        f"7 files of other kinds are passed over in {root}: 1 dss, 2 gsm, 1 m4p, 1 vox, 1 txt, "
        "1 without an extension; to have the audio among them, convert it: find "
        f"'{root}' -type f \\( -iname '*.dss' -o -iname '*.gsm' -o -iname '*.m4p' -o -iname "
        "'*.vox' \\) -exec ffmpeg -nostdin -n -i {} -vn {}.flac \\;"
    ]


def test_what_is_readable_and_not_looked_for_is_counted_too(tree: Path) -> None:
    with pytest.warns(
        Notice,
        match="6 files of other kinds are passed over .*: 1 txt, 4 wav, 1 without an extension$",
    ):
        find_audio(tree, ("flac",), tells_rest=True)


@pytest.mark.parametrize(("extension", "how"), [
    ("oga", {"format": "OGG", "subtype": "VORBIS"}),
    ("caf", {"format": "CAF", "subtype": "PCM_24"}),
    ("wave", {"format": "WAV"}),
    ("aifc", {"format": "AIFF", "subtype": "ALAW"}),
    ("rf64", {"format": "RF64"}),
    ("w64", {"format": "W64"}),
    ("au", {"format": "AU", "subtype": "ULAW"}),
    ("snd", {"format": "AU", "subtype": "PCM_16"}),
    ("sph", {"format": "NIST", "subtype": "PCM_16"}),
])  # fmt: skip
def test_rarer_kinds_are_read_and_refused_where_they_are_cut(tmp_path, extension, how) -> None:
    path = tmp_path / f"a.{extension}"
    soundfile.write(path, np.sin(np.arange(20000) / 9), 16000, **how)
    (tmp_path / f"cut.{extension}").write_bytes(path.read_bytes()[:-3000])
    found = scan(tmp_path)
    assert [(e.file_path, e.num_frames) for e in found.entries] == [(path.name, 20000)]
    assert [name for name, _ in found.unreadable] == [f"cut.{extension}"]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_unreadable_files_are_listed_with_the_reason(tree: Path, num_workers: int) -> None:
    (tree / "empty.wav").write_bytes(b"")
    os.truncate(write(tree / "short.flac", 50_000), 200)
    (tree / "gone.wav").symlink_to("nowhere.wav")
    (tree / "turns.wav").symlink_to("turns.wav")
    (tree / os.fsdecode(b"caf\xe9.wav")).write_bytes((tree / "b.wav").read_bytes())
    write(tree / "none.wav", 0)
    calls: list[tuple[int, int]] = []
    found = scan(tree, num_workers=num_workers, progress=lambda *call: calls.append(call))
    assert [entry.file_path for entry in found.entries] == GOOD
    assert found.entries[3] == Entry("b.wav", 16000, 200, 2)
    assert found.entries[1] == Entry("a/again.wav", 16000, 200, 2)
    expected = {
        os.fsdecode(b"caf\xe9.wav"): "caf\\xe9.wav: its name is not UTF-8",
        "empty.wav": "empty.wav cannot be opened as audio",
        "gone.wav": "gone.wav: No such file",
        "none.wav": "none.wav holds no audio frames",
        "short.flac": "short.flac is damaged",
        "turns.wav": "turns.wav: Too many levels of symbolic links",
    }
    assert sorted(expected) == [file_path for file_path, _ in found.unreadable]
    for file_path, reason in found.unreadable:
        assert expected[file_path] in reason
    assert calls == [(done, 11) for done in range(1, 12)]


def test_scanning_leaves_the_tree_alone(tree: Path) -> None:
    before = sorted(str(path) for path in tree.rglob("*"))
    scan(tree)
    assert sorted(str(path) for path in tree.rglob("*")) == before


def test_a_true_index_is_verified(tree: Path) -> None:
    write_index(tree, scan(tree).entries)
    index = read_index(tree)
    assert verify_index(index) is None
    assert verify_index(index, limit=2) is None


def test_every_difference_is_named_with_its_row(tree: Path) -> None:
    entries = scan(tree).entries
    wrong = [
        replace(entries[0], num_frames=99),
        replace(entries[1], sample_rate=8000, num_channels=1),
        replace(entries[2], file_path="vanished.wav"),
        entries[4],
    ]
    write_index(tree, wrong)
    with pytest.raises(UserError) as error:
        verify_index(read_index(tree))
    lines = str(error.value).splitlines()
    assert len(lines) == 4
    assert "row 2: a/UPPER.WAV: num_frames is 99, the file's is 100" in lines[1]
    assert "row 3" in lines[2]
    assert (
        "sample_rate is 8000, the file's is 16000, num_channels is 1, the file's is 2" in lines[2]
    )
    assert "row 5" in lines[3]
    assert "vanished.wav: No such file" in lines[3]


def test_ten_differences_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    write_index(tmp_path, [Entry(f"{n:02d}.wav", 8000, 100, 1) for n in range(25)])
    index = read_index(tmp_path)
    with pytest.raises(UserError) as error:
        verify_index(index)
    assert str(error.value).count("No such file") == 10
    assert "… and 15 more" in str(error.value)
    with pytest.raises(UserError) as error:
        verify_index(index, limit=5)
    rows = [f"row {row}:" in str(error.value) for row in range(2, 27)]
    assert [row for row, there in enumerate(rows, start=2) if there] == [2, 7, 12, 17, 22]
