"""The corpus run that speaks: lines of text, each with a sound named by its number and its text."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from open_miipher.audio.io import AudioWriter
from open_miipher.base.atomic import remove_leftovers
from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable
from open_miipher.base.registry import from_mapping
from open_miipher.base.rows import Row
from open_miipher.checkpoint import Checkpoint
from open_miipher.corpus.array import OF_RESTORING
from open_miipher.corpus.inputs import Inputs, find_left
from open_miipher.corpus.ledger import Ledger
from open_miipher.corpus.run import Item, Plan
from open_miipher.data.config import TokensConfig
from open_miipher.data.token_store import TEXT
from open_miipher.data.tokens import Tokens
from open_miipher.distributed import Share
from open_miipher.synthesis import SamplingConfig
from open_miipher.synthesis.speaking import Speaker

_LETTERS_A_SECOND = 15.0  # of speech, about: what a text costs before it is spoken


class Lines(Inputs):
    """Texts by the number of their line; the id has a hash of the text besides.

    Args:
        texts: in order, the first is line 1.
    """

    unit = "texts"

    def __init__(self, texts: Sequence[str]) -> None:
        self._lines = {
            f"{number:06d}-{_hash(text)}": (number, text)
            for number, text in enumerate(texts, start=1)
        }

    def check(self, output_dir: Path) -> None:
        """Nothing but text comes in."""

    def ids(self) -> list[str]:
        """Return the lines' ids."""
        return sorted(self._lines)

    def assign(
        self, items: Collection[str], given: Mapping[str, str], extension: str
    ) -> dict[str, str]:
        """Name sounds after their line."""
        return {item: f"{item}.{extension}" for item in set(items) - set(given)}

    def stamp(self, item: str) -> None:
        """Nothing can change: another text is another item."""

    def look(self, item: str, output: str, stamp: Any) -> Item:
        """Return a line."""
        number, text = self._lines[item]
        return Item(item, output, len(text) / _LETTERS_A_SECOND, stamp, (number, text))

    def open(self, item: Item) -> Iterator[tuple[int, str]]:
        """Give the number and the text."""
        yield item.details


class Speak:
    """Speaks lines of text into wav files (a `corpus.run.Task`).

    Args:
        speaker: the model.
        inputs: the lines.
        output_dir: gets the files.
        sampling: how.
        batch_size: lines that are spoken at once.

    Attributes:
        identity: the model and all that changes what comes out; the last bits of a sound may depend
            on those that are made beside it.
        option_names: of the command line.
    """

    option_names = OF_RESTORING

    def __init__(
        self,
        speaker: Speaker,
        inputs: Lines,
        output_dir: Path,
        sampling: SamplingConfig,
        batch_size: int,
    ) -> None:
        if batch_size < 1:
            raise UserError("--batch-size must be at least 1")
        sampling.check(speaker.network)
        self._speaker, self._inputs, self._output_dir = speaker, inputs, output_dir
        self._sampling, self._batch_size = sampling, batch_size
        self.identity: Mapping[str, Any] = {
            "model": speaker.fingerprint,
            **asdict(sampling),
            "batch_size": batch_size,
            "from": inputs.unit,
            "format": "wav",
        }

    def plan(self, ledger: Ledger) -> Plan:
        """Find what is left, and clear up after killed runs; sounds of other texts stay."""
        found = self._inputs.ids()
        names = ledger.name_all(found, "wav", self._inputs.assign)
        items = {item: names[item] for item in found}
        ledger.record_gone(names.keys() - items.keys())
        plan = find_left(self._inputs, items, ledger, self._look)
        remove_leftovers(self._output_dir / item.output for item in plan.items)
        return plan

    def process(self, items: Share[Item]) -> Iterator[Row]:
        """Speak the lines of one rank, some at once."""
        while some := list(islice(items, self._batch_size)):
            numbers, texts = zip(*(item.details for item in some), strict=True)
            sounds = self._speaker.speak(texts, numbers, self._sampling)
            for item, sound in zip(some, sounds, strict=True):
                outputs = [self._write(item.output, sound)]
                row = _row(item.id, item.details, item.stamp, outputs, None)
                yield {**row, "seconds": round(len(sound) / self._speaker.sample_rate, 6)}

    def finish(self, rows: Iterable[Row]) -> None:
        """Nothing is to be summed up: the ledger lists all."""

    def _look(self, item: str, output: str, stamp: Any) -> Item | Row:
        found = self._inputs.look(item, output, stamp)
        problem = self._speaker.problem(found.details[1])
        if problem is None:
            return found
        return _row(item, found.details, stamp, [], f"line {found.details[0]}: {problem}")

    def _write(self, name: str, sound: Tensor) -> list[Any]:
        path = self._output_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with AudioWriter(path, self._speaker.sample_rate, 1, format="wav") as writer:
            writer.write(sound.numpy()[None])
        return [name, path.stat().st_size]


def lines_of_file(path: Path) -> list[str]:
    """Return the lines of a text file, which end in a line feed, a carriage return, or both.

    Raises:
        UserError: it cannot be read, is not UTF-8, or is empty.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{printable(path)} (--text-file): {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{printable(path)} (--text-file) is not UTF-8: {error}") from error
    if not text.strip():
        raise UserError(f"{printable(path)} (--text-file) is empty; give it one text a line")
    return text.removesuffix("\n").split("\n")  # splitlines would cut at U+2028 and others too


def texts_of_split(checkpoint: Checkpoint, speaker: Speaker, split: str, number: int) -> list[str]:
    """Return texts that a model was trained on or validated with, evenly spaced in the index.

    Args:
        checkpoint: of the model.
        speaker: that can say them.
        split: train, or validation.
        number: the most that are wanted.

    Raises:
        UserError: the data is not there any more, or has no such texts.
    """
    if number < 1:
        raise UserError(f"--n {number} must be at least 1")
    fields = {key: value for key, value in checkpoint.config["data"].items() if key != "name"}
    source = Tokens(from_mapping(TokensConfig, fields, "data"))
    source.tokenizer = speaker.codec  # which is loaded already
    files, numbers = source.chosen("train" if split == "train" else "test")
    texts = [files[int(n)].entry.extra[TEXT] for n in numbers]
    texts = [text for text in texts if speaker.problem(text) is None]
    count = min(number, len(texts))
    return [texts[k * len(texts) // count] for k in range(count)]


def _hash(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _row(
    item: str, line: tuple[int, str], stamp: Any, outputs: list[Any], error: str | None
) -> Row:
    return {"id": item, "text": line[1], "stamp": stamp, "outputs": outputs, "error": error}
