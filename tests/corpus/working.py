"""What workers of a pool do in tests: a module of its own, since they import it."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from open_miipher.audio.io import AudioError, AudioWriter
from open_miipher.base.errors import UserError
from open_miipher.corpus.inputs import Audio, InputSample
from open_miipher.corpus.pool import worker_place
from open_miipher.corpus.recordings import Directory, Segment
from open_miipher.corpus.run import Item
from open_miipher.restoration import Source, job, streams
from open_miipher.shards import ShardWriter


class Doing:
    """Builds a function that notes the items it begins, and then does what an item is named for.

    Args:
        folder: gets a line for every start and item, in `log`.
        then: what to do with other items; their ids come back by default.
    """

    def __init__(self, folder: Path, then=None) -> None:
        self.folder, self.then = folder, then

    def note(self, text: str) -> None:
        with (self.folder / "log").open("a") as file:
            file.write(f"{text} {os.getpid()}\n")

    def __call__(self):
        self.note("build")
        return self.do

    def do(self, item: Item):
        name = item.id.rpartition("/")[2].partition(".")[0]
        self.note(name)
        if name.startswith("die") or (name.startswith("once") and self._is_first(name)):
            os.kill(os.getpid(), signal.SIGKILL)
        if name.startswith("refuse"):
            raise UserError("the store is gone")
        if name.startswith("fault"):
            raise ValueError("a fault of ours")
        if name.startswith("full"):
            raise OSError(28, "No space left on device")
        if name.startswith("wait"):
            time.sleep(3600)
        if name.startswith("parts"):
            return self.parts(item)
        return item.id if self.then is None else self.then(item)

    def parts(self, item: Item):
        """Give three parts, with the worker's place; one that is named so dies after two."""
        for number in range(3):
            if number == 2 and "die" in item.id:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.7 if "slow" in item.id else 0.0)
            yield number, worker_place()

    def _is_first(self, name: str) -> bool:
        lines = (self.folder / "log").read_text().splitlines()
        return sum(line.split()[0] == name for line in lines) == 1


class FullDisk:
    """Builds a maker of units whose disk is full."""

    def __init__(self, make) -> None:
        self.make_whole = make

    def __call__(self):
        return self.make

    def make(self, item: Item):
        before = ShardWriter.add

        def full(writer, sample):
            raise OSError(28, "No space left on device")

        ShardWriter.add = full
        try:
            return self.make_whole(item)
        finally:
            ShardWriter.add = before


def broken():
    """Die before it is ready."""
    os._exit(3)


def slowly_built():
    """Be ready after whoever wants it has gone."""
    time.sleep(0.5)
    return slowly_built


class DyingDirectory(Directory):
    """Kills the process that opens `die`, and the first one that opens `once`."""

    def open(self, item: Item):
        mark = self._root.with_name("died once")
        if item.id.startswith("die") or (item.id.startswith("once") and not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().open(item)


class FullDirectory(Directory):
    """From `full` on, the disk of the process that opens it has no room for an audio file."""

    def open(self, item: Item):
        if item.id.startswith("full"):

            def full(*_):
                raise AudioError("no space left on its disk")

            AudioWriter._encode = full
        return super().open(item)


class _ReadTwice(Directory):
    """Has no file kept between the pass that finds its level and the one that measures it."""

    def open(self, item: Item) -> Iterator[InputSample]:
        job.KEPT_SAMPLES = 0
        for sample in super().open(item):
            [(name, audio)] = sample.members.items()
            assert isinstance(audio, Audio)
            source = self.slowly(item.id, audio.source)
            yield replace(sample, members={name: replace(audio, source=source)})

    def slowly(self, item: str, source: Source) -> Source:
        raise NotImplementedError


class DyingWhileMeasured(_ReadTwice):
    """Kills the process that has `die` measured, before it has read a sample for that."""

    def slowly(self, item: str, source: Source) -> Source:
        passes = []

        def blocks():
            passes.append(item)
            if item.startswith("die") and len(passes) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            yield from source.open()

        return replace(source, open=blocks)


class WordyDirectory(_ReadTwice):
    """Items take more than a connection holds, and `long` is measured in hundreds of pieces."""

    def segment(self, item: str) -> Segment:
        return replace(super().segment(item), about={"text": 300_000 * "a"})

    def slowly(self, item: str, source: Source) -> Source:
        streams.BLOCK_FRAMES = 800

        def blocks():
            if item.startswith("long"):
                time.sleep(0.5)  # the next item is on its way
            yield from source.open()

        return replace(source, open=blocks)
