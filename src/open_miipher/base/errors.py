"""Errors that a user can fix: one sentence that names the file or key, without a traceback."""

import functools
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from open_miipher.base.account import name_user
from open_miipher.base.shipped import as_called
from open_miipher.base.streams import is_output_lost, set_up_streams

USER_ERROR_STATUS = 2
"""Exit status of a command that ends with a `UserError`."""

STOPPED_STATUS = 4
"""Exit status of work that a signal ended early, with all that was made saved."""

INTERRUPTED_STATUS = 130
"""Exit status of a command that Ctrl-C ended at once, as shells give it."""

_LISTED = 10  # problems that one report lists; the others are only counted


class UserError(Exception):
    """Bad input or wrong use; the message says what is wrong and how to fix it.

    Attributes:
        shared: every rank raises the same error, so only one of them should print it.
        may_pass: the same command may go well when it is started again.
    """

    may_pass = False

    def __init__(self, message: str, shared: bool = False, may_pass: bool | None = None) -> None:
        super().__init__(message)
        self.shared = shared
        if may_pass is not None:
            self.may_pass = may_pass


class Notice(UserWarning):
    """Something that is left out, and that the user should know; commands print it in one line."""


def notice(text: str) -> None:
    """Warn of something; a command prints `warning: …`, and goes on."""
    warnings.warn(text, Notice, stacklevel=2)


@contextmanager
def _telling_notices() -> Iterator[None]:
    with warnings.catch_warnings():
        show = warnings.showwarning

        def tell(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, Notice):
                print(f"warning: {as_called(str(message))}", file=sys.stderr, flush=True)
            else:
                show(message, category, *place, **more)

        warnings.simplefilter("always", Notice)
        warnings.showwarning = tell
        yield


def report(problems: Sequence[str]) -> None:
    """Raise one error for all problems; do nothing if there are none.

    Args:
        problems: one sentence each.

    Raises:
        UserError: lists the problems, one per line; after the first ten, only their number.
    """
    if len(problems) == 1:
        raise UserError(problems[0])
    if problems:
        shown = [f"  - {problem}" for problem in problems[:_LISTED]]
        more = [f"  … and {len(problems) - _LISTED} more"] if len(problems) > _LISTED else []
        raise UserError("\n".join([f"{len(problems)} problems:", *shown, *more]))


def exit_on_user_error(
    main: Callable[[], int],
    says: Callable[[UserError], bool] = lambda error: True,
    output_matters: bool = True,
) -> Callable[[], int]:
    """Wrap a command's main, its reading of the command line included; every program passes here.

    A `UserError` is printed as `error: …` and gives exit status 2, Ctrl-C ends without a traceback.
    For names, and for what is printed, see `set_up_streams`; for users without a name, `name_user`.

    A `Notice` is printed as `warning: …`.

    Args:
        main: the command.
        says: whether this process should print the error.
        output_matters: give exit status 1 if what the command printed could not be written; False
            for work that writes files and prints how far it is.
    """

    @functools.wraps(main)
    def wrapped() -> int:
        set_up_streams()
        name_user()
        try:
            with _telling_notices():
                code = main()
            sys.stdout.flush()
        except UserError as error:
            if says(error):
                print(f"error: {as_called(str(error))}", file=sys.stderr, flush=True)
            return USER_ERROR_STATUS
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr, flush=True)
            return INTERRUPTED_STATUS
        return code or int(output_matters and is_output_lost())

    return wrapped
