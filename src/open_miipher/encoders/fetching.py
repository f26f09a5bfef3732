"""Fetch only the audio tower of a multimodal checkpoint from the hub.

The tower's tensors are requested by their byte ranges in the checkpoint's safetensors files. They
are written into a safetensors file of their own, in a folder below HF_HOME, where
`pretrained.find_file` looks first. An interrupted fetch continues where it stopped.
"""

import json
import os
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_miipher.base.errors import UserError
from open_miipher.distributed import hold

TOWER = "audio_tower."
"""Part of the names of the tower's tensors, and of no other tensor's."""

WEIGHTS = "model.safetensors"
_LONGEST_HEADER = 100_000_000  # bytes, as the format allows
_TIMEOUT, _TRIES, _BETWEEN_TRIES = 60.0, 4, 1.0  # s


@dataclass(frozen=True)
class Tensor:
    """The place of one of the wanted tensors in the checkpoint.

    Attributes:
        name: name in the checkpoint.
        dtype: type, by safetensors' name.
        shape: dimensions.
        file: the checkpoint's file that contains it.
        start: its first byte in that file.
        end: the byte after its last.
    """

    name: str
    dtype: str
    shape: list[int]
    file: str
    start: int
    end: int


class NoRanges(UserError):
    """The server sends whole files only."""


def tower_folder(source: str) -> Path:
    """Return the folder for the tower of a hub model; it need not exist."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "open-miipher-2" / source.replace("/", "--")


def fetch_tower(
    source: str, revision: str, files: list[str], say: Callable[[str], None]
) -> Path | None:
    """Fetch a tower.

    Args:
        source: hub id of a checkpoint with safetensors files.
        revision: the commit to take it from.
        files: the checkpoint's files that may contain tensors of the tower.
        say: is called with a line of progress.

    Returns:
        The tower's folder; None if the checkpoint is a tower alone, which is needed as a whole.

    Raises:
        NoRanges: the server does not send parts of files.
        UserError: the disk has no room, or another process is fetching the same tower.
        HTTPError: of `huggingface_hub.errors`: the hub refuses or cannot be reached.
        OSError: writing failed.
    """
    from huggingface_hub import hf_hub_download, hf_hub_url

    urls = {file: hf_hub_url(source, file, revision=revision) for file in files}
    tensors = [t for file in files for t in _tensors(urls[file], file) if TOWER in t.name]
    if not tensors:
        return None
    tensors.sort(key=lambda tensor: (tensor.file, tensor.start))
    folder = tower_folder(source)
    lock = hold(folder)
    try:
        config = hf_hub_download(source, "config.json", revision=revision)
        shutil.copyfile(config, folder / "config.json")
        header = _header(tensors, {"format": "pt", "source": source, "revision": revision})
        ranges = [(urls[file], start, end) for file, start, end in _joined(tensors)]
        _complete(folder / WEIGHTS, header, ranges, say)
    finally:
        lock.close()
    return folder


def _tensors(url: str, file: str) -> Iterator[Tensor]:
    """Read a safetensors file's header: 8 bytes of length, then JSON."""
    length = struct.unpack("<Q", b"".join(_read(url, 0, 8)))[0]
    if length > _LONGEST_HEADER:
        raise UserError(f"{url} is no safetensors file")
    header = json.loads(b"".join(_read(url, 8, 8 + length)))
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            yield Tensor(name, entry["dtype"], entry["shape"], file, start, end)


def _header(tensors: list[Tensor], metadata: dict[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": metadata}
    place = 0
    for tensor in tensors:
        size = tensor.end - tensor.start
        entries[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": [place, place + size],
        }
        place += size
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _joined(tensors: list[Tensor]) -> list[tuple[str, int, int]]:
    """Return (file, start, end) of the sorted tensors; adjacent ones become one range."""
    joined: list[tuple[str, int, int]] = []
    for tensor in tensors:
        if joined and joined[-1][0] == tensor.file and joined[-1][2] == tensor.start:
            joined[-1] = (tensor.file, joined[-1][1], tensor.end)
        else:
            joined.append((tensor.file, tensor.start, tensor.end))
    return joined


def _complete(
    path: Path, header: bytes, ranges: list[tuple[str, int, int]], say: Callable[[str], None]
) -> None:
    """Write a file, continuing a partial one; it gets its name once it is complete."""
    if path.exists() and _begins_with(path, header):
        return
    partial = path.with_name(f"{path.name}.partial")
    if not _begins_with(partial, header):  # there is none, or it is of another commit
        partial.write_bytes(header)
    total = len(header) + sum(end - start for _, start, end in ranges)
    free = shutil.disk_usage(partial).free
    if total - partial.stat().st_size > free:
        raise UserError(
            f"{path.parent} has {free / 1e6:,.0f} MB free and {total / 1e6:,.0f} MB are to come; "
            "make room, or name another folder by --dir"
        )
    failures = 0
    while (size := partial.stat().st_size) < total:
        say(f"{size / 1e6:,.0f} of {total / 1e6:,.0f} MB")
        problem = _append(partial, ranges, size - len(header))
        if partial.stat().st_size == total:
            break
        failures = failures + 1 if partial.stat().st_size == size else 1
        if failures >= _TRIES:
            raise problem or UserError(f"{ranges[0][0]} ends before its last tensor does")
        time.sleep(_BETWEEN_TRIES)
    os.replace(partial, path)


def _append(partial: Path, ranges: list[tuple[str, int, int]], done: int) -> Exception | None:
    """Append what is missing after `done` bytes; return the error if the connection broke."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    with partial.open("ab") as file:
        for url, start, end in ranges:
            skipped = min(done, end - start)
            done -= skipped
            try:
                for block in _read(url, start + skipped, end):
                    file.write(block)
            except HfHubHTTPError:
                raise
            except HTTPError as error:
                return error
        file.flush()
        os.fsync(file.fileno())
    return None


def _read(url: str, start: int, end: int) -> Iterator[bytes]:
    """Yield the bytes start … end - 1 of a file of the hub."""
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    if start >= end:
        return
    headers = {**build_hf_headers(), "Range": f"bytes={start}-{end - 1}"}
    headers["Accept-Encoding"] = "identity"
    with get_session().stream("GET", url, headers=headers, timeout=_TIMEOUT) as response:
        hf_raise_for_status(response)
        if response.status_code != 206:
            raise NoRanges(f"{url} is sent as a whole only")
        yield from response.iter_bytes()


def _begins_with(path: Path, header: bytes) -> bool:
    if not path.exists():
        return False
    with path.open("rb") as file:
        return file.read(len(header)) == header
