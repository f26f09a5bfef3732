"""The corpus run that tokenises: recordings into the samples of tar shards of codec tokens."""

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from open_miipher.audio.io import AudioError
from open_miipher.audio.resample import num_output_frames
from open_miipher.base.atomic import remove_leftovers, write_lines
from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable
from open_miipher.base.plain import as_json
from open_miipher.base.rows import Row
from open_miipher.codec import AudioTokenizer
from open_miipher.corpus.array import OF_RESTORING
from open_miipher.corpus.inputs import Audio, InputSample, find_left
from open_miipher.corpus.ledger import MANIFEST_NAME, Ledger
from open_miipher.corpus.run import Item, Plan
from open_miipher.corpus.sample_shard import SampleShard
from open_miipher.corpus.tars import Packed
from open_miipher.distributed import Share
from open_miipher.restoration import Source
from open_miipher.shards import Sample, StorageError, encode_codes, member_name

_WHOLE_SECONDS = 60.0  # a longer recording is tokenised by itself, piece by piece
_BATCHES_READ = 4  # at once: among so many batches' samples, those of like length go together
_MOST_READ = 1024  # samples
_READERS = 4  # threads


@dataclass
class _Audio:
    """Audio to be tokenised.

    Attributes:
        input: what the manifest calls it.
        source: reads it.
        num_samples: at the codec's rate.
        waveform: (num_samples,); None of what is read piece by piece, and once it is tokenised.
        codes: (frames, codebooks), once it is tokenised.
        error: why it cannot be.
    """

    input: str
    source: Source
    num_samples: int
    waveform: Tensor | None = None
    codes: Tensor | None = None
    error: str | None = None


@dataclass
class _SampleInWork:
    """A sample as it came in, and its audio by the member's name."""

    sample: InputSample
    audio: dict[str, _Audio] = field(default_factory=dict)

    @property
    def failure(self) -> tuple[str, str] | None:
        """The input that is to blame, and why; None if there is nothing."""
        if self.sample.error is not None:
            return self.sample.input, self.sample.error
        return next(((a.input, a.error) for a in self.audio.values() if a.error is not None), None)


class Tokenise:
    """Turns every item of its inputs into a tar shard of tokens (a `corpus.run.Task`).

    Args:
        tokenizer: the codec.
        inputs: what is tokenised; checked.
        output_dir: gets the shards.
        batch_seconds: of audio that is tokenised at once.

    Attributes:
        identity: the codec and all that changes what comes out.
        option_names: of the command line.
    """

    option_names = OF_RESTORING

    def __init__(
        self, tokenizer: AudioTokenizer, inputs: Packed, output_dir: Path, batch_seconds: float
    ) -> None:
        if not batch_seconds > 0:
            raise UserError(f"--batch-seconds {batch_seconds:g}: give a number above 0")
        self._tokenizer, self._inputs, self._output_dir = tokenizer, inputs, output_dir
        self._batch_seconds = batch_seconds
        self.identity: Mapping[str, Any] = {
            "codec": tokenizer.fingerprint,
            "bandwidth": tokenizer.bandwidth,
            **inputs.identity,
        }

    def plan(self, ledger: Ledger) -> Plan:
        """Find what is left, fix the shards' names, and clear up after killed runs.

        Raises:
            UserError: there is nothing to tokenise.
        """
        found = self._inputs.ids()
        names = ledger.name_all(found, "tar", self._inputs.assign)
        ever = self._inputs.items(names).keys()
        items = self._inputs.items({item: names[item] for item in found})
        gone = ever - items.keys()
        ledger.record_gone(gone)
        plan = find_left(self._inputs, items, ledger, self._look)
        left = [item.id for item in plan.items] + [row["id"] for row in plan.failed]
        remove_leftovers(self._output_dir / items[item] for item in left)
        remove_leftovers(ledger.samples_path(item) for item in left)
        return replace(plan, num_gone=len(gone))

    def process(self, items: Share[Item]) -> Iterator[Row]:
        """Make the shards of one rank; a signal gives up the one in work."""
        for item in items:
            shard = _Shard(item, self._output_dir, self._tokenizer)
            items.under_way = shard.seconds_done
            try:
                for works in self._batches(shard):
                    self._tokenise(
                        [a for w in works if w.failure is None for a in w.audio.values()]
                    )
                    for work in works:
                        shard.add(work)
                    if items.stopped:
                        return
                yield shard.close()
            finally:
                shard.abort()

    def finish(self, rows: Iterable[Row]) -> None:
        """Write the manifest, sorted as the rows are."""
        path = self._output_dir / MANIFEST_NAME
        remove_leftovers([path])
        write_lines(path, map(json.dumps, Ledger(self._output_dir).listed(rows)))

    def _look(self, item: str, output: str, stamp: Any) -> Item | Row:
        try:
            return self._inputs.look(item, output, stamp)
        except AudioError as error:
            row = {"id": item, "stamp": stamp, "input": item, "output": None}
            return {**row, "error": str(error)}

    def _batches(self, shard: "_Shard") -> Iterator[list[_SampleInWork]]:
        """Yield the samples of an item, some at a time, while the audio of the next is read."""
        with ThreadPoolExecutor(_READERS) as pool:
            ahead = deque[list[Future[_SampleInWork]]]()
            for batch in self._grouped(shard):
                ahead.append([pool.submit(self._read, sample) for sample in batch])
                if len(ahead) > 1:
                    yield [future.result() for future in ahead.popleft()]
            while ahead:
                yield [future.result() for future in ahead.popleft()]

    def _grouped(self, shard: "_Shard") -> Iterator[list[InputSample]]:
        """Yield the samples of an item in groups that hold so much audio, and are not too many."""
        group, seconds = list[InputSample](), 0.0
        for sample in self._samples(shard):
            group.append(sample)
            sources = (a.source for a in sample.members.values() if isinstance(a, Audio))
            lengths = [source.num_frames / source.sample_rate for source in sources]
            seconds += sum(length for length in lengths if length <= _WHOLE_SECONDS)
            if seconds >= _BATCHES_READ * self._batch_seconds or len(group) >= _MOST_READ:
                yield group
                group, seconds = [], 0.0
        if group:
            yield group

    def _samples(self, shard: "_Shard") -> Iterator[InputSample]:
        """Yield what is in an item up to its end, or up to where it is damaged."""
        try:
            yield from self._inputs.open(shard.item)
        except StorageError:
            raise  # no fault of the input: the next ones would fare no better
        except UserError as error:
            shard.error = str(error)

    def _read(self, sample: InputSample) -> _SampleInWork:
        work, rate = _SampleInWork(sample), self._tokenizer.sample_rate
        for name, member in sample.members.items():
            if not isinstance(member, Audio):
                continue
            source = member.source
            length = num_output_frames(source.num_frames, source.sample_rate, rate)
            work.audio[name] = audio = _Audio(member.input, source, length)
            if source.num_frames <= _WHOLE_SECONDS * source.sample_rate:
                try:
                    blocks = [block[0] for block in source.resampled(rate, mono=True)]
                    audio.waveform = torch.from_numpy(np.concatenate(blocks))
                except AudioError as error:
                    audio.error = str(error)
        return work

    def _tokenise(self, audios: list[_Audio]) -> None:
        """Tokenise audio, that of like length together."""
        rate = self._tokenizer.sample_rate
        short = [audio for audio in audios if audio.waveform is not None]
        for batch in _batched(short, self._batch_seconds * rate):
            waveforms = [a.waveform for a in batch if a.waveform is not None]
            lengths = torch.tensor([len(waveform) for waveform in waveforms])
            codes = self._tokenizer.encode(pad_sequence(waveforms, batch_first=True), lengths)
            for audio, own in zip(batch, codes, strict=True):
                audio.codes, audio.waveform = own, None
        for audio in audios:
            if audio.codes is None:
                blocks = audio.source.resampled(rate, mono=True)
                try:
                    stream = self._tokenizer.encode_stream(torch.from_numpy(b[0]) for b in blocks)
                    audio.codes = torch.cat(list(stream))
                except AudioError as error:
                    audio.error = str(error)


class _Shard:
    """A shard of tokens in the making; it is not made if no sample is.

    Args:
        item: which becomes the shard.
        output_dir: of the run.
        tokenizer: made the tokens.

    Attributes:
        error: why no more samples came, if the input is damaged.
    """

    def __init__(self, item: Item, output_dir: Path, tokenizer: AudioTokenizer) -> None:
        self.item, self._tokenizer = item, tokenizer
        self._shard = SampleShard(item, output_dir, {})
        self.error: str | None = None
        self._seconds = 0.0

    def seconds_done(self) -> float:
        """Return the seconds of audio in it."""
        return self._seconds

    def add(self, work: _SampleInWork) -> None:
        """Append a sample whose audio is tokenised; what failed is listed, and left out.

        Raises:
            UserError: the disk refuses.
        """
        shard, sample = self._shard, work.sample
        if shard.refused is not None:
            return
        if work.failure is not None:
            shard.list_failed(sample, *work.failure)
            return
        if not work.audio:
            shard.num_carried += len(sample.members)
        members = {n: m for n, m in sample.members.items() if isinstance(m, bytes)}
        listed = []
        for name, audio in work.audio.items():
            assert audio.codes is not None
            tokens = member_name(name, "npy", members)
            known = tokens.removesuffix("npy") + "json"
            about = self._about(sample, audio)
            try:
                about = {**_object(members.get(known)), **about}
            except ValueError:
                problem = f"{printable(audio.input)}: its {known} is no JSON object"
                shard.list_failed(sample, audio.input, problem)
                return
            members[tokens], members[known] = encode_codes(audio.codes.numpy()), as_json(about)
            listed.append((audio, tokens, len(audio.codes)))
        shard.add(Sample(sample.key, members))
        for audio, tokens, frames in listed:
            seconds = round(audio.source.num_frames / audio.source.sample_rate, 6)
            self._seconds += seconds
            made = {"tokens_filepath": f"{sample.key}.{tokens}", "seconds": seconds}
            shard.list_made(sample, audio.input, {**made, "num_frames": frames})

    def close(self) -> Row:
        """Complete the shard and the list of its samples, and return its row.

        Raises:
            UserError: the disk refuses.
        """
        known = {"id": self.item.id, "stamp": self.item.stamp, "input": self.item.id}
        shard = self._shard.finish(self.error)
        if shard is None:
            return {**known, "output": None, "output_bytes": None, "error": self._shard.refused}
        seconds = round(self._seconds, 6)
        return {
            **known,
            "output": shard.output,
            "output_bytes": shard.num_bytes,
            **shard.counts,
            "seconds": seconds,
            "duration": seconds,
            "error": shard.error,
        }

    def abort(self) -> None:
        """Remove what is unfinished; nothing, once it is closed."""
        self._shard.discard()

    def _about(self, sample: InputSample, audio: _Audio) -> dict[str, Any]:
        return {
            **sample.extra,
            "file": audio.input,
            "seconds": round(audio.source.num_frames / audio.source.sample_rate, 6),
            "sample_rate": self._tokenizer.sample_rate,
            "num_samples": audio.num_samples,
            "codec": self._tokenizer.fingerprint,
            "bandwidth": self._tokenizer.bandwidth,
        }


def _batched(audios: list[_Audio], most: float) -> Iterator[list[_Audio]]:
    """Yield audio in batches of like length, of so many samples each, the padding included."""
    batch = list[_Audio]()
    for audio in sorted(audios, key=lambda audio: audio.num_samples):
        if batch and (len(batch) + 1) * audio.num_samples > most:
            yield batch
            batch = []
        batch.append(audio)
    if batch:
        yield batch


def _object(data: bytes | None) -> dict[str, Any]:
    """Return what a member json says; nothing if there is none.

    Raises:
        ValueError: it is no JSON object.
    """
    content = {} if data is None else json.loads(data)
    if not isinstance(content, dict):
        raise ValueError("no object")
    return content
