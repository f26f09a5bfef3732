"""The ranks of a run and what they say to each other."""

import contextlib
import datetime
import errno
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from open_miipher.base.errors import UserError
from open_miipher.base.gpu_support import gpu_problem, read_driver
from open_miipher.base.paths import printable
from open_miipher.distributed.place import is_first_here, place
from open_miipher.distributed.process import allow_open_files, die_with_launcher

T = TypeVar("T")

# How gloo says it; out of a backward pass its messages come without the name of its source file.
_LOST_CONTACT = re.compile(
    "gloo|pair closure|connection (?:closed|reset) by peer|broken pipe|"
    "timed out waiting .* operation",
    re.IGNORECASE,
)


_LESS_MEMORY = (
    "a smaller trainer.batch_size, more trainer.grad_accumulation, shorter crops, or "
    "gradient_checkpointing of the part"
)

# What a user can do something about: other errors of the system are mistakes of ours.
_FILE_PROBLEMS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EIO,
    errno.ESTALE,
    errno.ENOENT,
}


@dataclass(frozen=True)
class World:
    """This process's place among the ranks, and the collectives between them.

    Objects and flags travel over gloo (CPU), so that asking never synchronises with a GPU.

    Attributes:
        rank: 0 … size - 1.
        size: number of ranks.
        device: where this rank's models live.
    """

    rank: int
    size: int
    device: torch.device
    _cpu_group: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which alone writes."""
        return self.rank == 0

    @property
    def may_fork(self) -> bool:
        """Whether this process may be forked.

        NCCL and the network below it do not survive that. Nor does Python before 3.11.10 where, at
        that instant, a thread of gloo makes or ends its part of the interpreter: the child waits
        for ever for a lock that was taken (CPython's issue 112275).
        """
        return self._cpu_group is None and (self.size == 1 or sys.version_info >= (3, 11, 10))

    def gather(self, item: Any) -> list[Any]:
        """Return every rank's (picklable) item, in rank order, on every rank."""
        if self.size == 1:
            return [item]
        items: list[Any] = [None] * self.size
        dist.all_gather_object(items, item, group=self._cpu_group)
        return items

    def broadcast(self, item: Any) -> Any:
        """Return rank 0's (picklable) item on every rank."""
        if self.size == 1:
            return item
        box = [item]
        dist.broadcast_object_list(box, src=0, group=self._cpu_group)
        return box[0]

    def scatter(self, items: Sequence[Any]) -> Any:
        """Return to every rank its own of rank 0's (picklable) items, of which there are `size`."""
        if self.size == 1:
            return items[0]
        box: list[Any] = [None]
        given = list(items) if self.is_main else None
        dist.scatter_object_list(box, given, src=0, group=self._cpu_group)
        return box[0]

    def any_later(self, flag: bool) -> Callable[[], bool]:
        """Ask whether the flag is set on at least one rank, without waiting for the others.

        Returns:
            A function that gives the answer, and waits until all have asked.
        """
        if self.size == 1:
            return lambda: flag
        value = torch.tensor([int(flag)])
        work = dist.all_reduce(value, op=dist.ReduceOp.MAX, group=self._cpu_group, async_op=True)

        def answer() -> bool:
            work.wait()
            return bool(value.item())

        return answer

    def any_on_device(self, flag: torch.Tensor) -> torch.Tensor:
        """Return 1 if the flag, () 1.0 or 0.0 on the device, is 1 on at least one rank.

        The process waits neither for the device nor for the others. The flag itself may change.
        """
        if self.size > 1:
            dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return flag

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """Average named numbers over the ranks; all ranks have the same names in one order."""
        if self.size == 1:
            return dict(values)
        packed = torch.tensor(list(values.values()), dtype=torch.float64)
        dist.all_reduce(packed, group=self._cpu_group)
        return dict(zip(values, (packed / self.size).tolist(), strict=True))

    def agree(self, action: Callable[[], T]) -> T:
        """Run something on every rank; if it fails for one, it fails for all.

        Raises:
            UserError: what any rank raised, marked as shared: one rank should say it.
        """
        result, problem = None, None
        try:
            result = action()
        except UserError as error:
            problem = str(error), error.may_pass
        problems = dict(p for p in self.gather(problem) if p is not None)
        if problems:
            raise UserError("\n".join(problems), shared=True, may_pass=all(problems.values()))
        return result  # type: ignore[return-value]

    def on_main(self, action: Callable[[], T]) -> T:
        """Return on every rank what rank 0 finds; if it fails there, it fails for all.

        Raises:
            UserError: as `agree`, also for an `OSError` that names a file.
        """
        result, problem = None, None
        if self.is_main:
            try:
                result = action()
            except UserError as error:
                problem = str(error)
            except OSError as error:
                problem = _named(error)
                if problem is None:
                    raise
        result, problem = self.broadcast((result, problem))
        if problem is not None:
            raise UserError(problem, shared=True)
        return result

    def once_a_machine(self, action: Callable[[], object]) -> None:
        """Run something on the first rank of each machine; if it fails there, it fails for all.

        Raises:
            UserError: as `agree`.
        """
        self.agree(lambda: action() if is_first_here() else None)

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.size > 1:
            dist.barrier(group=self._cpu_group)

    def close(self) -> None:
        """Leave the process group, all together: a rank that is gone early makes others fail.

        What DDP wraps must be gone by then. DDP would be the last to hold the group, and where it
        is let go of it waits for gloo's threads with Python's lock in its hand; one that has yet to
        let go of a tensor needs that lock, and the process hangs.
        """
        if self.size > 1:
            self.barrier()
            dist.destroy_process_group()


def gathered(tensor: torch.Tensor) -> torch.Tensor:
    """Join the tensors of all ranks along the first dimension, in the order of the ranks.

    Without other ranks, that is the tensor itself. All ranks call it, with equal shapes; no
    gradient passes.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def start(
    device: str | None = None,
    timeout_minutes: float = 30.0,
    collectives: bool = True,
    ranks_per_device: int = 1,
    cpu_option: str = "trainer.device=cpu",
) -> World:
    """Join the ranks that torchrun (or SLURM) started; alone without them.

    Also ties a worker to the life of its torchrun, and raises the limit of open files.

    Args:
        device: `cpu`, `cuda`, or None for a GPU where there is one.
        timeout_minutes: how long a rank waits for another in a collective before it fails.
        collectives: whether tensors on the GPU are reduced between the ranks (NCCL), as gradients
            are; without, the ranks talk over the CPU alone (gloo).
        ranks_per_device: how many ranks may share a GPU; NCCL allows one.
        cpu_option: what the program calls the choice of the CPU, for messages.

    Raises:
        UserError: `cuda` is asked for and missing, more ranks than that would share a GPU, or the
            installed wheels cannot use this rank's GPU.
        ValueError: collectives between ranks that share a GPU.
    """
    if collectives and ranks_per_device > 1:
        raise ValueError("collectives on the GPU need one for each rank")
    die_with_launcher()
    allow_open_files()
    rank, size, local_rank = place()
    chosen = _device(device, local_rank // ranks_per_device, cpu_option)
    if size == 1:
        return World(0, 1, chosen)
    timeout = datetime.timedelta(minutes=timeout_minutes)
    store = _store(rank, size, timeout)
    _check_shared_gpus(store, rank, size, chosen, collectives, ranks_per_device)
    nccl = collectives and chosen.type == "cuda"
    dist.init_process_group(
        "nccl" if nccl else "gloo",
        store=store,
        rank=rank,
        world_size=size,
        timeout=timeout,
        device_id=chosen if nccl else None,
    )
    cpu_group = dist.new_group(backend="gloo", timeout=timeout) if nccl else None
    return World(rank, size, chosen, cpu_group)


def _check_shared_gpus(
    store: dist.Store,
    rank: int,
    size: int,
    device: torch.device,
    collectives: bool,
    ranks_per_device: int,
) -> None:
    """Refuse GPUs that too many ranks have chosen.

    The number of visible GPUs cannot tell: a task of srun may see one of its own, a worker of
    torchrun the one that all see. So the ranks tell each other which they have.

    Raises:
        UserError: on every rank alike.
    """
    on_gpu = device.type == "cuda"
    own = str(torch.cuda.get_device_properties(device).uuid) if on_gpu else ""
    keys = [f"gpu-{other}" for other in range(size)]
    store.set(keys[rank], own)
    store.wait(keys)
    ranks_on: dict[bytes, list[int]] = {}
    for other, gpu in enumerate(store.multi_get(keys)):
        ranks_on.setdefault(gpu, []).append(other)
    ranks_on.pop(b"", None)  # those on a CPU
    mend = "start one process a GPU: --nproc_per_node gpu"
    if not collectives:
        mend += ", or let N share one: --ranks-per-gpu N"
    crowded = [ranks for ranks in ranks_on.values() if len(ranks) > ranks_per_device]
    if crowded:
        store.set(f"refused-{rank}", "")
        if rank == 0:  # the store may end with this process, so the others have to be ready
            store.wait([f"refused-{other}" for other in range(size)])
        names = ", ".join(map(str, crowded[0]))
        raise UserError(f"ranks {names} have one GPU between them; {mend}", shared=True)


def _store(rank: int, size: int, timeout: datetime.timedelta) -> dist.Store:
    """Return what the ranks meet through.

    torchrun keeps one store over its restarts, in which workers would find the addresses of the
    dead. The launcher of a single node numbers the restarts; those of several nodes do not agree on
    a number, so there torchrun has to make a new store each time
    (TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, as the job scripts do).

    Raises:
        UserError: rank 0 opens the store itself, and another process has its port.
    """
    env = os.environ
    try:
        store, _, _ = next(dist.rendezvous("env://", rank, size, timeout=timeout))
    except dist.DistNetworkError as error:
        if "EADDRINUSE" not in str(error):
            raise
        raise UserError(
            f"another process has port {env['MASTER_PORT']} of this machine, where the ranks are "
            "to meet; end all ranks, and start them with another MASTER_PORT",
            may_pass=True,
        ) from error
    attempt = (
        env.get("TORCHELASTIC_RESTART_COUNT", "0") if env.get("GROUP_WORLD_SIZE") == "1" else 0
    )
    return dist.PrefixStore(f"attempt-{attempt}", store)


def _device(device: str | None, place: int, cpu_option: str) -> torch.device:
    """Choose this rank's device: the GPU at its place, counted round if fewer are visible."""
    if device == "cpu":
        return torch.device("cpu")
    if device is not None and re.fullmatch(r"cuda(:\d+)?", device) is None:
        raise UserError(f"device={device} is unknown; choose cpu, cuda or cuda:N ({cpu_option})")
    driver = read_driver()
    num_cards = len(driver.capabilities) if driver else 0
    problem = gpu_problem(torch, driver, place % num_cards if num_cards else place)
    if problem is not None:
        raise UserError(f"{problem.text}; {problem.mend}, or choose the CPU ({cpu_option})")
    if device is None and not torch.cuda.is_available():
        return torch.device("cpu")
    device = device or "cuda"
    if not torch.cuda.is_available():
        raise UserError(
            f"device={device} is asked for but no usable GPU is here; run `make doctor`, "
            f"or choose the CPU ({cpu_option})"
        )
    num_gpus = torch.cuda.device_count()
    chosen = torch.device(device if ":" in device else f"cuda:{place % num_gpus}")
    if chosen.index >= num_gpus:
        raise UserError(f"device={device} is asked for but the GPUs here are 0 to {num_gpus - 1}")
    torch.cuda.set_device(chosen)
    return chosen


def file_problem(error: OSError) -> str | None:
    """Return the sentence that tells a user what is wrong with a file, without a full stop.

    None if the error is something else, such as a mistake of ours, or names no file: where it came
    from must not be lost then.
    """
    return _named(error) if error.errno in _FILE_PROBLEMS else None


def _named(error: OSError) -> str | None:
    if not isinstance(error.filename, (str, bytes)):
        return None
    return f"{printable(os.fsdecode(error.filename))}: {error.strerror}"


def _no_memory(less_memory: str) -> UserError:
    """Return what to say where the system refuses memory."""
    return UserError(f"this machine's memory does not suffice; use {less_memory}", may_pass=True)


@contextlib.contextmanager
def contact(
    less_memory: str = _LESS_MEMORY,
    again: str = "resume from the newest checkpoint",
) -> Iterator[None]:
    """Turn the complaints about lost processes, full disks and full GPUs into one sentence.

    Args:
        less_memory: what to use where a GPU's memory does not suffice.
        again: what to do once what is wrong is mended.

    Raises:
        UserError: another rank ended or did not answer in time, a loader worker was killed, the
            GPU's memory does not suffice, or a file cannot be read or written.
    """
    try:
        yield
    except OSError as error:
        problem = file_problem(error)
        if problem is None:
            raise
        raise UserError(f"{problem}; what was saved is kept", may_pass=True) from error
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"the GPU's memory does not suffice; use {less_memory}",
            may_pass=True,  # others may have used it as well
        ) from error
    except MemoryError as error:
        raise _no_memory(less_memory) from error
    except RuntimeError as error:  # gloo and torch's loader raise plain ones, NCCL a subclass
        first = str(error).splitlines()[0]
        if "DefaultCPUAllocator" in first:
            raise _no_memory(less_memory) from error
        if "DataLoader worker" in first:
            raise UserError(
                "a loader worker was killed, most likely for want of memory or of room in "
                f"/dev/shm; use fewer trainer.num_workers, and resume ({first})",
                may_pass=True,
            ) from error
        if not _LOST_CONTACT.search(str(error)) and not isinstance(error, dist.DistError):
            raise
        raise UserError(
            f"rank {place()[0]} lost contact with the other ranks, so it stops; see what the "
            f"first one to fail says, then {again} ({first})",
            may_pass=True,
        ) from error
