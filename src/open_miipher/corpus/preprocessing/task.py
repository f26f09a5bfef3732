"""The corpus run that makes shards of degraded pairs from raw collections."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import chain, count, islice, takewhile
from pathlib import Path
from typing import Any

import torch

from open_miipher.base.amounts import counted, duration
from open_miipher.base.atomic import remove_leftovers, write_lines
from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable
from open_miipher.base.plain import as_json, leaves
from open_miipher.base.rows import Row
from open_miipher.corpus.array import OF_PREPROCESSING
from open_miipher.corpus.inputs import find_left
from open_miipher.corpus.ledger import Ledger
from open_miipher.corpus.pool import Pool
from open_miipher.corpus.preprocessing.config import Preprocessing
from open_miipher.corpus.preprocessing.inputs import RawInputs, check_splits, unit_name
from open_miipher.corpus.run import Item, Plan
from open_miipher.data.building import source_degradation
from open_miipher.data.config import RawSource
from open_miipher.data.pieces import Piece, PieceMaker, Unreadable, pack, to_sample
from open_miipher.distributed import Share
from open_miipher.index import read_index
from open_miipher.shards import ShardError, ShardWriter

SUMMARY_NAME = "summary.json"

SPLITS = {"train": "train", "test": "val"}
"""Which split a section of `data` gives."""

_CHANGES_DATA = ("sample_rate", "crop_seconds", "sample_seconds", "low_cut_hz", "peak")
_CHANGES_OPTIONS = ("seed", "crops", "audio_format", "ssl_inputs", "shard_maxcount")
_FEWEST_JUDGED = 200  # pieces; before so many, one failure would be too large a share
_SUMS = (  # of a unit's row, and of all in the summary
    *("files", "unreadable", "passed_over", "low_rate_files", "pieces", "samples", "seconds"),
    *("output_seconds", "output_bytes", "degradation_failures"),
)


class Preprocess:
    """Makes shards of one split (a `corpus.run.Task`).

    Each unit of input gives shards of its own, so that they depend on the input, the
    configuration and the seed alone.

    Args:
        config: all of it.
        section: of `data`: `train` or `test`.
        inputs: of the split.
        pool: its workers make the shards, each with a copy of this task.

    Attributes:
        identity: all that changes what comes out.
        option_names: of the configuration.
    """

    option_names = OF_PREPROCESSING

    def __init__(self, config: Preprocessing, section: str, inputs: RawInputs, pool: Pool) -> None:
        self.inputs, self._split, self._pool = inputs, SPLITS[section], pool
        self._given: frozenset[str] = frozenset()  # ids of the units of the plan
        self._data, self._options = data, options = config.data, config.options
        source = getattr(data, section)
        degradation = source_degradation(
            data.degradation, source, f"data.{section}", data.sample_rate
        )
        self._maker = PieceMaker(data, options.crops, options.seed, degradation)
        self.identity: Mapping[str, Any] = _identity(config, source)
        self.output_dir = options.folder / self._split / str(options.job_id)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what workers do not need."""
        return {k: v for k, v in self.__dict__.items() if k not in ("_pool", "_given")}

    def plan(self, ledger: Ledger) -> Plan:
        """Find the units that are left, and remove what there is of them, and of units gone since.

        Raises:
            UserError: an input does not exist, or the output directory holds shards of another that
                are not to be overwritten.
        """
        ids = self.inputs.ids()
        self._given = frozenset(ids)
        names = ledger.name_all(ids, "tar", self.inputs.assign)
        num_shards = dict.fromkeys(names, 0)  # the most that a row has
        for row in Ledger(self.output_dir).all_rows():
            most = num_shards.get(row["id"], 0)
            num_shards[row["id"]] = max(most, len(row.get("outputs", ())))
        gone = {item: num for item, num in num_shards.items() if item not in self._given}
        self._refuse_other_inputs(gone)
        ledger.record_gone(gone)
        items = {item: unit_name(item) for item in ids}
        elsewhere = self._options.outputs_elsewhere
        plan = find_left(self.inputs, items, ledger, self.inputs.look, outputs_elsewhere=elsewhere)
        self._clear({**gone, **{item.id: num_shards[item.id] for item in plan.items}})
        return plan

    def process(self, items: Share[Item]) -> Iterator[Row]:
        """Make the units of one rank (see `corpus.run.Task`)."""
        done = self._pool.map(
            self.build,
            map(self.inputs.filled, items),
            lambda: items.stopped,
            lambda item: self._clear({item.id: 0}),
        )
        for item, row, problem in done:
            yield row or {**_new_row(item), "error": f"{printable(item.id)}: {problem}"}

    def build(self) -> Callable[[Item], Row]:
        """Set up a worker: there are as many as cores are to be used."""
        torch.set_num_threads(1)
        return self.make

    def make(self, item: Item) -> Row:
        """Make the shards of a unit whose files are filled in.

        Returns:
            Its row; `error` tells what could not be read, the shards hold the rest.

        Raises:
            UserError: storage or recorded noise cannot be read, degradations fail too often, or the
                disk refuses.
        """
        row = _new_row(item)
        key, rate, options = f"{self._split}-{item.output}", self._data.sample_rate, self._options
        groups = enumerate(pack(self._pieces(item, row), self._data.sample_samples))
        kind = options.audio_format, options.ssl_inputs
        samples = (to_sample(f"{key}-{n:06d}", group, rate, *kind) for n, group in groups)
        while (first := next(samples, None)) is not None:
            path = self.output_dir / shard_name(item.output, len(row["outputs"]))
            try:
                with ShardWriter(path) as shard:
                    for sample in chain([first], islice(samples, options.shard_maxcount - 1)):
                        shard.add(sample)
                        row["samples"] += 1
            except OSError as error:
                raise UserError(f"{printable(path)}: {error.strerror}") from error
            row["outputs"].append([path.name, path.stat().st_size])
        row["output_bytes"] = sum(size for _, size in row["outputs"])
        row |= {name: round(row[name], 6) for name in ("seconds", "output_seconds")}
        return row

    def finish(self, rows: Iterable[Row]) -> None:
        """Write the summary over all units that there are now, and say it in a line."""
        sums, degradations, problems = Counter[str](), Counter[str](), list[str]()
        for row in rows:
            if row["id"] in self._given:
                sums.update(inputs=1, shards=len(row["outputs"]))
                sums.update({name: row.get(name, 0) for name in _SUMS})  # older rows have fewer
                degradations.update(row["degradations"])
                problems += [] if row["error"] is None else [row["error"]]
        hours = {name: round(sums[name] / 3600, 4) for name in ("seconds", "output_seconds")}
        summary = {
            "split": self._split,
            "inputs": sums["inputs"],
            **{name: round(sums[name], 3) for name in _SUMS},
            "hours": hours["seconds"],
            "output_hours": hours["output_seconds"],
            "shards": sums["shards"],
            "degradations": dict(sorted(degradations.items())),
            "problems": problems,
        }
        path = self.output_dir / SUMMARY_NAME
        remove_leftovers([path])
        write_lines(path, [as_json(summary, indent=1).decode()])
        shares = ", ".join(
            f"{name} {num / max(1, sums['pieces']):.0%}"
            for name, num in sorted(degradations.items())
        )
        passed_over = sums["passed_over"]
        rest = (
            f", {counted(passed_over, 'members')} without audio passed over" if passed_over else ""
        )
        print(
            f"{self._split}: {counted(sums['files'], 'files')} of {duration(sums['seconds'])}, "
            f"{sums['unreadable']} unreadable{rest}, gave {counted(sums['samples'], 'samples')} of "
            f"{duration(sums['output_seconds'])} in {counted(sums['shards'], 'shards')} ({shares})",
            flush=True,
        )

    def _refuse_other_inputs(self, gone: Iterable[str]) -> None:
        """See that nothing is here of inputs that are not given now.

        A directory whose index got shorter, or whose blocks got longer, has fewer units than
        before. Of other inputs it cannot be told whether they were left out on purpose.
        """
        for item in [] if self._options.overwrite else gone:
            shards = self._shards(unit_name(item), 0)
            if shards and item.rpartition("#")[0] not in self.inputs.directories:
                raise UserError(
                    f"{printable(shards[0])} comes from an input that is not given now; give all "
                    "inputs of this folder again, with more if you like, choose another "
                    "preprocess.job_id, or make everything again (preprocess.overwrite=true)"
                )

    def _clear(self, units: Mapping[str, int]) -> None:
        """Remove the shards of units, given by id and the most they had, and temporary files."""
        possible = []
        for item, num_shards in units.items():
            shards = self._shards(unit_name(item), num_shards)
            for path in reversed(shards):  # so that those that a kill here leaves are found again
                path.unlink(missing_ok=True)
            possible += [*shards, self.output_dir / shard_name(unit_name(item), len(shards))]
        remove_leftovers(possible)

    def _shards(self, unit: str, num_shards: int) -> list[Path]:
        """Return where a unit's shards may be: so many, and those that follow without a gap."""
        paths = (self.output_dir / shard_name(unit, number) for number in count())
        known = list(islice(paths, num_shards))
        return [*known, *takewhile(Path.exists, paths)]

    def _pieces(self, item: Item, row: Row) -> Iterator[Piece]:
        """Yield the pieces of a unit; what cannot be read is counted and told in its row."""
        problems, first_unreadable = list[str](), ""
        rate, damage = self._data.sample_rate, None
        try:
            for stable_id, recording in self.inputs.open(item):
                if recording is None:
                    row["passed_over"] += 1
                    continue
                row["files"] += 1
                try:
                    if isinstance(recording, UserError):
                        raise Unreadable(str(recording))
                    for piece, failures in self._maker.pieces(recording, stable_id):
                        self._count(piece, failures, item, row)
                        yield piece
                    row["seconds"] += recording.num_samples(rate) / rate
                    row["low_rate_files"] += recording.info.sample_rate < rate
                except Unreadable as error:
                    row["unreadable"] += 1
                    first_unreadable = first_unreadable or str(error)
        except ShardError as error:
            kept = f"; the {row['files']} recordings before are kept" if row["files"] else ""
            damage = printable(f"{error}{kept}")  # it may name a member as the tar has it
        if row["unreadable"]:
            problems.append(
                f"{printable(item.id)}: {row['unreadable']} of {row['files']} files are "
                f"unreadable, the first: {first_unreadable}"
            )
        if damage is not None:
            problems.append(damage)
        elif row["files"] == 0:
            problems.append(f"{printable(item.id)} holds no audio")
        row["error"] = "; ".join(problems) or None

    def _count(self, piece: Piece, failures: list[str], item: Item, row: Row) -> None:
        row["pieces"] += 1
        row["output_seconds"] += len(piece) / self._data.sample_rate
        for name in {stage["name"] for stage in piece.drawn} or {"none"}:
            row["degradations"][name] = row["degradations"].get(name, 0) + 1
        row["degradation_failures"] += len(failures)
        most = self._data.max_degradation_failures
        if row["degradation_failures"] > most * max(row["pieces"], _FEWEST_JUDGED):
            raise UserError(
                f"{row['degradation_failures']} degradations failed in {row['pieces']} pieces of "
                f"{printable(item.id)}, more than data.max_degradation_failures={most} of them; "
                f"the last: {failures[-1]}"
            )


def _new_row(item: Item) -> Row:
    """Return the row of a unit before anything is made of it."""
    known = {"id": item.id, "stamp": item.stamp, "outputs": [], **dict.fromkeys(_SUMS, 0)}
    return {**known, "degradations": {"none": 0}, "error": None}


def shard_name(unit: str, number: int) -> str:
    """Return the name of a unit's shard."""
    return f"{unit}-{number:05d}.tar"


def build_tasks(config: Preprocessing, pool: Pool) -> dict[Path, Preprocess]:
    """Build the runs that a configuration asks for, by output folder: one a split with inputs.

    Warns of clean speech and impulse responses at lower rates than the pairs'.

    Raises:
        UserError: a key is missing or out of range, an input, noise or room is missing or wrong, an
            input stands in both splits, or inputs and outputs lie inside each other.
    """
    config.check()
    data, options = config.data, config.options
    given = [name for name in SPLITS if getattr(data, name).dir_list or getattr(data, name).urls]
    inputs = {name: RawInputs(data, options, name) for name in given}
    for found in inputs.values():
        found.check(options.folder)
    if len(inputs) == 2:
        check_splits(inputs["train"], inputs["test"])
    tasks = [Preprocess(config, name, found, pool) for name, found in inputs.items()]
    return {task.output_dir: task for task in tasks}


def _identity(config: Preprocessing, source: RawSource) -> dict[str, Any]:
    """Return all that changes what comes out of a recording."""
    degradation = leaves(asdict(config.data.degradation), "data.degradation")
    return {
        **{f"data.{name}": getattr(config.data, name) for name in _CHANGES_DATA},
        **{f"preprocess.{name}": getattr(config.options, name) for name in _CHANGES_OPTIONS},
        **{key: value for key, value in degradation.items() if value != {}},
        "noise": [read_index(directory).fingerprint for directory in source.noise_dir_list],
        "rooms": [read_index(directory).fingerprint for directory in source.rir_dir_list],
    }
