"""Where this process stands among the ranks, by its environment; torch is not needed for it."""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar
from urllib.parse import quote

from open_miipher.base.account import user_number
from open_miipher.base.errors import USER_ERROR_STATUS, UserError, exit_on_user_error

T = TypeVar("T")


def place() -> tuple[int, int, int]:
    """Return the rank, the number of ranks, and the rank among those of this machine."""
    env = os.environ
    if "RANK" in env and "WORLD_SIZE" in env:
        return int(env["RANK"]), int(env["WORLD_SIZE"]), int(env.get("LOCAL_RANK", "0"))
    # Tasks started by srun directly; a lone launcher inside an allocation has no address to meet.
    if int(env.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in env and "MASTER_ADDR" in env:
        return (
            int(env["SLURM_PROCID"]),
            int(env["SLURM_NTASKS"]),
            int(env.get("SLURM_LOCALID", "0")),
        )
    return 0, 1, 0


def run_as_rank(main: Callable[[], int]) -> NoReturn:
    """Run a command that may be one rank of several, and end this process with its status.

    What went well ends at once, all of it printed and closed. Python's own way out takes the
    interpreter apart; a thread of gloo that only then lets go of the last tensor it has worked on
    (no call waits for that, and DDP keeps these threads) would abort the process, and a run that
    went well would end as a crash.

    torchrun starts ranks again that failed, and cannot be told which failures come again. After an
    error that may not pass, what it starts ends at once and says nothing more.

    Args:
        main: the command, from the reading of its arguments on; it closes its world before it
            returns.
    """
    mark = _mark_of_failure()
    if mark is not None and mark.exists():
        sys.exit(USER_ERROR_STATUS)

    def says_and_marks(error: UserError) -> bool:
        if mark is not None and not error.may_pass:
            mark.touch()
        return says(error)

    code = exit_on_user_error(main, says_and_marks, output_matters=False)()
    if code == USER_ERROR_STATUS:  # what is open, such as a logger, is closed on Python's way out
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def is_under_torchrun() -> bool:
    """Whether torchrun has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def _mark_of_failure() -> Path | None:
    """Return the file that tells this rank, started again by its torchrun, that it need not try.

    None outside torchrun, and where it starts nothing again.
    """
    env = os.environ
    if not is_under_torchrun() or env.get("TORCHELASTIC_MAX_RESTARTS", "0") == "0":
        return None
    launched = f"{env['TORCHELASTIC_RUN_ID']}-{os.getppid()}-{place()[2]}"
    mark = Path(tempfile.gettempdir(), f".open_miipher-{user_number()}-{quote(launched, safe='')}")
    if env.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        mark.unlink(missing_ok=True)
    return mark


def says(error: UserError) -> bool:
    """Whether this process should say an error: what all ranks raise, rank 0 says."""
    return not error.shared or place()[0] == 0


def alike_here(action: Callable[[], T]) -> T:
    """Do on every rank, before they meet, what comes out alike on all ranks of a machine.

    Raises:
        UserError: what the action raised; one of the machine's ranks should say it.
    """
    try:
        return action()
    except UserError as error:
        raise UserError(str(error), shared=not is_first_here()) from error


def is_first_here() -> bool:
    """Whether this is the first rank of its machine; needs no contact with the others."""
    return place()[2] == 0
