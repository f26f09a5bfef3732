"""The corpus run that generates: sounds from nothing by number, or from files of mels."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from open_miipher.audio.io import AudioWriter
from open_miipher.audio.mel import MelConfig, MelError, check_front_end, read_mel
from open_miipher.base.atomic import remove_leftovers
from open_miipher.base.errors import UserError, notice
from open_miipher.base.paths import file_stamp, printable
from open_miipher.base.rows import Row
from open_miipher.corpus.array import OF_RESTORING
from open_miipher.corpus.inputs import Inputs, find_left
from open_miipher.corpus.ledger import Ledger
from open_miipher.corpus.run import Item, Plan
from open_miipher.diffusion.generator import Generator
from open_miipher.distributed import Share

_BATCH = re.compile(r"(\d{6,})-(\d{6,})")  # see Numbers


class Numbers(Inputs):
    """Sounds from nothing, 0 … num_sounds − 1, in batches.

    A batch always has the same sounds: the last bits of a sound may depend on those beside it, and
    so files would depend on the number of processes.

    Args:
        num_sounds: how many.
        batch_size: of them at once.
        seconds: of each.

    Raises:
        UserError: there are none.
    """

    unit = "batches"

    def __init__(self, num_sounds: int, batch_size: int, seconds: float) -> None:
        if num_sounds < 1 or batch_size < 1:
            raise UserError("--n-samples and --batch-size must be at least 1")
        starts = range(0, num_sounds, batch_size)
        ends = (min(start + batch_size, num_sounds) for start in starts)
        self._batches = {
            f"{start:06d}-{end - 1:06d}": range(start, end)
            for start, end in zip(starts, ends, strict=True)
        }
        self._seconds = seconds
        self.identity = {"batch_size": batch_size}

    def check(self, output_dir: Path) -> None:
        """Nothing comes in."""

    def ids(self) -> list[str]:
        """Return the first and last number of every batch."""
        return sorted(self._batches)

    def assign(
        self, items: Collection[str], given: Mapping[str, str], extension: str
    ) -> dict[str, str]:
        """Name a batch after its first sound."""
        return {item: f"{item.partition('-')[0]}.{extension}" for item in items}

    def stamp(self, item: str) -> None:
        """Nothing can change."""

    def look(self, item: str, output: str, stamp: Any) -> Item:
        """Return the batch."""
        numbers = self._batches[item]
        return Item(item, output, len(numbers) * self._seconds, stamp, numbers)

    def open(self, item: Item) -> Iterator[tuple[list[str], Tensor, Tensor | None]]:
        """Give the names and numbers of its sounds."""
        yield [f"{number:06d}.wav" for number in item.details], torch.tensor(item.details), None


class MelFiles(Inputs):
    """Log-mels in .npy files of (bands, frames); each becomes a sound of its own.

    Args:
        root: of the files.
        name: of the only one that is wanted, without its ending; None: all.
        config: the front end that they must come from.
    """

    unit = "spectrograms"

    def __init__(self, root: Path, name: str | None, config: MelConfig) -> None:
        self._files, self._name, self._config = root, name, config
        self.root = str(root.resolve())

    def check(self, output_dir: Path) -> None:
        """See that the folder is there, and what dataset/script/make_mels.py noted of it.

        Raises:
            UserError: it is not, or its mels are of another front end, or the note is damaged.
        """
        if not self._files.is_dir():
            raise UserError(f"{printable(self._files)} (--mel-dir) is no folder")
        check_front_end(self._files, self._config)

    def ids(self) -> list[str]:
        """Return the paths of the files below the folder.

        Raises:
            UserError: there are none, or none of that name.
        """
        paths = (path.relative_to(self._files) for path in self._files.rglob("*.npy"))
        found = sorted(path.as_posix() for path in paths)
        if self._name is not None:
            found = [f for f in found if self._name in (Path(f).stem, f.removesuffix(".npy"))]
        if not found:
            wanted = "*.npy" if self._name is None else f"{self._name}.npy"
            raise UserError(
                f"{printable(self._files)} holds no {wanted}; make mels with "
                "dataset/script/make_mels.py"
            )
        return found

    def stamp(self, item: str) -> Any:
        """Return size and time of change."""
        return file_stamp(self._files / item)

    def look(self, item: str, output: str, stamp: Any) -> Item:
        """Look at a file's shape.

        Raises:
            MelError: it is no mel of so many bands.
        """
        frames = read_mel(self._files / item, self._config.n_mels).shape[1]
        seconds = frames * self._config.hop_length / self._config.sample_rate
        return Item(item, output, seconds, stamp, None)

    def open(self, item: Item) -> Iterator[tuple[list[str], Tensor, Tensor | None]]:
        """Give the name, the number and the mel; the number follows from the file's path alone."""
        mel = np.array(read_mel(self._files / item.id, self._config.n_mels), np.float32)
        if not np.isfinite(mel).all() or not mel.size:
            raise MelError(f"{printable(self._files / item.id)} is empty, or holds NaN or infinity")
        number = int.from_bytes(sha256(item.id.encode()).digest()[:7])
        yield [item.output], torch.tensor([number]), torch.from_numpy(mel)[None]


class Generate:
    """Makes sounds as wav files (a `corpus.run.Task`).

    Args:
        generator: the model, and the steps from noise to sound.
        inputs: which sounds.
        output_dir: gets the files.
        seed: of the noise.

    Attributes:
        identity: the model and all that changes what comes out.
        option_names: of the command line.
    """

    option_names = OF_RESTORING

    def __init__(
        self, generator: Generator, inputs: Numbers | MelFiles, output_dir: Path, seed: int
    ) -> None:
        self._generator, self._inputs, self._output_dir = generator, inputs, output_dir
        self._seed = seed
        self.identity: Mapping[str, Any] = {
            "model": generator.fingerprint,
            "seed": seed,
            "levels": list(generator.descent.betas),
            "from": inputs.unit,
            "format": "wav",
            **inputs.identity,
        }

    def plan(self, ledger: Ledger) -> Plan:
        """Find what is left, and clear up after killed and overwritten runs.

        Raises:
            UserError: there is nothing to make sounds of.
        """
        found = self._inputs.ids()
        names = ledger.name_all(found, "wav", self._inputs.assign)
        items = {item: names[item] for item in found}
        gone = {item: names[item] for item in names.keys() - items.keys()}
        ledger.record_gone(gone)
        plan = find_left(self._inputs, items, ledger, self._look)
        outputs = (o for item in plan.items if item.details for o in item.details)
        remove_leftovers(self._output_dir / f"{number:06d}.wav" for number in outputs)
        remove_leftovers(self._output_dir / item.output for item in plan.items)
        asked = {o for item, output in items.items() for o in _outputs(item, output)}
        return replace(plan, num_gone=self._clear(gone, asked, ledger))

    def process(self, items: Share[Item]) -> Iterator[Row]:
        """Make the sounds of one rank; a signal lets a batch come to its end."""
        for item in items:
            row: Row = {"id": item.id, "stamp": item.stamp, "outputs": [], "error": None}
            try:
                for names, numbers, mel in self._inputs.open(item):
                    sounds = self._generator.generate(numbers, self._seed, mel)
                    written = (self._write(n, s) for n, s in zip(names, sounds, strict=True))
                    row["outputs"] += list(written)
            except MelError as error:
                row["error"] = str(error)
            yield {**row, "seconds": round(item.cost, 6)}

    def _clear(self, gone: Mapping[str, str], asked: Collection[str], ledger: Ledger) -> int:
        """Delete sounds from nothing that may be of an overwritten model; the others stay.

        What a row that still counts tells of was made as this run makes it. Sounds of mels stay in
        any case: `--mel-name` with `--overwrite` asks for one, not for the end of the others.

        Args:
            gone: items that are not asked for any more, with their outputs.
            asked: outputs that are.
            ledger: of the run.

        Returns:
            How many items have outputs that stay.
        """
        rows, num_deleted, num_staying = ledger.rows(gone, ("outputs",)), 0, 0
        valid = {name for row in rows.values() for name, _ in row["outputs"]}
        for item, output in gone.items():
            paths = [self._output_dir / o for o in _outputs(item, output) if o not in asked]
            there = [path for path in paths if path.exists()]
            stay = [path for path in there if not _BATCH.fullmatch(item) or path.name in valid]
            for path in set(there) - set(stay):
                path.unlink()
                num_deleted += 1
            num_staying += bool(stay)
        if num_deleted:
            notice(
                f"deleted {num_deleted} sounds in {printable(self._output_dir)}: they are of runs "
                "that were overwritten or killed, and not asked for any more"
            )
        return num_staying

    def finish(self, rows: Iterable[Row]) -> None:
        """Nothing is to be summed up: the ledger lists all."""

    def _look(self, item: str, output: str, stamp: Any) -> Item | Row:
        try:
            return self._inputs.look(item, output, stamp)
        except MelError as error:
            return {"id": item, "stamp": stamp, "outputs": [], "error": str(error)}

    def _write(self, name: str, sound: Tensor) -> list[Any]:
        path = self._output_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with AudioWriter(path, self._generator.sample_rate, 1, format="wav") as writer:
            writer.write(sound.numpy()[None])
        return [name, path.stat().st_size]


def _outputs(item: str, output: str) -> list[str]:
    """Return all outputs of an item, given with the one by which the ledger names it."""
    batch = _BATCH.fullmatch(item)
    if batch is None:
        return [output]
    return [f"{number:06d}.wav" for number in range(int(batch[1]), int(batch[2]) + 1)]
