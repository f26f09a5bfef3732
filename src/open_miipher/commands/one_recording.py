"""Restore one recording into a file, or from standard input to standard output."""

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from open_miipher.audio.formats import FORMATS, FileFormat
from open_miipher.base.atomic import remove_leftovers
from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable
from open_miipher.base.streams import is_output_lost

if TYPE_CHECKING:  # what is slow to import comes after the command line was read
    from open_miipher.restoration import Restorer

STANDARD = Path("-")
"""Standard input or output."""

UNCLIPPED = "--subtype FLOAT keeps all, --level peak leaves room"
"""What can be done about samples that are clipped."""


def restore_one(arguments: argparse.Namespace, load: "Callable[[], Restorer]") -> None:
    """Restore one recording; what is said goes to standard error, so that audio may go out.

    Args:
        arguments: of the command line, with `recording`, its input and output.
        load: loads the model, which takes seconds.

    Raises:
        UserError: the input cannot be read, or the output not be written.
    """
    from open_miipher.audio.io import probe
    from open_miipher.distributed import stop_signals_interrupt

    stop_signals_interrupt()
    source, output = arguments.recording
    if source != STANDARD:
        probe(source)  # here, and below: before the model is loaded
    output, file_format = _one_output(source, output, arguments)
    with _temporary_folder() if STANDARD in (source, output) else nullcontext(Path()) as folder:
        made = folder / "restored" if output == STANDARD else output
        with redirect_stdout(sys.stderr):
            if source == STANDARD:
                source = _standard_input(folder)
                with _called_by_name(source):
                    probe(source)
            restorer = load()
            restorer.decide_on_trust()
            with _called_by_name(source) if source.parent == folder else nullcontext():
                sink = restorer.restore_file(source, made, file_format)
            if sink.num_clipped:
                print(f"{sink.num_clipped:,} samples were clipped at full scale; {UNCLIPPED}")
        if output == STANDARD:
            with made.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.flush()
            if is_output_lost():
                raise UserError("standard output cannot be written; see the warning above")


def _one_output(
    source: Path, output: Path, arguments: argparse.Namespace
) -> tuple[Path, FileFormat]:
    """Return the file that a recording becomes (or `-`), and how it is written."""
    if output == STANDARD:
        if sys.stdout.isatty():
            raise UserError("standard output is a terminal: send it into a file or a program")
        return output, FileFormat(arguments.format, arguments.subtype)
    if os.path.isdir(output):
        if source == STANDARD:
            raise UserError(f"{printable(output)} is a folder; name the file for the output")
        output = output / f"{source.stem}.{arguments.format}"
    ending = output.suffix[1:].lower()
    if ending not in FORMATS or arguments.format not in ("wav", ending):  # wav: the default
        raise UserError(
            f"{printable(output)}, --format {arguments.format}: let OUT end in .wav or .flac, "
            "which says how it is written"
        )
    if os.path.exists(output) and not arguments.overwrite:
        raise UserError(f"{printable(output)} is there already; --overwrite replaces it")
    if os.path.exists(output) and source != STANDARD and output.samefile(source):
        raise UserError(f"{printable(output)} is IN itself; give it another name")
    remove_leftovers([output])
    return output, FileFormat(ending, arguments.subtype)


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    try:
        folder = TemporaryDirectory(prefix="open_miipher-")
    except OSError as error:
        raise UserError(f"- needs a temporary file: {error.strerror}; set TMPDIR") from error
    with folder as name:
        yield Path(name)


@contextmanager
def _called_by_name(file: Path) -> Iterator[None]:
    """Leave out of what is said of a file the temporary folder that it is in."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace(printable(file), file.name)) from error


def _standard_input(folder: Path) -> Path:
    """Return a file that holds all of standard input: a recording is read more than once.

    Raises:
        UserError: nothing comes in, or there is no room for it.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise UserError("nothing is sent into standard input: send a recording, or name a file")
    path = folder / "standard input"
    try:
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
    except OSError as error:
        raise UserError(
            f"standard input cannot be kept in {printable(path)} ({error.strerror}), which takes "
            "all of it; set TMPDIR to a folder with more room"
        ) from error
    if not path.stat().st_size:
        raise UserError("standard input is empty: the program before this one gave nothing")
    return path
