"""The inputs of a restoration into shards: tar shards, or recordings in groups."""

import itertools
import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from open_miipher.audio.io import AudioError
from open_miipher.base.errors import UserError, report
from open_miipher.base.paths import printable
from open_miipher.corpus.ledger import GROUP_SIZE
from open_miipher.corpus.naming import Assign, assign_groups, assign_names
from open_miipher.corpus.restoring.recordings import Details, Recording, Recordings
from open_miipher.corpus.restoring.samples import Group, InputShard
from open_miipher.shards import Storage, StorageError, expand, is_s3

_MEASURED_SHARDS, _MEASURED_SAMPLES = 3, 8
_USUAL_SECONDS_PER_BYTE = 1 / 48_000  # 16 bits at 24 kHz


class ShardInputs(Protocol):
    """What shards are made of; `ids` is asked before the rest.

    Attributes:
        assign: gives shards to inputs.
        is_estimate: whether the seconds are taken from sizes.
        identity: what changes what comes out.
    """

    assign: Assign
    is_estimate: bool
    identity: Mapping[str, Any]

    def check(self, output_dir: Path) -> None:
        """Check, before a model is loaded, that outputs can go there.

        Raises:
            UserError: they cannot, or there is no such input.
        """

    def ids(self) -> list[str]:
        """List the inputs' stable ids, sorted.

        Raises:
            UserError: there are none, or some cannot be right.
        """

    def items(self, names: dict[str, str]) -> dict[str, str]:
        """Return every item with its shard, from the shard of every input."""

    def stamp(self, item: str) -> Any:
        """Return plain data that is another one when an item changed."""

    def look(self, item: str, stamp: Any) -> tuple[float, InputShard | Group]:
        """Look into an item.

        Returns:
            Seconds of audio that it holds, and what reads it.

        Raises:
            AudioError: it cannot be restored.
            UserError: the run cannot begin.
        """


class TarShards:
    """Tar shards, each of which becomes one of the same name (`ShardInputs`).

    Args:
        urls: what `shards.expand` takes.
        storage: reads them.
        member: which member of each sample is restored; all audio files if None.
    """

    is_estimate = True
    assign: Assign = staticmethod(assign_names)

    def __init__(self, urls: Sequence[str], storage: Storage, member: str | None = None) -> None:
        self._urls, self._storage, self._member = urls, storage, member
        self._output_dir = Path()
        self._found: dict[str, str] = {}
        self._seconds_per_byte = _USUAL_SECONDS_PER_BYTE
        self.identity: Mapping[str, Any] = {"outputs": "shards", "shard_member": member}

    def check(self, output_dir: Path) -> None:
        """Refuse a folder that the outputs would lie in."""
        self._output_dir = output_dir
        for url in self._urls:
            if os.path.isdir(url) and output_dir.resolve().is_relative_to(Path(url).resolve()):
                raise UserError(
                    f"the output directory {printable(output_dir)} lies in the input "
                    f"{printable(url)}; choose another output directory"
                )

    def ids(self) -> list[str]:
        """Find the shards; an id is the path below their common folder."""
        urls = expand(self._urls, self._storage, "--input-shards")
        real_output = self._output_dir.resolve()
        report(
            [
                f"the input {printable(url)} lies in the output directory {self._output_dir}; "
                "choose another output directory"
                for url in urls
                if not is_s3(url) and Path(url).resolve().is_relative_to(real_output)
            ]
        )
        self._found = {}
        places = {url: _place(url) for url in urls}
        folders = zip(*(place[:-1] for place in places.values()), strict=False)
        common = sum(1 for _ in itertools.takewhile(lambda parts: len(set(parts)) == 1, folders))
        for url, place in places.items():
            item = "/".join(place[common:])
            if item in self._found:
                raise UserError(
                    f"--input-shards: {url} and {self._found[item]} would both become {item}; "
                    "restore them into two output directories"
                )
            self._found[item] = url
        self._seconds_per_byte = self._measure()
        return sorted(self._found)

    def items(self, names: dict[str, str]) -> dict[str, str]:
        """Every input is an item."""
        return names

    def stamp(self, item: str) -> Any:
        """Return the storage's stamp; None of a shard that is missing."""
        try:
            return self._storage.stamp(self._found[item])
        except StorageError:
            raise
        except UserError:
            return None

    def look(self, item: str, stamp: Any) -> tuple[float, InputShard | Group]:
        """Estimate its length from its size."""
        if stamp is None:
            raise AudioError(f"{printable(self._found[item])} does not exist")
        return max(1, stamp[0]) * self._seconds_per_byte, self._shard(item, stamp)

    def _shard(self, item: str, stamp: Any) -> InputShard:
        return InputShard(item, self._found[item], stamp, self._storage, self._member)

    def _measure(self) -> float:
        """Take the seconds per byte from the first samples of a few shards."""
        items = sorted(self._found)
        chosen = items[:: -(-len(items) // _MEASURED_SHARDS)]
        existing = [item for item in chosen if self.stamp(item) is not None]
        measured = [self._shard(i, None).mean_seconds(_MEASURED_SAMPLES) for i in existing]
        known = [seconds for seconds in measured if seconds > 0]
        return sum(known) / len(known) if known else _USUAL_SECONDS_PER_BYTE


class Groups:
    """Recordings, a fixed number of them to a shard (`ShardInputs`).

    A recording stays in the shard that it was once given, and new ones get new shards.

    Args:
        recordings: the inputs.
        size: recordings of a shard.
    """

    is_estimate = False

    def __init__(self, recordings: Recordings, size: int) -> None:
        if size < 1:
            raise UserError(f"--output-shards {size}: give the samples of a shard, 1 or more")
        self._recordings = recordings
        self._members: dict[str, list[str]] = {}
        self.assign: Assign = partial(assign_groups, size=size)
        self.identity: Mapping[str, Any] = {"outputs": "shards", GROUP_SIZE: size}

    def check(self, output_dir: Path) -> None:
        """See `Recordings.check`."""
        self._recordings.check(output_dir)

    def ids(self) -> list[str]:
        """List the recordings."""
        return self._recordings.ids()

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
            recording = self._recordings.recording(member)
            known = [member, recording.stamp, {**recording.extra}]
            digest.update(json.dumps(known, sort_keys=True).encode())
        return digest.hexdigest()[:32]

    def look(self, item: str, stamp: Any) -> tuple[float, InputShard | Group]:
        """Look into all recordings; those that cannot be read fail when the shard is made."""
        recordings: dict[str, tuple[Recording, Details | str]] = {}
        seconds = 0.0
        for member in self._members[item]:
            recording = self._recordings.recording(member)
            try:
                details = Details.of(recording, recording.stamp)
            except AudioError as error:
                recordings[member] = recording, str(error)
            else:
                recordings[member] = recording, details
                seconds += details.seconds
        names = {member: self._recordings.wanted(member) for member in recordings}
        return seconds, Group(stamp, names, recordings)


def _place(url: str) -> tuple[str, ...]:
    """Return the parts of where a shard lies.

    Raises:
        UserError: an object's name cannot be a path.
    """
    parts = PurePosixPath(url if is_s3(url) else os.path.abspath(url).lstrip("/")).parts
    if ".." in parts:
        raise UserError(f"--input-shards: {url} has a .. in its name; rename it")
    return parts
