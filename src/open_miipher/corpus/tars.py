"""Inputs that become tar shards: tar shards themselves, or recordings in groups."""

import itertools
import json
import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from open_miipher.audio.io import AudioError, Encoded
from open_miipher.base.errors import UserError
from open_miipher.base.paths import check_apart, printable
from open_miipher.base.plain import as_json
from open_miipher.corpus.inputs import Audio, Inputs, InputSample, stored_stamp
from open_miipher.corpus.ledger import GROUP_SIZE
from open_miipher.corpus.recordings import Recordings, Segment
from open_miipher.corpus.run import Item
from open_miipher.restoration import Source
from open_miipher.shards import (
    Member,
    Sample,
    ShardError,
    Storage,
    StorageError,
    assign_keys,
    audio_names,
    expand,
    extension_of,
    is_s3,
    names_below,
    open_member,
    read_samples,
    without_audio,
)

_RESTORED = "restored-"
_MEASURED_SHARDS, _MEASURED_SAMPLES = 3, 8
_USUAL_SECONDS_PER_BYTE = 1 / 48_000  # 16 bits at 24 kHz


class Packed(Inputs):
    """Inputs that become tar shards."""

    unit, called_failed = "shards", "failed or lack samples that failed"
    are_packed = True


class TarShards(Packed):
    """Tar shards, each of which becomes one of the same name.

    Args:
        urls: what `shards.expand` takes.
        storage: reads them.
        member: which member of each sample is restored; all audio files if None.
    """

    is_estimate = True

    def __init__(self, urls: Sequence[str], storage: Storage, member: str | None = None) -> None:
        self._urls, self._storage, self._member = urls, storage, member
        self._output_dir = Path()
        self._found: dict[str, str] = {}
        self._seconds_per_byte = _USUAL_SECONDS_PER_BYTE
        self.identity: Mapping[str, Any] = {"outputs": "shards", "shard_member": member}

    def check(self, output_dir: Path) -> None:
        """Refuse a folder that the outputs would lie in."""
        self._output_dir = output_dir
        check_apart([url for url in self._urls if os.path.isdir(url)], output_dir)

    def ids(self) -> list[str]:
        """Find the shards; an id is the path below their common folder."""
        urls = expand(self._urls, self._storage, "--input-shards")
        check_apart([url for url in urls if not is_s3(url)], self._output_dir)
        self._found = names_below(urls, "--input-shards")
        name, url = next(iter(self._found.items()))
        place = url if is_s3(url) else os.path.abspath(url)
        folder = place.removesuffix(name).rstrip("/")
        self.root = folder if is_s3(url) else os.path.realpath(folder)
        self._seconds_per_byte = self._measure()
        return sorted(self._found)

    def stamp(self, item: str) -> Any:
        """Return the storage's stamp; None of a shard that is missing."""
        found = stored_stamp(self._storage, self._found[item])
        return None if isinstance(found, UserError) else found

    def look(self, item: str, output: str, stamp: Any) -> Item:
        """Estimate its length from its size; the details are where it lies."""
        url = self._found[item]
        if stamp is None:
            raise AudioError(f"{printable(url)} does not exist")
        return Item(item, output, max(1, stamp[0]) * self._seconds_per_byte, stamp, url)

    def open(self, item: Item) -> Iterator[InputSample]:
        """Read a shard from its start.

        Raises:
            ShardError: it is damaged or truncated; what came before was whole.
            StorageError: the storage cannot be reached.
        """
        with self._storage.open(item.details) as file:
            for sample in read_samples(file, item.details, with_rest=True):
                yield self._sample(item.id, sample)

    def _sample(self, item: str, sample: Sample) -> InputSample:
        path = f"{item}/{sample.key}"
        named = [name for name in sample.members if name == self._member]
        chosen = audio_names(sample) if self._member is None else named
        if not chosen:
            problem = without_audio(sample)
            if self._member is not None and (problem is not None or audio_names(sample)):
                problem = f"has no member {self._member}"
            error = None if problem is None else printable(f"{path} {problem}")
            return InputSample(path, sample.key, sample.members, error)
        members: dict[str, bytes | Audio] = dict(sample.members)
        for name in chosen:
            try:
                member = open_member(sample, name, f"{item}/")
            except (AudioError, ShardError) as error:
                return InputSample(f"{path}.{name}", sample.key, error=str(error))
            members[name] = Audio(member.name, _source(member))
        return InputSample(path, sample.key, members)

    def _measure(self) -> float:
        """Return the seconds of audio a byte in the first samples of a few shards."""
        urls, known = [self._found[item] for item in sorted(self._found)], []
        for url in urls[:: -(-len(urls) // _MEASURED_SHARDS)]:
            try:
                with self._storage.open(url) as file:
                    samples = list(itertools.islice(read_samples(file, url), _MEASURED_SAMPLES))
            except StorageError:
                raise
            except UserError:  # reported where the shard is made
                continue
            members = [m for s in samples for m in self._sample("", s).members.values()]
            sources = [member.source for member in members if isinstance(member, Audio)]
            num_bytes = sum(len(data) for sample in samples for data in sample.members.values())
            seconds = sum(source.num_frames / source.sample_rate for source in sources)
            known += [seconds / (1 + num_bytes)] if seconds else []
        return sum(known) / len(known) if known else _USUAL_SECONDS_PER_BYTE


Group = list[tuple[str, str, Segment, str | None]]
"""Segments of a shard: id, what its key is named after, and why it cannot be read, if it cannot."""


class Groups(Packed):
    """Recordings, a fixed number of them to a shard.

    A recording stays in the shard that it was once given, `restored-000000.tar` …

    Args:
        recordings: the inputs.
        size: recordings of a shard.
        prefix: of the shards' names.
    """

    def __init__(self, recordings: Recordings, size: int, prefix: str = _RESTORED) -> None:
        if size < 1:
            raise UserError(f"--output-shards {size}: give the samples of a shard, 1 or more")
        self._recordings, self._size, self._prefix = recordings, size, prefix
        self._members: dict[str, list[str]] = {}
        self.identity: Mapping[str, Any] = {"outputs": "shards", GROUP_SIZE: size}

    def check(self, output_dir: Path) -> None:
        """Refuse what the check of the recordings refuses."""
        self._recordings.check(output_dir)

    def ids(self) -> list[str]:
        """List the recordings."""
        found = self._recordings.ids()
        self.root = self._recordings.root
        return found

    def assign(
        self, items: Collection[str], given: Mapping[str, str], extension: str
    ) -> dict[str, str]:
        """Put recordings that have no shard yet into new ones, so that a shard is made once."""
        suffix = f".{extension}"
        numbers = (n.removeprefix(self._prefix).removesuffix(suffix) for n in set(given.values()))
        first = max((int(number) for number in numbers if number.isdigit()), default=-1) + 1
        new = sorted(set(items) - set(given))
        return {
            item: f"{self._prefix}{first + place // self._size:06d}{suffix}"
            for place, item in enumerate(new)
        }

    def items(self, names: dict[str, str]) -> dict[str, str]:
        """Every shard is an item of its own name."""
        members = defaultdict(list)
        for recording in sorted(names):
            members[names[recording]].append(recording)
        self._members = dict(members)
        return {shard: shard for shard in self._members}

    def stamp(self, item: str) -> str:
        """Return a digest of the recordings' own, and of what is carried along."""
        digest = sha256()
        for member in self._members[item]:
            segment = self._recordings.segment(member)
            known = [member, segment.stamp, {**segment.about}]
            digest.update(json.dumps(known, sort_keys=True).encode())
        return digest.hexdigest()[:32]

    def look(self, item: str, output: str, stamp: Any) -> Item:
        """Look into all segments; those that cannot be read fail when the shard is made."""
        group = Group()
        for member in self._members[item]:
            segment, error = self._recordings.segment(member), None
            try:
                segment = segment.look()
            except AudioError as unreadable:
                error = str(unreadable)
            group.append((member, self._recordings.named_after(member), segment, error))
        return Item(item, output, sum(entry[2].seconds for entry in group), stamp, group)

    def open(self, item: Item) -> Iterator[InputSample]:
        """Give a sample for each: the audio, and what the manifest says of it as `json`."""
        group: Group = item.details
        keys = assign_keys(path for _, path, _, _ in group)
        for key, (name, _, segment, error) in zip(keys, group, strict=True):
            extra = {**segment.about, **segment.origin}
            if error is not None:
                yield InputSample(name, key, error=error, extra=extra)
                continue
            audio = Audio(name, segment.source())
            members: dict[str, bytes | Audio] = {extension_of(segment.path): audio}
            if extra:
                members["json"] = as_json(extra)
            yield InputSample(name, key, members, extra=extra)


def _source(member: Member) -> Source:
    """Return what reads all of a member."""
    if isinstance(member.data, Encoded):
        return Source.from_file(member.data, member.info)
    return Source.from_array(member.data, member.info.sample_rate, printable(member.name))
