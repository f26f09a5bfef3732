"""What a corpus run ended with: an exit status that job scripts can go by, and a sentence.

0: all is done, but for as many failures as are allowed; 2: wrong use, or nothing more can be
written; 3: done, with more failures; 4: ended early, the same command goes on.
"""

import re
from dataclasses import dataclass
from decimal import Decimal

from open_miipher.base.amounts import counted
from open_miipher.base.errors import STOPPED_STATUS, USER_ERROR_STATUS, UserError

DONE, UNABLE, FAILURES, INTERRUPTED = 0, USER_ERROR_STATUS, 3, STOPPED_STATUS

_SHARE = re.compile(r"(\d+(?:\.\d+)?)%")


def is_limit(text: str) -> bool:
    """Whether a text is a whole number, or a share in per cent (`12`, `0.5%`)."""
    if text.isdecimal():
        return True
    match = _SHARE.fullmatch(text)
    return match is not None and float(match[1]) <= 100


@dataclass(frozen=True)
class MaxFailures:
    """How many of a run's items may fail: a number, or a share in per cent (`12`, `0.5%`).

    Raises:
        UserError: on construction, if the text is neither.
    """

    text: str = "0"

    def __post_init__(self) -> None:
        if not is_limit(self.text):
            raise UserError(
                f"--max-failures {self.text!r}: choose a whole number, or a share such as 0.5%"
            )

    def status(self, num_failed: int, num_items: int) -> int:
        """Return the exit status of a run that came to its end."""
        share = _SHARE.fullmatch(self.text)
        most = Decimal(self.text) if share is None else Decimal(share[1]) * num_items / 100
        return FAILURES if num_failed > most else DONE


NO_FAILURES = MaxFailures()


@dataclass(frozen=True)
class Summary:
    """How a run ended.

    Attributes:
        num_done: items done in this run, all ranks.
        num_failed: items with an error, also from earlier runs.
        stopped: the signal that ended it before all was done, if one did.
        unit, called_failed: the plan's words.
        num_done_before, num_failed_before: what earlier runs did of this run's items.
        allowed: failures that are none for the exit status.
        num_clipped: outputs of this run with samples that were clipped at full scale.
        num_carried: members that this run carried along, of samples without audio.
        num_kept: recordings that this run kept as they were, since it trusted the restored too
            little.
    """

    num_done: int
    num_failed: int
    stopped: str | None
    unit: str
    called_failed: str
    num_done_before: int = 0
    num_failed_before: int = 0
    allowed: MaxFailures = NO_FAILURES
    num_clipped: int = 0
    num_carried: int = 0
    num_kept: int = 0

    @property
    def exit_code(self) -> int:
        """0, 3 or 4, as the module says."""
        if self.stopped is not None:
            return INTERRUPTED
        return self.allowed.status(
            self.num_failed, self.num_done + self.num_done_before + self.num_failed
        )

    def sentence(self, done: str) -> str:
        """Say it in a line; `done` is what becomes of items, such as `restored`."""
        failed_now = self.num_failed - self.num_failed_before
        before = f"{counted(self.num_done_before, self.unit)} {done} before"
        if self.num_failed_before:
            before += f", {self.num_failed_before:,} {self.called_failed} then and did not change"
        if not self.num_done and not failed_now and not self.stopped:
            return f"nothing to do: {before}"
        now = f"{counted(self.num_done, self.unit)} {done}, {failed_now:,} {self.called_failed}"
        return f"{now}; {before}" if self.num_done_before or self.num_failed_before else now
