"""The check that losses and gradients are finite, which does not wait for the device."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from open_miipher.base.errors import UserError
from open_miipher.distributed import World


class FiniteCheck:
    """Notices the first bad step: one whose losses or gradients are not finite on some rank.

    All of it happens on the device. From the bad step on, `skip` is 1 on every rank, and no step
    changes anything until `read`, the one wait for the device, finds it.

    Args:
        world: the ranks.

    Attributes:
        skip: () float32 on the device, 1 if this step must change nothing: AdamW's `found_inf`.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.skip = torch.zeros((), dtype=torch.float32, device=world.device)
        self._num_skipped = torch.zeros((), dtype=torch.int64, device=world.device)
        self._names: list[str] = []  # of the values
        self._values = self._bad = torch.empty(0, device=world.device)
        self._samples: list[Sequence[str]] = []  # of each step since the last reading

    @property
    def has_news(self) -> bool:
        """Whether a step was taken since the last reading."""
        return bool(self._samples)

    @property
    def last_samples(self) -> Sequence[str]:
        """This rank's samples of the newest step."""
        return self._samples[-1]

    def note(
        self, judged: Mapping[str, Tensor], others: Mapping[str, Tensor], samples: Sequence[str]
    ) -> None:
        """Take a step's values, before anything is updated.

        Args:
            judged: scalars on the device that have to be finite.
            others: scalars that need not be, as gradients that fp16's scaler deals with.
            samples: the names of this rank's samples.
        """
        self._names = [*judged, *others]
        self._values = torch.stack(
            [value.detach().float() for value in {**judged, **others}.values()]
        )
        bad = ~self._values[: len(judged)].isfinite()
        was_good = self._num_skipped == 0
        self._bad = bad if not self.has_news else torch.where(was_good, bad, self._bad)
        self.skip = torch.maximum(
            self.skip, self._world.any_on_device(bad.any().to(self.skip.dtype))
        )
        self._num_skipped += self.skip.long()
        self._samples.append(samples)

    def read(self) -> tuple[dict[str, float], int]:
        """Wait for the device.

        Returns:
            This rank's values of the newest step by name, and the number of steps since the bad
            one, itself included: 0 if there was none.
        """
        packed = torch.cat([self._values.double(), self._num_skipped[None]]).tolist()
        num_skipped = int(packed.pop())
        if num_skipped == 0:
            self._samples.clear()
        return dict(zip(self._names, packed, strict=True)), num_skipped

    def error(self, step: int, num_skipped: int) -> UserError:
        """Return what to say of the bad step; called on every rank.

        Args:
            step: its number.
            num_skipped: what `read` returned.
        """
        bad = [n for n, is_bad in zip(self._names, self._bad.tolist(), strict=False) if is_bad]
        reports = self._world.gather((bad, self._samples[-num_skipped] if bad else []))
        which = sorted({name for bad_names, _ in reports for name in bad_names})
        samples = [name for _, names in reports for name in names]
        return UserError(
            f"{', '.join(which)} not finite at step {step}; nothing was updated; "
            f"the samples of the step: {'; '.join(samples)}",
            shared=True,
        )
