"""The corpus run that makes shards of degraded pairs from raw collections."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from open_miipher.base.atomic import remove_leftovers, write_lines
from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable
from open_miipher.corpus.ledger import Ledger
from open_miipher.corpus.preprocessing import outputs
from open_miipher.corpus.preprocessing.config import PreprocessingData, PreprocessingOptions
from open_miipher.corpus.preprocessing.inputs import RawInputs, Unit, source_name
from open_miipher.corpus.preprocessing.pieces import Piece, PieceMaker, Unreadable, pack, to_sample
from open_miipher.corpus.rows import Row
from open_miipher.corpus.run import Item, Plan, Share
from open_miipher.corpus.workers import map_in_processes
from open_miipher.shards import Sample, ShardError, ShardWriter

SUMMARY_NAME = "summary.json"

_FEWEST_JUDGED = 200  # pieces; before so many, one failure would be too large a share
_DONE, _FAILED = "done", "failed"  # before
_SUMS = (
    *("files", "unreadable", "low_rate_files", "pieces", "samples", "seconds", "output_seconds"),
    *("output_bytes", "degradation_failures"),
)


@dataclass
class Counts:
    """What came of a unit.

    Attributes:
        files: recordings that were found; unreadable: of them.
        low_rate_files: of a lower rate than the pairs, so that their upper band is empty.
        pieces: crops that were made.
        seconds: of audio in the readable recordings.
        output_seconds: of pairs.
        undamaged: pieces that no degradation took part in.
        degradations: pieces by the stages that took part.
        failures: of degradations, with their reasons.
        problems: why something of the input is missing.
    """

    files: int = 0
    unreadable: int = 0
    low_rate_files: int = 0
    pieces: int = 0
    seconds: float = 0.0
    output_seconds: float = 0.0
    undamaged: int = 0
    degradations: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class Preprocess:
    """Makes shards of one split (a `corpus.run.Task`).

    Each unit of input gives shards of its own, so that they depend on the input, the
    configuration and the seed alone.

    Args:
        inputs: of the split.
        maker: of pieces.
        split: `train` or `val`: the keys of its samples begin with it.
        output_dir: gets the shards.
        data: rate and lengths.
        options: of what is written.
        identity: all that changes what comes out.

    Attributes:
        identity: as given.
    """

    def __init__(
        self,
        inputs: RawInputs,
        maker: PieceMaker,
        split: str,
        output_dir: Path,
        data: PreprocessingData,
        options: PreprocessingOptions,
        identity: Mapping[str, Any],
    ) -> None:
        self._inputs, self._maker, self._data, self._options = inputs, maker, data, options
        self._split, self._output_dir = split, output_dir
        self._given: frozenset[str] = frozenset()  # ids of the units of the plan
        self.identity = identity

    def check(self) -> None:
        """See, before a run with `overwrite` forgets what is done, that the inputs are there.

        Raises:
            UserError: they are not, or storage cannot be reached.
        """
        self._inputs.check()

    def plan(self, ledger: Ledger) -> Plan:
        """Find the units that are left, and remove what there is of them, and of units gone since.

        Raises:
            UserError: an input does not exist, or the output directory holds shards of another that
                are not to be overwritten.
        """
        longest = None if self._options.crops == "all" else self._data.crop_samples
        all_units = self._inputs.units(
            self._options.shard_maxcount * self._data.sample_samples, longest
        )
        self._clear_stale(all_units)
        sizes = outputs.sizes(self._output_dir)
        by_id = {unit.id: unit for unit in all_units}
        self._given = frozenset(by_id)
        own = list(by_id) if ledger.shard is None else ledger.shard.own(by_id)
        rows = ledger.rows(set(own), ("error", "stamp", "outputs"))
        outcomes = {item: _outcome(rows.get(item), by_id[item], sizes) for item in own}
        left = [by_id[item] for item, outcome in outcomes.items() if outcome is None]
        outputs.remove(self._output_dir, {unit.name for unit in left}.__contains__)
        return Plan(
            [Item(unit.id, unit.name, unit.seconds, unit) for unit in left],
            [],
            num_done=list(outcomes.values()).count(_DONE),
            num_failed=list(outcomes.values()).count(_FAILED),
            num_changed=sum(u.id in rows and rows[u.id]["stamp"] != u.stamp for u in left),
            num_inputs=len(all_units),
            unit="inputs",
        )

    def process(self, items: Share) -> Iterator[Row]:
        """Make the units of one rank (see `corpus.run.Task`)."""
        return map_in_processes(self.make, items, self._options.num_writers)

    def make(self, item: Item) -> Row:
        """Make the shards of a unit.

        Returns:
            Its row; `error` tells what could not be read, the shards hold the rest.

        Raises:
            UserError: storage or recorded noise cannot be read, or degradations fail too often.
            OSError: the disk refuses.
        """
        unit: Unit = item.details
        counts, made, num_samples = Counts(), list[list[Any]](), 0
        samples = self._samples(unit, counts)
        while (first := next(samples, None)) is not None:
            path = self._output_dir / f"{unit.name}-{len(made):05d}.tar"
            with ShardWriter(path) as shard:
                for sample in chain([first], islice(samples, self._options.shard_maxcount - 1)):
                    shard.add(sample)
                    num_samples += 1
            made.append([path.name, path.stat().st_size])
        return {
            "id": item.id,
            "stamp": unit.stamp,
            "outputs": made,
            "output_bytes": sum(size for _, size in made),
            "files": counts.files,
            "unreadable": counts.unreadable,
            "low_rate_files": counts.low_rate_files,
            "pieces": counts.pieces,
            "samples": num_samples,
            "seconds": round(counts.seconds, 6),
            "output_seconds": round(counts.output_seconds, 6),
            "degradations": {"none": counts.undamaged, **counts.degradations},
            "degradation_failures": len(counts.failures),
            "error": "; ".join(counts.problems) or None,
        }

    def finish(self, rows: Iterable[Row]) -> None:
        """Write the summary over all units that there are now, and say it in a line."""
        sums, degradations = Counter[str](), Counter[str]()
        num_units, num_shards, problems = 0, 0, list[str]()
        for row in rows:
            if row["id"] not in self._given:
                continue
            num_units += 1
            num_shards += len(row["outputs"])
            sums.update({name: row[name] for name in _SUMS})
            degradations.update(row["degradations"])
            problems += [] if row["error"] is None else [row["error"]]
        hours = {name: round(sums[name] / 3600, 4) for name in ("seconds", "output_seconds")}
        summary = {
            "split": self._split,
            "inputs": num_units,
            **{name: round(sums[name], 3) for name in _SUMS},
            "hours": hours["seconds"],
            "output_hours": hours["output_seconds"],
            "shards": num_shards,
            "degradations": dict(sorted(degradations.items())),
            "problems": problems,
        }
        text = json.dumps(summary, indent=1, ensure_ascii=False)
        text = text.encode("utf-8", "backslashreplace").decode()  # names that are no UTF-8
        path = self._output_dir / SUMMARY_NAME
        remove_leftovers([path])
        write_lines(path, [text])
        shares = ", ".join(
            f"{name} {count / max(1, sums['pieces']):.0%}"
            for name, count in sorted(degradations.items())
        )
        print(
            f"{self._split}: {sums['files']} files of {hours['seconds']:.2f} h, "
            f"{sums['unreadable']} unreadable, gave {sums['samples']} samples of "
            f"{hours['output_seconds']:.2f} h in {num_shards} shards ({shares})",
            flush=True,
        )

    def _clear_stale(self, units: Iterable[Unit]) -> None:
        names = {unit.name for unit in units}
        directories = {source_name(directory) for directory in self._inputs.directories}
        outputs.clear_stale(self._output_dir, names, directories, self._options.overwrite)

    def _samples(self, unit: Unit, counts: Counts) -> Iterator[Sample]:
        groups = pack(self._pieces(unit, counts), self._data.sample_samples)
        for number, group in enumerate(groups):
            key = f"{self._split}-{unit.name}-{number:06d}"
            rate, options = self._data.sample_rate, self._options
            yield to_sample(key, group, rate, options.audio_format, options.ssl_inputs)

    def _pieces(self, unit: Unit, counts: Counts) -> Iterator[Piece]:
        """Yield the pieces of a unit; what cannot be read is counted and told."""
        damage, first_unreadable = None, ""
        rate = self._data.sample_rate
        try:
            for stable_id, recording in self._inputs.recordings(unit):
                counts.files += 1
                try:
                    if isinstance(recording, UserError):
                        raise Unreadable(str(recording))
                    for piece, failures in self._maker.pieces(recording, stable_id):
                        self._count(piece, failures, counts, unit)
                        yield piece
                    counts.seconds += recording.num_samples(rate) / rate
                    counts.low_rate_files += recording.sample_rate < rate
                except Unreadable as error:
                    counts.unreadable += 1
                    first_unreadable = first_unreadable or str(error)
        except ShardError as error:
            kept = f"; the {counts.files} recordings before are kept" if counts.files else ""
            damage = printable(f"{error}{kept}")  # it may name a member as the tar has it
        if counts.unreadable:
            counts.problems.append(
                f"{printable(unit.id)}: {counts.unreadable} of {counts.files} files are "
                f"unreadable, the first: {first_unreadable}"
            )
        if damage is not None:
            counts.problems.append(damage)
        elif counts.files == 0:
            counts.problems.append(f"{printable(unit.id)} holds no samples")

    def _count(self, piece: Piece, failures: list[str], counts: Counts, unit: Unit) -> None:
        counts.pieces += 1
        counts.output_seconds += len(piece) / self._data.sample_rate
        counts.undamaged += not piece.drawn
        counts.degradations.update({stage["name"] for stage in piece.drawn})
        counts.failures += failures
        most = self._data.max_degradation_failures
        if len(counts.failures) > most * max(counts.pieces, _FEWEST_JUDGED):
            raise UserError(
                f"{len(counts.failures)} degradations failed in {counts.pieces} pieces of "
                f"{printable(unit.id)}, more than data.max_degradation_failures={most} of them; "
                f"the last: {counts.failures[-1]}"
            )


def _outcome(row: Row | None, unit: Unit, sizes: Mapping[str, int]) -> str | None:
    """Say whether a unit is done or failed before; None if it is to be made."""
    if row is None or row["stamp"] != unit.stamp:
        return None
    if any(sizes.get(name) != size for name, size in row["outputs"]):
        return None
    return _DONE if row["error"] is None else _FAILED
