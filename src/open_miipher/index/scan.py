"""Find the audio files under a directory and read their headers."""

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import active_children, get_context
from pathlib import Path
from threading import current_thread, main_thread

from open_miipher.audio.io import AUDIO_EXTENSIONS, AudioError, AudioInfo, AudioReader, probe
from open_miipher.audio.kinds import kind_of, passed_over
from open_miipher.base.errors import UserError, notice
from open_miipher.base.paths import printable, walk
from open_miipher.distributed import die_with_parent
from open_miipher.index.metadata import METADATA_NAME, Entry

_CHUNK = 16
_BLOCK_FRAMES = 1 << 18


@dataclass(frozen=True)
class Scan:
    """What a directory holds.

    Attributes:
        entries: the readable files, sorted by path.
        unreadable: (path relative to the root, reason naming the file), sorted by path.
    """

    entries: list[Entry]
    unreadable: list[tuple[str, str]]


def find_audio(
    root: str | Path, exts: Sequence[str] = AUDIO_EXTENSIONS, tells_rest: bool = False
) -> list[str]:
    """List the files with these extensions, in any case, in all folders under a directory.

    Symbolic links are followed, and a file that two links reach is listed under both names; a link
    to a folder that it lies in is not entered. Names that begin with a dot are left out:
    temporary files, and what file managers leave behind.

    Args:
        root: the directory.
        exts: lower case, without the dot.
        tells_rest: give a `Notice` that counts the other files, and says how to convert those that
            are audio or video.

    Returns:
        Sorted paths relative to the root, with forward slashes.

    Raises:
        UserError: not a directory, or it cannot be listed (see `walk`).
    """
    if not os.path.isdir(root):
        raise UserError(f"{printable(root)} is not a directory")
    suffixes = tuple(f".{ext}" for ext in exts)
    found, rest = [], Counter[str]()
    for folder, names in walk(str(root)):
        for name in names:
            if name.lower().endswith(suffixes):
                found.append(folder + name)
            elif name != METADATA_NAME:
                rest[kind_of(name)] += 1
    if rest and tells_rest:
        notice(passed_over(rest, root))
    return sorted(found)


def scan(
    root: str | Path,
    exts: Sequence[str] = AUDIO_EXTENSIONS,
    num_workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    whole: bool = False,
) -> Scan:
    """Find the audio files under a directory and look into each (see `audio.io.probe`).

    Args:
        root: the directory.
        exts: lower case, without the dot.
        num_workers: processes; with 1, none is started.
        progress: called with (files looked at, files found) from time to time.
        whole: decode every file whole, so that damage and NaN in its middle show.

    Raises:
        UserError: as `find_audio`, or a worker died.
    """
    paths = find_audio(root, exts, tells_rest=True)
    look = partial(_look, str(root), _decode if whole else probe)
    entries, unreadable = [], []
    looked_at = _map(look, paths, num_workers, 1 if whole else _CHUNK)
    for done, (file_path, found) in enumerate(looked_at, start=1):
        if isinstance(found, Entry):
            entries.append(found)
        else:
            unreadable.append((file_path, found))
        if progress is not None:
            progress(done, len(paths))
    return Scan(entries, unreadable)


def _map(
    look: Callable[[str], tuple[str, Entry | str]], paths: list[str], num_workers: int, chunk: int
) -> Iterator[tuple[str, Entry | str]]:
    if num_workers <= 1:
        yield from map(look, paths)
        return
    # spawned, not forked: the caller may have threads
    context, others = get_context("spawn"), active_children()
    with ProcessPoolExecutor(num_workers, context, die_with_parent) as pool:
        try:
            with _without_ctrl_c():  # which workers inherit: they have no handler yet
                found = pool.map(look, paths, chunksize=chunk)
            yield from found
        except BrokenProcessPool as error:
            raise UserError(
                "a worker died while reading (out of memory, or a file that crashes its decoder); "
                "try again with one worker"
            ) from error
        except BaseException:  # Ctrl-C, above all: nobody waits for what is under way
            for process in active_children():
                if process not in others:
                    process.kill()
            raise


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    if current_thread() is not main_thread():  # only that one gets it
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _decode(path: Path) -> AudioInfo:
    """Decode a file from its start to its end.

    Raises:
        AudioError: as `probe`, or it is damaged somewhere, or holds NaN or Inf.
    """
    with AudioReader(path) as reader:
        for _ in reader.blocks(_BLOCK_FRAMES):
            pass
        return reader.info


def _look(root: str, read: Callable[[Path], AudioInfo], file_path: str) -> tuple[str, Entry | str]:
    """Give (path, its entry or why there is none)."""
    try:
        file_path.encode()
    except UnicodeEncodeError:
        return file_path, f"{printable(file_path)}: its name is not UTF-8; rename it"
    try:
        info = read(Path(root, file_path))
    except AudioError as error:
        return file_path, str(error)
    return file_path, Entry(file_path, info.sample_rate, info.num_frames, info.num_channels)
