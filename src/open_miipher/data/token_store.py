"""Texts with the tokens of speech that says them: made once by a codec, then read from a map.

    OUTPUT/tokens/KEY/
        identity.json     what the tokens depend on; KEY is its hash
        parts/            what each rank has made so far; gone at the end
        codes.npy         (frames, codebooks) int16, of all utterances, one after the other
        code_ends.npy     (items,) int64, where each item's frames end
        texts.npy         (bytes,) uint8, UTF-8 of all texts; names.npy likewise, of their files
        text_ends.npy     (utterances,) int64; name_ends.npy likewise
        done.json         written last: utterances, copies of each, what was left out

Items are utterances, each with its copies behind it. Nothing of this is in memory but the pages
that are read, which all processes share.
"""

import hashlib
import json
import shutil
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from open_miipher.base.atomic import remove_leftovers, replacing, write_lines
from open_miipher.base.errors import UserError
from open_miipher.base.noise import stream_keys, white_noise
from open_miipher.base.paths import file_stamp, printable
from open_miipher.codec import AudioTokenizer
from open_miipher.data.config import TokensConfig
from open_miipher.data.files import File, Files
from open_miipher.distributed import World, hold
from open_miipher.synthesis.pauses import cut_at_pause
from open_miipher.synthesis.text import normalised, text_problem

TEXT = "text"
"""The column of metadata.csv."""

_PART, _BATCH = 256, 8  # utterances that are made, and encoded, at once
_SECONDS_BETWEEN_LINES = 10.0
_PATIENCE_SECONDS = 12 * 3600.0  # for another run that makes the same tokens
_DONE, _IDENTITY = "done.json", "identity.json"
_ARRAYS = ("codes", "code_ends", "texts", "text_ends", "names", "name_ends")


@dataclass(frozen=True)
class Utterance:
    """What becomes tokens.

    Attributes:
        text: that is spoken, as the model reads it.
        waveform: (samples,) float32 at the codec's rate, full scale 1.
    """

    text: str
    waveform: np.ndarray


class _LeftOut(Exception):
    """Why an utterance gets no tokens, as a warning counts it."""


class _Broken(Exception):
    """Why a file cannot be read."""


class TextColumn:
    """A column of texts as bytes in one array: text k ends at `ends[k]`."""

    def __init__(self, data: np.ndarray, ends: np.ndarray) -> None:
        self._data, self._ends = data, ends

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number: int) -> bytes:
        start = int(self._ends[number - 1]) if number else 0
        return self._data[start : int(self._ends[number])].tobytes()


class TokenStore:
    """Tokens that were made, mapped from their folder; in other processes it is mapped anew.

    Args:
        folder: see the module.

    Raises:
        UserError: it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            about = json.loads((folder / _DONE).read_text())
            self.num_utterances, self.num_copies = about["utterances"], about["copies"]
            self.seconds, self.longest_text = about["seconds"], about["longest_text"]
            self.left_out: dict[str, int] = about["left_out"]
            self.broken: list[str] = about["broken"]
            arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"the tokens in {printable(folder)} are damaged ({error}): delete the folder, and "
                "they are made again"
            ) from error
        self._codes, self._code_ends = arrays["codes"], arrays["code_ends"]
        self.texts = TextColumn(arrays["texts"], arrays["text_ends"])
        self.names = TextColumn(arrays["names"], arrays["name_ends"])

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenStore, (self.folder,)

    def __len__(self) -> int:
        return len(self._code_ends)

    def codes(self, item: int) -> np.ndarray:
        """Return the codes of an item, (frames, codebooks) int16."""
        start = int(self._code_ends[item - 1]) if item else 0
        return np.array(self._codes[start : int(self._code_ends[item])])

    def utterance(self, item: int) -> int:
        """Return the number of an item's text and name."""
        return item // self.num_copies


@dataclass(frozen=True)
class TokenJob:
    """Tokens that are to be made.

    Attributes:
        files: of the index.
        numbers: of the files that are used.
        copies: of each utterance, all but the first with noise.
        tokenizer: makes the tokens.
        config: all of `data`.
        num_frames: the most of an utterance.
        root: gets the folder of these tokens.
        sounds: SHA-256 over where the files lie, their sizes and times of change; see `look`.
    """

    files: Files
    numbers: np.ndarray
    copies: int
    tokenizer: AudioTokenizer
    config: TokensConfig
    num_frames: int
    root: Path
    sounds: str = ""

    def look(self) -> str:
        """Return what `sounds` holds: two corpora may have the same names, lengths and texts."""
        digest, roots = hashlib.sha256(), dict[Path, str]()
        for number in self.numbers.tolist():
            file = self.files[number]
            if file.root not in roots:
                roots[file.root] = str(file.root.resolve())
            about = json.dumps([roots[file.root], file_stamp(file.path)])
            digest.update(about.encode())
        return digest.hexdigest()

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that the tokens depend on."""
        config, digest = self.config, hashlib.sha256(self.files.fingerprint.encode())
        digest.update(self.numbers.tobytes())
        for number in self.numbers.tolist():
            text = self.files[number].entry.extra[TEXT].encode("utf-8", "surrogateescape")
            digest.update(b"%d\0%b" % (len(text), text))
        is_noisy = self.copies > 1
        return {
            "version": 1,
            "codec": self.tokenizer.fingerprint,
            "bandwidth": config.codec.bandwidth,
            "seconds": config.seconds,
            "long_text": config.long_text,
            "normalize_text": config.normalize_text,
            "max_text_bytes": config.max_text_bytes,
            "copies": self.copies,
            "sigma": config.augmentation_sigma if is_noisy else None,
            "seed": config.augmentation_seed if is_noisy else None,
            "files_and_texts": digest.hexdigest(),
            "sounds": self.sounds,
        }

    @property
    def folder(self) -> Path:
        """Where these tokens are."""
        return self.root / hashlib.sha256(json.dumps(self.identity).encode()).hexdigest()[:16]

    @property
    def num_parts(self) -> int:
        """In how many parts they are made."""
        return -(-len(self.numbers) // _PART)

    def part_path(self, part: int) -> Path:
        """Return where a part is until all are there."""
        return self.folder / "parts" / f"{part:06d}.npz"

    def check_broken(self, broken: Sequence[str], mend: str) -> None:
        """Check how many files could not be read.

        Args:
            broken: why, for each of them.
            mend: what to do.

        Raises:
            UserError: they are too many.
        """
        limit, number = self.config.max_broken_samples, len(self.numbers)
        if len(broken) > limit * number:
            raise UserError(
                f"{len(broken)} of {number} files cannot be read, more than "
                f"data.max_broken_samples={limit}{mend}; the first: {broken[0]}"
            )

    def utterance(self, number: int) -> Utterance:
        """Read a file and its text.

        Raises:
            _LeftOut: they do not go together.
            _Broken: the file cannot be read.
        """
        config, file = self.config, self.files[number]
        rate, most = self.tokenizer.sample_rate, self.num_frames * self.tokenizer.hop
        text, length = file.entry.extra[TEXT], file.num_samples(rate)
        wanted = length if config.long_text == "cut_at_pause" else min(length, most)
        try:
            waveform = file.read(0, 0, wanted, rate)
        except UserError as error:
            raise _Broken(str(error)) from error
        if len(waveform) > most:
            cut = cut_at_pause(waveform, rate, text, most)
            if cut is None:
                raise _LeftOut("have no pause where their text has a mark of punctuation")
            text, waveform = cut[0], waveform[: cut[1]]
        text = normalised(text, config.normalize_text)
        problem = text_problem(text, sys.maxsize)
        if problem is not None:
            raise _LeftOut(f"cannot be learned from: {problem}")
        if text_problem(text, config.max_text_bytes) is not None:  # in words that all share
            raise _LeftOut(f"have a text of more than data.max_text_bytes={config.max_text_bytes}")
        return Utterance(text, waveform)

    def make_part(self, part: int) -> None:
        """Make one part, and write it.

        Raises:
            OSError: it cannot be written.
        """
        made: dict[str, list[Any]] = {name: [] for name in ("codes", "texts", "names")}
        left_out: Counter[str] = Counter()
        broken: list[str] = []
        numbers = self.numbers[part * _PART : (part + 1) * _PART].tolist()
        for start in range(0, len(numbers), _BATCH):
            found: list[tuple[int, Utterance]] = []
            for number in numbers[start : start + _BATCH]:
                try:
                    found.append((number, self.utterance(number)))
                except _LeftOut as reason:
                    left_out[str(reason)] += 1
                except _Broken as reason:
                    broken.append(str(reason))
            made["codes"] += self._encode(found)
            made["texts"] += [utterance.text.encode() for _, utterance in found]
            made["names"] += [_name(self.files[number]) for number, _ in found]
        codes = made["codes"] or [np.zeros((0, self.tokenizer.codebooks), np.int16)]
        path = self.part_path(part)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(
                file,
                codes=np.concatenate(codes),
                code_lengths=np.array([len(c) for c in made["codes"]], np.int64),
                texts=np.frombuffer(b"".join(made["texts"]), np.uint8),
                text_lengths=np.array([len(t) for t in made["texts"]], np.int64),
                names=np.frombuffer(b"".join(made["names"]), np.uint8),
                name_lengths=np.array([len(n) for n in made["names"]], np.int64),
                about=np.frombuffer(
                    json.dumps({"left_out": left_out, "broken": broken}).encode(), np.uint8
                ),
            )

    def _encode(self, found: Sequence[tuple[int, Utterance]]) -> list[np.ndarray]:
        """Return the codes of utterances, each followed by its copies."""
        if not found:
            return []
        lengths = torch.tensor([len(utterance.waveform) for _, utterance in found])
        waveforms = torch.zeros(len(found), int(lengths.max()))
        for row, (_, utterance) in zip(waveforms, found, strict=True):
            row[: len(utterance.waveform)] = torch.from_numpy(utterance.waveform)
        items = torch.tensor([number for number, _ in found])
        versions = [
            [codes.numpy() for codes in self.tokenizer.encode(version, lengths)]
            for version in self._versions(waveforms, items)
        ]
        return [codes for copies in zip(*versions, strict=True) for codes in copies]

    def _versions(self, waveforms: torch.Tensor, items: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the waveforms as they are, then with noise."""
        yield waveforms
        for copy in range(1, self.copies):
            keys = stream_keys(self.config.augmentation_seed, items, copy)
            noise = white_noise(keys, torch.zeros_like(keys), waveforms.shape[1])
            yield waveforms + self.config.augmentation_sigma * noise


def make_tokens(job: TokenJob, world: World, say: Callable[[str], None]) -> TokenStore:
    """Make tokens, if they are not there; the ranks share the parts that are left.

    A part that is there is whole, and is not made again: killed, the making goes on.

    Raises:
        UserError: on every rank: a file cannot be written, or too many cannot be read.
    """
    job = replace(job, sounds=world.on_main(job.look))  # machines may tell other times
    folder = job.folder
    is_done = lambda: (folder / _DONE).exists()  # noqa: E731
    if not world.on_main(is_done):
        paths = [job.part_path(part) for part in range(job.num_parts)]
        lock = world.agree(lambda: hold(folder, _PATIENCE_SECONDS) if world.is_main else None)
        if not world.on_main(is_done):  # else another run has made them meanwhile
            world.on_main(lambda: _begin(job, paths))
            left = world.broadcast([part for part, path in enumerate(paths) if not path.exists()])
            problem = _make_parts(job, left[world.rank :: world.size], world.is_main, say)
            problems = [found for found in world.gather(problem) if found is not None]
            if problems:
                raise UserError(f"{problems[0]}; what was made is kept", shared=True)
            world.on_main(lambda: _join(job, paths))
        if lock is not None:
            lock.close()
    store = world.agree(lambda: TokenStore(folder))
    mend = f" (mend them, or delete {printable(folder)} where they can be read by now)"
    world.agree(lambda: job.check_broken(store.broken, mend))  # another run may allow more
    return store


def _begin(job: TokenJob, paths: Sequence[Path]) -> None:
    remove_leftovers(paths)
    write_lines(job.folder / _IDENTITY, [json.dumps(job.identity, indent=1)])


def _make_parts(
    job: TokenJob, parts: Sequence[int], is_main: bool, say: Callable[[str], None]
) -> str | None:
    """Make parts; returns why it could not go on."""
    if is_main:
        say(f"makes the tokens of {len(job.numbers):,} utterances in {printable(job.folder)}")
    told = time.monotonic()
    for count, part in enumerate(parts):
        try:
            job.make_part(part)
        except OSError as error:
            if error.filename is None:
                raise
            return f"{printable(error.filename)} cannot be written: {error.strerror}"
        if is_main and time.monotonic() - told > _SECONDS_BETWEEN_LINES:
            told = time.monotonic()
            say(f"{(count + 1) / len(parts):.0%} of the tokens of this process are made")
    return None


def _join(job: TokenJob, paths: Sequence[Path]) -> None:
    """Write the whole from its parts, in order, and then remove these.

    Raises:
        UserError: a part is damaged, too many files cannot be read, or no utterance is left.
    """
    lengths: dict[str, list[np.ndarray]] = {"code": [], "text": [], "name": []}
    left_out: Counter[str] = Counter()
    broken: list[str] = []
    for path in paths:
        part = _read_part(path)
        for name, parts in lengths.items():
            parts.append(part[f"{name}_lengths"])
        about = json.loads(part["about"].tobytes())
        left_out.update(about["left_out"])
        broken += about["broken"]
    ends = {name: np.cumsum(np.concatenate(parts)) for name, parts in lengths.items()}
    try:
        job.check_broken(broken, "")
    except UserError:
        shutil.rmtree(job.folder / "parts")  # the files are to be mended, and tried again
        raise
    if not len(ends["text"]):
        raise UserError(
            f"no utterance is left: {', '.join(f'{n} {what}' for what, n in left_out.items())}"
        )
    if broken:
        left_out["cannot be read"] = len(broken)
    for array, name in (("codes", "code"), ("texts", "text"), ("names", "name")):
        own = ends[name].astype(np.int64)
        _write(job.folder / f"{name}_ends.npy", [own], len(own))
        _write(job.folder / f"{array}.npy", (_read_part(p)[array] for p in paths), int(own[-1]))
    about = {
        "utterances": len(ends["text"]),
        "copies": job.copies,
        "seconds": int(ends["code"][-1]) / job.copies / job.tokenizer.frame_rate,
        "longest_text": int(np.concatenate(lengths["text"]).max()),
        "left_out": left_out,
        "broken": broken,
    }
    write_lines(job.folder / _DONE, [json.dumps(about, indent=1)])
    shutil.rmtree(job.folder / "parts")


def _read_part(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as file:
            return dict(file)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{printable(path)} is damaged ({error}): delete it, and start again"
        ) from error


def _write(path: Path, pieces: Iterable[np.ndarray], length: int) -> None:
    """Write an array of so many rows, piece by piece."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        for number, piece in enumerate(pieces):
            if not number:
                header = np.lib.format.header_data_from_array_1_0(piece)
                shape = (length, *piece.shape[1:])
                np.lib.format.write_array_header_1_0(file, {**header, "shape": shape})
            file.write(np.ascontiguousarray(piece).data)


def _name(file: File) -> bytes:
    return file.name.encode("utf-8", "surrogateescape")
