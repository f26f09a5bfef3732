"""What goes into an output shard: the samples of an input shard, or a group of recordings."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from open_miipher.audio.io import AUDIO_EXTENSIONS, AudioError, Encoded, probe
from open_miipher.base.paths import printable
from open_miipher.corpus.naming import assign_keys, member_name
from open_miipher.corpus.restoring.recordings import Details, Recording
from open_miipher.restoration import Source
from open_miipher.shards import (
    Sample,
    ShardError,
    Storage,
    decode_waveform,
    read_rate,
    read_samples,
)

_ARRAYS = ("npy", "pth")


@dataclass(frozen=True)
class Unrestored:
    """A member that is to be restored.

    Attributes:
        input: what the manifest calls it.
        source: its audio.
    """

    input: str
    source: Source


@dataclass(frozen=True)
class InputSample:
    """A sample on its way in.

    Attributes:
        input: what the manifest calls it; if it cannot be restored, the member that is to blame.
        key: in the output shard.
        members: by name in the output shard, in order; bytes are carried along.
        error: why it cannot be restored.
        extra: what else the manifest is to say of it.
    """

    input: str
    key: str
    members: Mapping[str, bytes | Unrestored] = field(default_factory=dict)
    error: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class InputShard:
    """A tar shard.

    Attributes:
        id: path below the input shards' common folder.
        url: where it lies.
        stamp: of the file or object.
        storage: reads it.
        member: which one of each sample is restored; all audio files if None.
    """

    id: str
    url: str
    stamp: list[Any]
    storage: Storage
    member: str | None

    def samples(self, extension: str) -> Iterator[InputSample]:
        """Read it from its start.

        Args:
            extension: of the restored members.

        Raises:
            ShardError: it is damaged or truncated; what came before was whole.
            StorageError: the storage cannot be reached.
        """
        with self.storage.open(self.url) as file:
            for sample in read_samples(file, self.url):
                yield self._sample(sample, extension)

    def mean_seconds(self, samples: int) -> float:
        """Return seconds of audio per byte in the first few samples; 0 if they cannot be read."""
        seconds, num_bytes = 0.0, 1
        try:
            with self.storage.open(self.url) as file:
                for _, sample in zip(range(samples), read_samples(file, self.url), strict=False):
                    num_bytes += sum(map(len, sample.members.values()))
                    for member in self._sample(sample, "").members.values():
                        if isinstance(member, Unrestored):
                            seconds += member.source.num_frames / member.source.sample_rate
        except ShardError:
            return 0.0
        return seconds / num_bytes

    def _sample(self, sample: Sample, extension: str) -> InputSample:
        path = f"{self.id}/{sample.key}"
        chosen = [name for name in sample.members if self._is_chosen(name)]
        if not chosen:
            what = "audio" if self.member is None else f"member {self.member}"
            return InputSample(path, sample.key, error=f"{printable(path)} has no {what}")
        names: dict[str, str] = {}
        carried = sample.members.keys() - set(chosen)
        for name in sorted(chosen, key=lambda name: not name.endswith(extension)):
            names[name] = member_name(name, extension, {*carried, *names.values()})
        members: dict[str, bytes | Unrestored] = {}
        for name, data in sample.members.items():
            if name not in names:
                members[name] = data
                continue
            input_name = f"{path}.{name}"
            try:
                members[names[name]] = Unrestored(input_name, _source(sample, name, input_name))
            except (AudioError, ShardError) as error:
                return InputSample(input_name, sample.key, error=str(error))
        return InputSample(path, sample.key, members)

    def _is_chosen(self, name: str) -> bool:
        if self.member is not None:
            return name == self.member
        return _extension(name) in AUDIO_EXTENSIONS


@dataclass(frozen=True)
class Group:
    """Recordings that go into one shard.

    Attributes:
        stamp: another one if one of the files changed, or what is carried along.
        names: what the outputs of the recordings are named after, by id.
        recordings: by id; with what is known of each, or why it cannot be read.
    """

    stamp: str
    names: Mapping[str, str]
    recordings: Mapping[str, tuple[Recording, Details | str]]

    def samples(self, extension: str) -> Iterator[InputSample]:
        """Give a sample for each: the audio, and what the manifest says of it as `json`.

        Args:
            extension: of the restored members.
        """
        keys = assign_keys(self.names.values())
        for key, (item, (recording, details)) in zip(keys, self.recordings.items(), strict=True):
            extra = {**recording.extra, **recording.origin}
            if isinstance(details, str):
                yield InputSample(item, key, error=details, extra=extra)
                continue
            members: dict[str, bytes | Unrestored] = {extension: Unrestored(item, details.source())}
            if extra:
                text = json.dumps(extra, ensure_ascii=False)
                members["json"] = text.encode("utf-8", "backslashreplace")  # half a surrogate pair
            yield InputSample(item, key, members, extra=extra)


def _extension(name: str) -> str:
    return name.rpartition(".")[2].lower()


def _source(sample: Sample, name: str, input_name: str) -> Source:
    """Return what reads a member; arrays have their rate beside them."""
    data = sample.members[name]
    if _extension(name) not in _ARRAYS:
        file = Encoded(input_name, data)
        return Source.from_file(file, probe(file))
    try:
        rate = read_rate(sample.members)
    except ShardError as error:
        raise ShardError(f"{printable(input_name)} is an array, but {error}") from error
    return Source.from_array(decode_waveform(data, input_name)[0], rate, input_name)
