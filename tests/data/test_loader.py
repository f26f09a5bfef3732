"""Batches: the same whoever makes them; problems; workers that end when they should."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from open_miipher.audio import codec
from open_miipher.base.errors import UserError
from open_miipher.data import (
    AugmentConfig,
    CropConfig,
    DegradedSpeechDataset,
    Order,
    PairBatch,
    loader,
    train_batches,
    validation_batches,
)
from open_miipher.data.files import Files
from open_miipher.degradation import Context, DegradationConfig, build_degradation
from open_miipher.distributed import contact


def dataset(
    speech_dir: str,
    max_failures: float = 1.0,
    stages=("reverb", "noise", "mp3"),
    pad: bool = True,
    max_broken: float = 0.01,
):
    files = Files([speech_dir])
    chain = DegradationConfig({name: {"name": name, "probability": 0.6} for name in stages})
    return DegradedSpeechDataset(
        files,
        files.fingerprint,
        Order(len(files), seed=5),
        24000,
        0.5,
        CropConfig(),
        AugmentConfig(),
        build_degradation(chain, Context(24000)),
        max_failures,
        max_broken,
        pad=pad,
    )


def rows(batches: list[PairBatch]) -> dict[int, tuple]:
    """Every sample of the batches by its position."""
    return {
        int(batch.positions[k]): (
            batch.clean[k].numpy().tobytes(),
            batch.damaged[k].numpy().tobytes(),
            int(batch.lengths[k]),
            batch.names[k],
        )
        for batch in batches
        for k in range(len(batch.names))
    }


def test_a_batch_is_padded_and_true_to_its_samples(speech_dir):
    data = dataset(speech_dir)
    batch = next(train_batches(data, 12, batch_size=6))
    assert batch.clean.shape == batch.damaged.shape == (6, 12000)
    assert batch.positions.tolist() == [12, 13, 14, 15, 16, 17]
    assert (batch.clean.dtype, batch.lengths.dtype) == (torch.float32, torch.int64)
    for row, position in enumerate(range(12, 18)):
        sample, length = data[position], int(batch.lengths[row])
        assert length == len(sample.clean)
        assert np.array_equal(batch.clean[row, :length], sample.clean)
        assert np.array_equal(batch.damaged[row, :length], sample.damaged)
        assert not batch.clean[row, length:].any()
        assert not batch.damaged[row, length:].any()
        assert batch.names[row] == sample.name
    assert batch.to("cpu").names == batch.names


def test_equal_samples_for_any_workers_ranks_and_accumulation(speech_dir):
    data = dataset(speech_dir)
    expected = rows(list(islice(train_batches(data, 4, batch_size=4), 3)))
    assert sorted(expected) == list(range(4, 16))
    for accumulation, num_ranks, num_workers in [
        (1, 1, 1),
        (1, 1, 2),
        (2, 2, 0),
        (1, 4, 0),
        (1, 2, 2),
    ]:
        batches = []
        for rank in range(num_ranks):
            stream = train_batches(data, 4, 4, accumulation, rank, num_ranks, num_workers)
            batches += islice(stream, 3 * accumulation)
        assert rows(batches) == expected


@pytest.mark.dist
def test_spawned_workers_give_the_same_samples(speech_dir):
    """Where NCCL runs, none may be forked."""
    data = dataset(speech_dir)
    expected = rows(list(islice(train_batches(data, 0, 2), 3)))
    batches = train_batches(data, 0, 2, num_workers=2, start_method="spawn")
    assert rows(list(islice(batches, 3))) == expected
    batches.close()


def test_validation_gives_every_clip_once_whatever_the_ranks(speech_dir):
    data = dataset(speech_dir, pad=False)
    expected = rows(list(validation_batches(data)))
    assert sorted(expected) == list(range(6))
    for num_ranks, num_workers in [(1, 1), (2, 0), (4, 0)]:
        shares = [
            list(validation_batches(data, r, num_ranks, num_workers)) for r in range(num_ranks)
        ]
        assert all(
            batch.clean.shape == (1, int(batch.lengths[0])) for share in shares for batch in share
        )
        assert rows([batch for share in shares for batch in share]) == expected


def test_torch_random_state_is_neither_used_nor_moved(speech_dir):
    data = dataset(speech_dir)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = rows([next(train_batches(data, 0, 2, num_workers=1))])
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert rows([next(train_batches(data, 0, 2))]) == first


def test_a_batch_size_that_does_not_divide_is_refused_at_once(speech_dir):
    with pytest.raises(UserError, match=r"trainer\.batch_size=3"):
        train_batches(dataset(speech_dir), 0, batch_size=3, num_ranks=2)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_file_that_vanishes_is_a_user_error_without_a_traceback(speech_dir, num_workers):
    data, others = dataset(speech_dir), set(multiprocessing.active_children())
    batches = train_batches(data, 0, batch_size=6, num_workers=num_workers)
    for path in Path(speech_dir).glob("*/*.wav"):
        path.unlink()
    with pytest.raises(UserError) as caught:
        list(islice(batches, 10))
    assert "make an index without such files" in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert set(multiprocessing.active_children()) <= others


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_file_is_named_and_another_takes_its_place(speech_dir, num_workers):
    """One NaN in the middle of one file ended a training."""
    path = Path(speech_dir) / "s2" / "2.wav"
    waveform, rate = soundfile.read(path)
    waveform[len(waveform) // 2] = np.nan
    soundfile.write(path, waveform, rate, subtype="FLOAT")

    def some(**options):
        data = dataset(speech_dir, stages=("noise",), max_broken=1.0)
        return list(islice(train_batches(data, 0, batch_size=6, **options), 4))

    batches = some(num_workers=num_workers)
    broken = [reason for batch in batches for reason in batch.broken]
    assert len(broken) >= 2
    assert all(f"{path} holds NaN or Inf" in reason for reason in broken)
    assert all(batch.failures == [] for batch in batches)
    assert all(torch.isfinite(batch.clean).all() for batch in batches)
    assert rows(batches) == rows(some())
    data = dataset(speech_dir, stages=("noise",))
    with pytest.raises(UserError, match=r"more than data\.max_broken_samples=0\.01 .*--check"):
        list(islice(train_batches(data, 0, batch_size=6), 100))


def failing_codec(monkeypatch):
    def mp3(*_, **__):
        raise codec.CodecError("no encoder")

    monkeypatch.setattr(codec, "mp3", mp3)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_failed_degradations_are_handed_on(speech_dir, num_workers, monkeypatch):
    failing_codec(monkeypatch)
    batches = train_batches(dataset(speech_dir), 0, batch_size=6, num_workers=num_workers)
    failures = [failure for batch in islice(batches, 5) for failure in batch.failures]
    assert set(failures) == {"mp3: no encoder"}
    assert 8 < len(failures) < 28  # 0.6 of 30


def test_too_many_failures_stop_the_run(speech_dir, monkeypatch):
    failing_codec(monkeypatch)
    data = dataset(speech_dir, max_failures=0.1, stages=("mp3",))
    with pytest.raises(UserError) as caught:
        list(islice(train_batches(data, 0, batch_size=6), 100))
    assert "data.max_degradation_failures=0.1" in str(caught.value)
    assert "mp3: no encoder" in str(caught.value)


def test_few_failures_do_not(speech_dir, monkeypatch):
    failing_codec(monkeypatch)
    data = dataset(speech_dir, max_failures=0.7, stages=("mp3",))
    assert len(list(islice(train_batches(data, 0, batch_size=6), 60))) == 60


PROGRAM = """
import sys, time
sys.path[:0] = [{src!r}, {here!r}]
import multiprocessing
from test_loader import dataset
from open_miipher.data import train_batches
batches = train_batches(dataset({speech!r}), 0, batch_size=2, num_workers=2, start_method={how!r})
next(batches)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
{then}
"""


def start(speech_dir: str, then: str, how: str = "fork") -> tuple[subprocess.Popen[str], list[int]]:
    """Run a program with two workers; give it and the workers' process ids."""
    here = Path(__file__).parent
    src = str(here.parents[1] / "src")
    code = PROGRAM.format(src=src, here=str(here), speech=speech_dir, then=then, how=how)
    program = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    return program, [int(pid) for pid in program.stdout.readline().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_ended(pids: list[int]) -> bool:
    deadline = time.monotonic() + 30
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(alive(pid) for pid in pids)


@pytest.mark.dist
@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_workers_pass_over_stop_signals_of_others_and_end_with_the_program(speech_dir, how):
    program, workers = start(speech_dir, "time.sleep(60)", how)
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    time.sleep(0.3)
    assert all(alive(pid) for pid in workers)
    program.kill()
    program.wait()
    assert wait_until_ended(workers)


@pytest.mark.dist
@pytest.mark.parametrize("end", ["sys.exit(3)", "raise KeyboardInterrupt"])
def test_a_program_with_an_open_loader_ends_at_once(speech_dir, end):
    program, workers = start(speech_dir, end)
    status = program.wait(timeout=60)
    assert status == (3 if end == "sys.exit(3)" else -signal.SIGINT)
    assert wait_until_ended(workers)


@pytest.mark.dist
def test_closing_the_iterator_ends_the_workers(speech_dir):
    others = set(multiprocessing.active_children())
    batches = train_batches(dataset(speech_dir), 0, batch_size=2, num_workers=2)
    next(batches)
    workers = [process.pid for process in set(multiprocessing.active_children()) - others]
    assert len(workers) == 2
    batches.close()
    assert wait_until_ended(workers)


def failing_loader(monkeypatch, error: Exception):
    def batches():
        raise error
        yield

    monkeypatch.setattr(loader, "DataLoader", lambda *_, **__: batches())


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
        EOFError(),
        EOFError("Caught EOFError in pin memory thread for device 0.\n\nOriginal Traceback"),
    ],
)
def test_a_batch_that_a_dying_worker_still_held_is_blamed_on_its_end(
    speech_dir, monkeypatch, error
):
    """The worker hands its memory over by a socket, which is gone before the worker counts dead."""
    data = dataset(speech_dir)
    failing_loader(monkeypatch, error)
    with pytest.raises(UserError, match="a loader worker was killed"), contact():
        next(train_batches(data, 0, batch_size=2, num_workers=1))


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory", "a.wav"),
        ConnectionResetError("Caught ConnectionResetError in DataLoader worker process 0."),
        EOFError("No data left in file"),
    ],
)
def test_what_a_worker_raised_itself_keeps_its_name(speech_dir, monkeypatch, error):
    data = dataset(speech_dir)
    failing_loader(monkeypatch, error)
    with pytest.raises(type(error)) as caught:
        next(train_batches(data, 0, batch_size=2, num_workers=1))
    assert caught.value is error
