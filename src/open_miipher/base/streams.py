"""Names and standard streams: alike under every locale, and whoever reads what is printed."""

import errno
import io
import os
import sys
from typing import Any, TextIO

_UTF8 = ("-X", "utf8")


def set_up_streams() -> None:
    """Take names of files as UTF-8, and go on where what is printed cannot be written.

    Python takes the encoding of names from the locale, and cannot change it later: under
    ISO-8859-1, names would be written into an index as other letters. So the program is started
    anew in Python's UTF-8 mode, in this process, and its children inherit that. What a stream
    cannot show is escaped. A stream that is closed, whose reader has gone or whose disk is full
    leads nowhere from then on: work goes on, and is not blamed.
    """
    if sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *_UTF8, *sys.orig_argv[1:]])
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file to be opened would take its place
            _lead_nowhere(number)
    sys.stdout = _kept_open(sys.stdout, sys.__stdout__, 1)
    sys.stderr = _kept_open(sys.stderr, sys.__stderr__, 2)


def is_output_lost() -> bool:
    """Whether some of what was printed could not be written, though somebody wanted it."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return isinstance(raw, _KeptOpen) and raw.is_lost


class _KeptOpen(io.FileIO):
    """A standard stream that leads nowhere after it could not be written to."""

    is_lost = False

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            _lead_nowhere(self.fileno())
            if error.errno != errno.EPIPE:  # a reader that has gone has seen what it wanted
                self.is_lost = True
                if self.fileno() == 1:
                    print(
                        f"warning: standard output cannot be written ({error.strerror}); what is "
                        "printed from here on is lost, the work goes on",
                        file=sys.stderr,
                        flush=True,
                    )
            return len(data)


def _kept_open(stream: TextIO | None, original: TextIO | None, number: int) -> TextIO | None:
    """Return the stream to print to; one that somebody put in place, such as a test, as it is."""
    if stream is not original:
        return stream
    if stream is not None:
        stream.flush()
    kept: Any = _KeptOpen(number, "w", closefd=False)
    raw = io.BufferedWriter(kept)
    is_at_once = number == 2 or os.isatty(number) or getattr(stream, "write_through", False)
    return io.TextIOWrapper(raw, "utf-8", "backslashreplace", line_buffering=is_at_once)


def _lead_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != number:  # it took the place itself otherwise
        os.dup2(nowhere, number)
        os.close(nowhere)
