"""Inputs that must not meet: those of both splits, and outputs."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from open_miipher.base.errors import UserError, report
from open_miipher.base.paths import printable
from open_miipher.corpus.preprocessing.config import RawSource
from open_miipher.corpus.preprocessing.inputs import STAMP_THREADS, RawInputs
from open_miipher.corpus.threads import map_in_threads
from open_miipher.data.files import File
from open_miipher.shards import is_s3


def check_apart(source: RawSource, output: Path) -> None:
    """Refuse outputs that a later run would take for inputs, and inputs beside outputs.

    Raises:
        UserError: what is given lies in the output folder, or the folder in it.
    """
    real_output = output.resolve()
    for given in (*source.dir_list, *(url for url in source.urls if not is_s3(url))):
        path = Path(given).resolve()
        inside = path.is_dir() and real_output.is_relative_to(path)
        if inside or path.is_relative_to(real_output):
            raise UserError(
                f"the output {printable(output)} and the input {printable(given)} lie inside each "
                "other; choose another preprocess.output_root"
            )


def check_found_apart(inputs: RawInputs, output: Path) -> None:
    """Refuse outputs among the shards that patterns, braces and text files stand for.

    Raises:
        UserError: some lie in the output folder.
    """
    real_output = output.resolve()
    report(
        [
            f"the input {printable(url)} lies in the output {printable(output)}; choose another "
            "preprocess.output_root, or take it out of the urls"
            for url in inputs.urls
            if not is_s3(url) and Path(url).resolve().is_relative_to(real_output)
        ]
    )


def check_splits(train: RawInputs, test: RawInputs) -> None:
    """Refuse what is to be trained on and tested with.

    Of the listed files only those that some file of the other split equals in rate, length and
    channels are asked for who they are: of millions, few.

    Raises:
        UserError: a file or directory stands in both, under whatever name.
    """
    both = {*train.urls, *train.directories} & {*test.urls, *test.directories}
    report([f"{printable(n)} stands in data.train and in data.test" for n in sorted(both)])
    kinds = {_kind(file) for file in _files(test)}
    tested = dict(_identified(chain(_tars(test), (file.path for file in _files(test)))))
    candidates = (file.path for file in _files(train) if _kind(file) in kinds)
    for identity, path in _identified(chain(_tars(train), candidates)):
        if identity in tested:
            raise UserError(
                f"{printable(path)} of data.train and {printable(tested[identity])} of data.test "
                "are the same file; take it out of one of them"
            )


def _files(inputs: RawInputs) -> Iterator[File]:
    for files in inputs.directories.values():
        yield from (files[number] for number in range(len(files)))


def _tars(inputs: RawInputs) -> Iterator[Path]:
    return (Path(url) for url in inputs.urls if not is_s3(url))


def _kind(file: File) -> tuple[int, int, int]:
    return file.entry.sample_rate, file.entry.num_frames, file.entry.num_channels


def _identified(paths: Iterator[Path]) -> Iterator[tuple[tuple[int, ...], Path]]:
    """Yield the paths with what they lead to, over links; those that lead nowhere are left out."""
    for identity, path in map_in_threads(_identity, paths, STAMP_THREADS):
        if identity is not None:
            yield identity, path


def _identity(path: Path) -> tuple[tuple[int, ...] | None, Path]:
    try:
        status = path.stat()
    except OSError:
        return None, path
    # Size and time as well: some network file systems give a number twice.
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns), path
