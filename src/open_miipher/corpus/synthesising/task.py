"""The corpus run that speaks: texts into sound and tokens, by a pool of workers."""

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from open_miipher.audio.formats import FileFormat
from open_miipher.base.amounts import duration
from open_miipher.base.atomic import remove_leftovers
from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable
from open_miipher.base.rows import Row
from open_miipher.checkpoint import Checkpoint
from open_miipher.corpus.array import OF_SYNTHESIS
from open_miipher.corpus.inputs import find_left
from open_miipher.corpus.ledger import Ledger
from open_miipher.corpus.pool import Pool
from open_miipher.corpus.run import Item, Plan
from open_miipher.corpus.synthesising.attempts import Attempts, failed_row
from open_miipher.corpus.synthesising.config import SynthesisConfig
from open_miipher.corpus.synthesising.outputs import Outputs, Spoken
from open_miipher.corpus.synthesising.speaking import Load, Speaking
from open_miipher.corpus.synthesising.texts import Texts
from open_miipher.distributed import Share
from open_miipher.index import Entry, write_index
from open_miipher.synthesis.judging import BadText
from open_miipher.synthesis.tts_processor import fingerprint

TEXTS_OF_TEST = 8
"""Texts a worker with `processing.do_test`."""

_LOG = logging.getLogger("open_miipher.synthesis")


class Synthesise:
    """Speaks texts and turns what was said into tokens (a `corpus.run.Task`).

    Args:
        config: all of it, checked.
        texts: what is spoken; only rank 0 needs them.
        pool: its workers speak; without retries of its own, since those are this task's.
        devices: of the pool's workers, by their places.
        num_ranks: that have as many workers each.
        load: what speaks, and the codec; None: as the configuration says.

    Attributes:
        option_names: of the configuration.
    """

    option_names = OF_SYNTHESIS

    def __init__(
        self,
        config: SynthesisConfig,
        texts: Texts | None,
        pool: Pool,
        devices: list[str],
        num_ranks: int = 1,
        load: Load | None = None,
    ) -> None:
        self._config, self._of_main, self._pool = config, texts, pool
        self._build, self._num_workers = Speaking(config, devices, load), len(devices)
        self._num_ranks = num_ranks
        task = config.array_task
        prefix = "" if task is None else f"{task.folder}-"
        self._outputs = Outputs(config.folder, config.output.format, prefix)
        self._wanted: list[str] | None = None
        self._tested: list[str] = []
        self._run, self._began = 0, 0.0

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """All that changes what comes out of a text; loads the codec for a moment."""
        from open_miipher.codec.audio_tokenizer import AudioTokenizer

        config, source = self._config, self._config.processing.restore_ckpt_dir
        name = Path(str(config.dataset.name))
        return {
            "dataset": name.name if name.exists() else str(name),
            "split": config.dataset.split,
            "tts": config.tts.backend,
            "model": fingerprint(config.tts.backend, config.tts.model, config.tts.voice),
            "codec": AudioTokenizer.from_config(config.codec).fingerprint,
            "restored": None if source is None else _identity_of(source),
            "sample_rate": config.processing.sample_rate,
            "seed": config.processing.seed,
            "format": config.output.format,
            "keep_audio": config.output.keep_audio,
        }

    def check_overwriting(self) -> None:
        """See that `overwrite` throws away no more than is made again; called on rank 0 alone.

        Raises:
            UserError: it would; or as `plan`.
        """
        config, asked = self._config, self._asked()
        if not config.processing.overwrite or asked is None:
            return
        others = Ledger(config.folder).rows(fields=()).keys() - set(asked)
        if others:
            some = "processing.do_test=true"
            if not config.processing.do_test:
                some = "dataset.remaining_indices_file"
            raise UserError(
                f"processing.overwrite=true would throw away {len(others):,} texts of "
                f"{printable(config.folder)} that {some} does not speak; leave one of both out, or "
                "choose another processing.save_dir"
            )

    def plan(self, ledger: Ledger) -> Plan:
        """Find the texts that are left.

        Raises:
            UserError: `remaining_indices_file` is missing, damaged, or of another set.
        """
        self._run, self._began = ledger.number, time.time()
        ids = self._texts.ids()
        names = ledger.name_all(ids, "flac", self._texts.assign)
        gone = names.keys() - set(ids)
        ledger.record_gone(gone)
        some = self._asked()
        asked = ids if some is None else some
        others: Counter[bool] = Counter()
        num_others = 0
        if some is not None:
            others, num_others = self._leave_others(ledger, asked, ids)
        plan = find_left(self._texts, {item: names[item] for item in asked}, ledger, self._look)
        left = [item.id for item in plan.items]
        remove_leftovers(self._config.folder / names[item] for item in left)
        _LOG.info("%d texts to speak, of %d in %s", len(left), len(ids), self._config.dataset.name)
        return replace(
            plan,
            num_done=plan.num_done + others[True],
            num_failed=plan.num_failed + others[False],
            num_inputs=plan.num_inputs + num_others,
            num_gone=len(gone),
        )

    def process(self, items: Share[Item]) -> Iterator[Row]:
        """Speak the texts of one rank; what was spoken is written some hundred at a time."""
        spoken, failed = list[Spoken](), list[Row]()
        attempts = Attempts(items, self._config, self._pool, self._build, self._num_workers)
        for each in attempts.results():
            if isinstance(each, Spoken):
                spoken.append(each)
            else:
                failed.append(each)
            if len(spoken) + len(failed) >= self._config.processing.save_batch_size:
                yield from self._write(spoken, failed)
                spoken, failed = [], []
        if spoken or failed:
            yield from self._write(spoken, failed)

    def finish(self, rows: Iterable[Row]) -> None:
        """Combine the results, list the failures, and say how much there is."""
        tables, entries, failures = dict[str, str](), list[Entry](), list[Row]()
        shards = set[str]()
        tested, all_seconds, own_seconds = dict[str, Row](), 0.0, 0.0
        for row in rows:
            index = row["id"]
            text = " ".join(str(self._texts.texts.get(index, "")).split())
            text = text.encode(errors="backslashreplace").decode()  # that of a failure may be any
            if index in self._tested:
                tested[index] = {**row, "text": text}
            if row["error"] is not None:
                reason = row["error"].removeprefix(f"{index}: ")
                about = {"attempts": row["attempts"], "reason": reason}
                failures.append({"index": index, "text": text, **about})
                continue
            *sounds, (tables[index], _) = row["outputs"]
            if self._config.output.keep_audio == "shards":
                shards.update(name for name, _ in sounds)
            all_seconds += row["seconds"]
            own_seconds += row["seconds"] if row["run"] == self._run else 0.0
            if self._config.output.keep_audio == "files":
                rate, frames = row["sample_rate"], row["num_frames"]
                entries.append(Entry(row["audio"], rate, frames, 1, {"text": text}))
        self._outputs.combine(tables, shards)
        self._outputs.list_failures(failures)
        if entries:
            write_index(self._config.folder, entries)
        if self._wanted is not None:
            self._texts.write_remaining(i for i in self._wanted if i not in tables)
        speed = own_seconds / max(1e-9, time.time() - self._began)
        said = (
            f"{len(tables):,} texts, {duration(all_seconds)} of speech, {len(failures):,} failures "
            f"in {printable(self._config.folder)}; this run spoke {duration(own_seconds)}, "
            f"{speed:.1f} times as fast as real time"
        )
        _LOG.info(said)
        for line in _table(tested):
            print(line, flush=True)

    @property
    def _texts(self) -> Texts:
        assert self._of_main is not None
        return self._of_main

    def _asked(self) -> list[str] | None:
        """Return the texts that this run alone is to speak; None: all of the set."""
        self._wanted = self._texts.wanted()
        if not self._config.processing.do_test:
            return self._wanted
        texts = self._texts.ids() if self._wanted is None else self._wanted
        self._tested = texts[: TEXTS_OF_TEST * self._num_workers * self._num_ranks]
        return self._tested

    def _leave_others(
        self, ledger: Ledger, asked: list[str], ids: list[str]
    ) -> tuple[Counter[bool], int]:
        """Forget the failures of those asked for, and count the others that an earlier run had.

        Returns:
            Of this task's, how many are done (True) and failed; and the number of all tasks'.
        """
        known = Ledger(self._config.folder).rows(set(ids), ("error", "seconds"))
        wanted, task = set(asked), ledger.array_task
        own = known if task is None else {i: known[i] for i in task.own(known)}
        ledger.forget({i: r for i, r in own.items() if i in wanted and r["error"] is not None})
        done = Counter(row["error"] is None for i, row in own.items() if i not in wanted)
        return done, len(known.keys() - wanted)

    def _look(self, item: str, output: str, stamp: Any) -> Item | Row:
        """Return a text that is left, or the row of one that cannot be spoken."""
        found = self._texts.look(item, output, stamp)
        if isinstance(found.details, BadText):
            return failed_row(found, 0, f"{item}: {found.details.problem}")
        problem = FileFormat("flac").refusal(output, self._config.processing.sample_rate, 1)
        return found if problem is None else failed_row(found, 0, f"{item}: {problem}")

    def _write(self, spoken: list[Spoken], failed: list[Row]) -> Iterator[Row]:
        yield from self._outputs.write_part(spoken, failed)
        _LOG.debug("%d texts written, %d failures", len(spoken), len(failed))


def _identity_of(source: str) -> str:
    from open_miipher.restoration import DEFAULT_MODEL

    return Checkpoint.open(DEFAULT_MODEL if source == "default" else source).identity[:16]


def _table(rows: Mapping[str, Row]) -> Iterator[str]:
    """Yield the lines of the table of a test."""
    if rows:
        yield f"{'index':<12} {'seconds':>8} {'attempts':>8}  text"
    for index, row in rows.items():
        seconds = "failed" if row["error"] else f"{row['seconds']:.2f}"
        text = row["text"] if len(row["text"]) <= 60 else f"{row['text'][:59]}…"
        yield f"{index:<12} {seconds:>8} {row['attempts']:>8}  {text}"
        if row["error"]:
            yield f"{'':<12} {row['error']}"
