"""The corpus run that evaluates: what is measured of every recording, once.

An item is a recording of a system, or an input of theirs. So an input is measured once for all
systems, and a system that comes later costs no more than its own files.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from open_miipher import __version__
from open_miipher.audio.io import AudioError, read_header
from open_miipher.base.paths import file_stamp, printable
from open_miipher.base.rows import Row
from open_miipher.corpus.array import OF_RESTORING
from open_miipher.corpus.ledger import Ledger
from open_miipher.corpus.pool import Pool
from open_miipher.corpus.run import Item, Plan
from open_miipher.distributed import Share
from open_miipher.evaluation.evaluate import Evaluator, EvaluatorArguments, Recording
from open_miipher.evaluation.measures import MEASURES
from open_miipher.evaluation.results import (
    INPUT,
    Evaluation,
    Sounds,
    Summary,
    write_results,
)
from open_miipher.evaluation.results import Row as ResultRow

_INPUT = "input"  # in place of a system; one that cannot be read is no failure of theirs


class Evaluate:
    """Measures recordings (a `corpus.run.Task`).

    Args:
        systems: their names, the first being the one that others are compared with.
        sounds: the files by name (`evaluate.match_files`).
        texts: what is said, by name; empty: not known.
        evaluator: measures here, and says what others are to measure.
        output_dir: gets the results.
        pool: of processes that measure; None: they are measured here.
        more: further values for summary.json.

    Attributes:
        identity: that of all evaluations: what was measured in another way is measured again.
        option_names: of the command line.
        found: the evaluation, once it is finished.
    """

    option_names = OF_RESTORING
    identity: Mapping[str, Any] = {"of": "evaluation"}

    def __init__(
        self,
        systems: list[str],
        sounds: Mapping[str, Sounds],
        texts: Mapping[str, str],
        evaluator: Evaluator,
        output_dir: Path,
        pool: Pool | None,
        more: Summary,
    ) -> None:
        self._systems, self._sounds, self._more = systems, sounds, more
        self._evaluator, self._output_dir, self._pool = evaluator, output_dir, pool
        way = {"version": __version__, **evaluator.identity}
        self._way = sha256(json.dumps(way).encode()).hexdigest()[:16]
        self._recordings: dict[str, Recording] = {}
        for name, sound in sounds.items():
            of = {k: path for k, path in [*sound.restored.items(), (_INPUT, sound.before)] if path}
            for system, path in of.items():
                recording = Recording(path, sound.reference, texts.get(name))
                self._recordings[_id(system, name)] = recording
        self.found: Evaluation | None = None

    def plan(self, ledger: Ledger) -> Plan:
        """Find what was not measured yet, or has changed since."""
        rows = ledger.rows(fields=("error", "stamp"))
        ledger.record_gone(rows.keys() - self._recordings.keys())
        items, failed, num_changed = [], 0, 0
        for item, recording in self._recordings.items():
            row, stamp = rows.get(item), self._stamp(recording)
            if row is not None and row["stamp"] == stamp:
                failed += row["error"] is not None
                continue
            num_changed += row is not None
            cost = _seconds(recording.path)
            items.append(Item(item, "", cost, stamp, recording))
        return Plan(
            items=items,
            failed=[],
            unit="recordings",
            called_failed="unreadable",
            num_done=len(self._recordings) - len(items) - failed,
            num_failed=failed,
            num_changed=num_changed,
            num_inputs=len(self._recordings),
            num_gone=len(rows.keys() - self._recordings.keys()),
        )

    def process(self, items: Share[Item]) -> Iterator[Row]:
        """Measure the recordings of one rank."""
        if self._pool is None:
            yield from map(partial(_measure, self._evaluator), items)
            return
        build = partial(_build, self._evaluator.arguments)
        done = self._pool.map(build, items, lambda: items.stopped, lambda item: None)
        for item, row, problem in done:
            yield row or _row(item, f"{printable(item.details.path)}: {problem}")

    def finish(self, rows: Iterable[Row]) -> None:
        """Write the table and the means, of what is measured so far."""
        by_id = {row["id"]: row for row in rows if row["id"] in self._recordings}
        evaluation = Evaluation(
            systems=self._systems,
            columns=[v for name in self._evaluator.measures for v in MEASURES[name].values],
            rows=list(self._rows(by_id)),
            sounds=self._sounds,
            left_out=self._evaluator.left_out,
        )
        write_results(self._output_dir, evaluation, self._more)
        self.found = evaluation

    def _rows(self, by_id: Mapping[str, Row]) -> Iterator[ResultRow]:
        """Yield the rows of the table: what was measured of a file, and of its input."""
        for name, sounds in self._sounds.items():
            before = by_id.get(_id(_INPUT, name), {"values": {}, "problems": []})
            for system in (system for system in self._systems if system in sounds.restored):
                own = by_id.get(_id(system, name))
                if own is None:
                    continue
                problems = [*own["problems"], *(f"input: {x}" for x in before["problems"])]
                row: ResultRow = {"file": name, "system": system}
                if own["seconds"] is not None:
                    row["seconds"] = own["seconds"]
                row |= own["values"]
                row |= {INPUT + key: value for key, value in before["values"].items()}
                yield {**row, "problems": "; ".join(problems)}

    def _stamp(self, recording: Recording) -> list[Any]:
        """Return what is another one when the recording, or what it is compared with, changed."""
        files = [x for x in (recording.path, recording.reference) if x is not None]
        return [self._way, [[printable(x), file_stamp(x)] for x in files], recording.text]


def _seconds(path: Path) -> float:
    """Return how long a recording is; 0: it cannot be read, which is told when it is measured."""
    try:
        info = read_header(path)
    except AudioError:
        return 0.0
    return info.num_frames / info.sample_rate


def _build(arguments: EvaluatorArguments) -> Callable[[Item], Row]:
    """Set up a worker."""
    torch.set_num_threads(1)
    return partial(_measure, Evaluator(*arguments))


def _measure(evaluator: Evaluator, item: Item) -> Row:
    found = evaluator.measure(item.details)
    lacks_all = found.seconds is None and not item.id.startswith(_id(_INPUT, ""))
    error = found.problems[0] if lacks_all else None
    return _row(item, error) | asdict(found)


def _row(item: Item, error: str | None) -> Row:
    problems = [] if error is None else [error]
    nothing: Row = {"seconds": None, "values": {}, "problems": problems}
    return {"id": item.id, "stamp": item.stamp, **nothing, "error": error}


def _id(system: str, name: str) -> str:
    return f"{system}/{name}"
