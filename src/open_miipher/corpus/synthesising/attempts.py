"""Texts given to workers, and again with other seeds, until each is spoken or has failed."""

import logging
import math
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice

from open_miipher.base.atomic import remove_leftovers
from open_miipher.base.rows import Row
from open_miipher.corpus.pool import Pool
from open_miipher.corpus.run import Item
from open_miipher.corpus.synthesising.config import SynthesisConfig
from open_miipher.corpus.synthesising.outputs import Spoken
from open_miipher.corpus.synthesising.speaking import Begun, Said, Speaking, Text
from open_miipher.distributed import Share

_BATCHES_A_GROUP = 64  # at the end of each, the device waits until the last batch is written
_LOG = logging.getLogger("open_miipher.synthesis")


@dataclass
class _Group:
    """Texts that a worker has; `begun` are those of the batch that it is at."""

    left: dict[str, Text]
    begun: list[str] = field(default_factory=list)


class Attempts:
    """Has the texts of one rank spoken.

    They go to the workers in groups of some batches. What a worker had that died is done by others:
    the batch that it was at in halves, until the text is found that is to blame.

    Args:
        items: of the rank.
        config: all of it.
        pool: its workers speak.
        build: what they do.
        num_workers: of the pool.
    """

    def __init__(
        self,
        items: Share[Item],
        config: SynthesisConfig,
        pool: Pool,
        build: Speaking,
        num_workers: int,
    ) -> None:
        self._items, self._config = items, config
        self._pool, self._build, self._num_workers = pool, build, num_workers
        self._own: dict[str, Item] = {}  # that are neither spoken nor failed
        self._tries: Counter[str] = Counter()  # that failed
        self._again: deque[list[str]] = deque()
        self._groups: dict[str, _Group] = {}
        self._num_taken = self._num_groups = 0

    def results(self) -> Iterator[Spoken | Row]:
        """Yield what was spoken, and the rows of what failed."""
        while True:
            parts = self._pool.map(
                self._build, self._hand_out(), lambda: self._items.stopped, lambda group: None
            )
            for item, part, problem in parts:
                if problem is not None:
                    yield from self._lost(self._groups.pop(item.id), problem)
                elif isinstance(part, Begun):
                    self._groups[item.id].begun = part.indices
                elif part is not None:
                    yield from self._heard(self._groups[item.id], part)
            if self._items.stopped or not self._again:
                return

    def _hand_out(self) -> Iterator[Item]:
        """Yield groups, first of what is to be tried again."""
        while True:
            indices = self._again.popleft() if self._again else []
            if not indices:
                left = self._items.num_items - self._num_taken
                new = list(islice(self._items, self._group_size(left)))
                self._num_taken += len(new)
                self._own.update({item.id: item for item in new})
                indices = [item.id for item in new]
            if not indices:
                return
            self._num_groups += 1
            name = f"group {self._num_groups}"
            texts = {i: self._text(self._own[i]) for i in indices}
            self._groups[name] = _Group(texts)
            cost = math.fsum(self._own[i].cost for i in indices)
            yield Item(name, "", cost, None, list(texts.values()))

    def _heard(self, group: _Group, all_said: list[Said]) -> Iterator[Spoken | Row]:
        """Take what was said well; the others are tried again together."""
        to_retry = []
        for said in all_said:
            text = group.left.pop(said.index)
            if said.problem is None:
                yield self._made(text, said)
            elif (row := self._fail(said.index, said.problem)) is None:
                to_retry.append(said.index)
            else:
                yield row
        self._again.extend([to_retry] if to_retry else [])

    def _lost(self, group: _Group, problem: str) -> Iterator[Row]:
        """Have the texts of a worker that died done by others."""
        _LOG.warning("a worker was lost at %d texts: %s", len(group.left), problem)
        remove_leftovers(self._config.folder / self._own[index].output for index in group.left)
        to_blame, lists = _divided(group, self._config.tts.batch_size)
        self._again.extend(lists)
        if to_blame is not None:
            row = self._fail(to_blame, problem)
            if row is None:
                self._again.append([to_blame])
            else:
                yield row

    def _fail(self, index: str, problem: str) -> Row | None:
        """Count an attempt; returns the row of a text that had its last one."""
        self._tries[index] += 1
        _LOG.warning("%s, attempt %d: %s", index, self._tries[index], problem)
        if self._tries[index] <= self._config.processing.max_retries:
            return None
        return failed_row(self._own.pop(index), self._tries[index], f"{index}: {problem}")

    def _group_size(self, num_left: int) -> int:
        """Return how many texts a worker gets at once: many, but fewer once others need some."""
        size, others = self._config.tts.batch_size, self._num_workers - 1
        share = num_left // (2 * self._num_workers) if others else num_left
        return max(1, min(max(share, size), _BATCHES_A_GROUP * size))

    def _text(self, item: Item) -> Text:
        seed = f"{self._config.processing.seed} {item.id} {self._tries[item.id]}"
        number = int.from_bytes(sha256(seed.encode()).digest()[:8]) >> 1
        return Text(item.id, item.details, item.output, number, item.cost)

    def _made(self, text: Text, said: Said) -> Spoken:
        item, attempts = self._own.pop(said.index), self._tries[said.index] + 1
        rate, keep = self._config.processing.sample_rate, self._config.output.keep_audio
        seconds = round(said.num_frames / rate, 6)
        assert said.tokens is not None
        row = {
            "id": item.id,
            "stamp": item.stamp,
            "audio": item.output,
            "outputs": [[item.output, said.audio_bytes]] if keep == "files" else [],
            "seconds": seconds,
            "sample_rate": rate,
            "num_frames": said.num_frames,
            "attempts": attempts,
            "error": None,
        }
        record = {
            "index": item.id,
            "text": text.text,
            "audio": item.output if keep == "files" else None,
            "tokens": said.tokens,
            "codebooks": said.tokens.shape[1],
            "seconds": seconds,
            "sample_rate": rate,
            "backend": self._config.tts.backend,
            "model": said.model,
            "codec": said.codec,
            "seed": text.seed,
            "attempts": attempts,
        }
        return Spoken(row, record, said.audio)


def failed_row(item: Item, attempts: int, reason: str) -> Row:
    """Return the row of a text that is not spoken."""
    known = {"id": item.id, "stamp": item.stamp, "outputs": [], "seconds": round(item.cost, 6)}
    return {**known, "attempts": attempts, "error": reason}


def _divided(group: _Group, batch_size: int) -> tuple[str | None, list[list[str]]]:
    """Tell what to do with the texts of a worker that died.

    Returns:
        The text that is to blame, if it was alone in its batch; and lists of texts to do again.
    """
    suspects = [index for index in group.begun if index in group.left]
    suspects = suspects or list(group.left)[:batch_size]
    rest = [index for index in group.left if index not in set(suspects)]
    half = len(suspects) // 2
    lists = [suspects[:half], suspects[half:], rest] if half else [rest]
    return None if half or not suspects else suspects[0], [each for each in lists if each]
