"""Errors a user can mend: one sentence that names the file or key, and no traceback."""

import functools
import sys
from collections.abc import Callable, Sequence

USER_ERROR_STATUS = 2
"""What a command ends with that was used wrongly."""

_SHOWN = 10  # problems of one report that are told in full


class UserError(Exception):
    """Bad input or wrong use; the message names what is wrong and how to mend it.

    Attributes:
        shared: every rank raises the same, so that one of them should say it.
    """

    def __init__(self, message: str, shared: bool = False) -> None:
        super().__init__(message)
        self.shared = shared


def report(problems: Sequence[str]) -> None:
    """Raise all problems together; of very many, the first and their number.

    Args:
        problems: one sentence each; nothing happens if there are none.

    Raises:
        UserError: listing every problem, one a line.
    """
    if len(problems) == 1:
        raise UserError(problems[0])
    if problems:
        shown = [f"  - {problem}" for problem in problems[:_SHOWN]]
        more = [f"  … and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise UserError("\n".join([f"{len(problems)} problems:", *shown, *more]))


def exit_on_user_error(
    main: Callable[[], int], says: Callable[[UserError], bool] = lambda error: True
) -> Callable[[], int]:
    """Wrap a command's main so that a `UserError` prints as `error: …` and gives exit status 2.

    Args:
        main: the command.
        says: whether this process is the one to print the error.
    """

    @functools.wraps(main)
    def wrapped() -> int:
        try:
            return main()
        except UserError as error:
            if says(error):
                print(f"error: {error}", file=sys.stderr, flush=True)
            return USER_ERROR_STATUS

    return wrapped
