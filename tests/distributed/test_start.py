"""Ranks and their GPUs, which are made up here: who gets which, and who is refused."""

import os
import socket
from contextlib import ExitStack
from multiprocessing import get_context
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from meeting import meeting_place

from open_miipher.base.errors import UserError
from open_miipher.distributed import contact, start


def with_gpus(uuids: list[str]) -> ExitStack:
    """Let this process see GPUs of these identities."""
    stack = ExitStack()
    for name, value in {
        "is_available": lambda: bool(uuids),
        "device_count": lambda: len(uuids),
        "set_device": lambda device: None,
        "get_device_properties": lambda device: SimpleNamespace(uuid=uuids[device.index]),
    }.items():
        stack.enter_context(mock.patch.object(torch.cuda, name, value))
    driver = mock.patch("open_miipher.distributed.world.read_driver", return_value=None)
    stack.enter_context(driver)
    return stack


def _rank(environment: dict[str, str], uuids: list[str], options: dict[str, Any], results) -> None:
    os.environ.update(environment)
    try:
        with with_gpus(uuids):
            world = start(timeout_minutes=1, **options)
            results.send((str(world.device), dist.get_backend(), world.gather(world.rank)))
            world.close()
    except UserError as error:
        results.send((str(error), error.shared))


def together(seen: list[list[str]], slurm: bool = False, **options: Any) -> list[tuple]:
    """Start ranks of one machine that see these GPUs, and return what became of each."""
    _store, meeting = meeting_place()
    names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
    names = names if slurm else ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    context, size = get_context("fork"), len(seen)
    processes, receivers = [], []
    for rank, uuids in enumerate(seen):
        environment = dict(zip(names, map(str, (rank, size, rank)), strict=True))
        environment |= meeting
        receiver, sender = context.Pipe(duplex=False)
        arguments = (environment, uuids, options, sender)
        processes.append(context.Process(target=_rank, args=arguments))
        receivers.append(receiver)
        processes[-1].start()
    try:
        found = [receiver.recv() if receiver.poll(60) else None for receiver in receivers]
    finally:
        for process in processes:
            process.join(10)
            process.kill()
    return found


def test_each_task_of_srun_may_see_one_gpu_as_its_first():
    found = together([["a"], ["b"], ["c"]], slurm=True, collectives=False)
    assert found == [("cuda:0", "gloo", [0, 1, 2])] * 3


def test_each_worker_of_torchrun_takes_one_of_those_that_all_see():
    found = together([["a", "b"], ["a", "b"]], collectives=False)
    assert found == [("cuda:0", "gloo", [0, 1]), ("cuda:1", "gloo", [0, 1])]


def test_ranks_may_share_a_gpu_where_that_is_asked_for():
    found = together([["a", "b"]] * 4, collectives=False, ranks_per_device=2)
    assert [device for device, *_ in found] == ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]


@pytest.mark.parametrize("collectives", [True, False])
def test_more_ranks_than_gpus_are_refused_alike(collectives):
    """Whether the only GPU that each sees is the same one, their number does not tell."""
    found = together([["a"], ["b"], ["a"]], collectives=collectives)
    sentence, shared = found[0]
    assert "ranks 0, 2 have one GPU between them; start one process a GPU" in sentence
    assert ("--ranks-per-gpu N" in sentence) == (not collectives)
    assert shared
    assert found == [found[0]] * 3


def test_more_ranks_than_may_share_a_gpu_are_refused():
    found = together([["a"]] * 3, collectives=False, ranks_per_device=2)
    assert "ranks 0, 1, 2 have one GPU between them" in found[1][0]


def test_gradients_need_nccl(monkeypatch):
    """On GPUs of their own the ranks meet over NCCL, and over gloo beside it."""
    begun = []
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr("open_miipher.distributed.world._store", lambda *_: None)
    monkeypatch.setattr("open_miipher.distributed.world._check_shared_gpus", lambda *_: None)
    monkeypatch.setattr(dist, "init_process_group", lambda *a, **k: begun.append((a, k)))
    monkeypatch.setattr(dist, "new_group", lambda backend, timeout: backend)
    with with_gpus(["a", "b"]):
        world = start()
    assert begun[0][0] == ("nccl",)
    assert begun[0][1]["device_id"] == torch.device("cuda:0")
    assert world._cpu_group == "gloo"
    with pytest.raises(ValueError, match="one for each rank"):
        start(ranks_per_device=2)


def test_a_gpu_that_is_not_here_is_refused(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with with_gpus(["a", "b"]):
        assert start("cuda:1").device == torch.device("cuda:1")
        assert start().device == torch.device("cuda:0")
        with pytest.raises(UserError, match="device=cuda:2 is asked for but the GPUs here are 0"):
            start("cuda:2")
    with with_gpus([]):
        assert start().device == torch.device("cpu")
        with pytest.raises(UserError, match="no usable GPU is here"):
            start("cuda")
    for device in ("gpu", "CPU", "cuda:x", ""):
        with pytest.raises(UserError, match=f"device={device} is unknown; choose cpu, cuda or"):
            start(device)


def test_a_port_that_another_process_has_is_named(monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        place = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for name, value in place.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(UserError, match=f"has port {port} of this machine"), contact():
            start("cpu")
