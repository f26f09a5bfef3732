"""Several signals at once: batches, bounds, and what happens when one of them fails."""

import itertools
import threading
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from open_miipher.audio.io import AudioError
from open_miipher.base.errors import UserError
from open_miipher.restoration import Job, RestoreOptions, Restorer, Source, WriteError
from open_miipher.restoration import job as job_module
from open_miipher.restoration.restorer import in_background
from open_miipher.restoration.streams import ArraySink

RATE = 8000
OPTIONS = RestoreOptions(chunk_seconds=0.1, overlap_seconds=0.02)  # 800 and 160 samples
RNG = np.random.default_rng(0)


def noise(num_samples: int) -> np.ndarray:
    return (0.1 * RNG.standard_normal((1, num_samples))).astype(np.float32)


class RecordingSink(ArraySink):
    def __init__(self) -> None:
        super().__init__()
        self.closed = self.aborted = 0
        self.num_samples = 0

    def write(self, block: np.ndarray) -> None:
        super().write(block)
        self.num_samples += block.shape[1]

    def close(self) -> None:
        self.closed += 1

    def abort(self) -> None:
        self.aborted += 1


class CountingSink(RecordingSink):
    """Keeps nothing."""

    def write(self, block: np.ndarray) -> None:
        self.num_samples += block.shape[1]


class FullDisk(RecordingSink):
    def write(self, block: np.ndarray) -> None:
        raise AudioError("no space left on its disk")


def failing_source(good_samples: int, num_frames: int) -> Source:
    def blocks() -> Iterator[np.ndarray]:
        yield noise(good_samples)
        raise AudioError("it ends early")

    return Source("bad.wav", RATE, num_frames, 1, blocks)


def test_many_signals_give_what_each_gives_alone(stand_in) -> None:
    waveforms = [noise(n) for n in [1, 799, 800, 800, 801, 3000, 3000, 3000, 5, 12000, 650, 650]]
    alone = [Restorer(stand_in("finite"), OPTIONS, 1).restore(w, RATE)[0] for w in waveforms]
    for batch_size in (1, 3, 64):
        restorer = Restorer(stand_in("finite"), OPTIONS, batch_size)
        jobs = [restorer.job(Source.from_array(w, RATE), RecordingSink()) for w in waveforms]
        finished = list(restorer.restore_jobs(jobs))
        assert set(finished) == set(jobs)
        assert len(finished) == len(jobs)
        for job, expected in zip(jobs, alone, strict=True):
            assert (job.sink.closed, job.sink.aborted) == (1, 0)
            np.testing.assert_allclose(job.sink.waveform, expected, atol=1e-6)


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    assert torch.get_num_threads() == 4
    torch.set_num_threads(before)


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_side_by_side_give_what_each_gives_alone(stand_in, batch_size) -> None:
    waveforms = [RNG.standard_normal((k % 3 + 1, 700 * k)).astype(np.float32) for k in range(1, 9)]
    options = replace(OPTIONS, channels="each")
    alone = [Restorer(stand_in("finite"), options).restore(w, RATE)[0] for w in waveforms]
    model, both = stand_in("finite"), threading.Barrier(2, timeout=20)
    restore, calls = model.restore, itertools.count()

    def restore_in_company(*given: torch.Tensor | None) -> torch.Tensor:
        assert torch.get_num_threads() == 1
        if next(calls) < 2:
            both.wait()  # ends only where another batch is restored at the same time
        return restore(*given)

    model.side_by_side, model.restore = True, restore_in_company
    restorer = Restorer(model, options, batch_size)
    jobs = [restorer.job(Source.from_array(w, RATE), RecordingSink()) for w in waveforms]
    assert sorted(map(jobs.index, restorer.restore_jobs(jobs))) == list(range(8))
    for job, expected in zip(jobs, alone, strict=True):
        np.testing.assert_allclose(job.sink.waveform, expected, atol=1e-6)
        assert job.seconds["model"] > 0


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(("num_chunks", "share"), [(1, 4), (2, 2), (3, 1), (9, 1)])
def test_few_batches_share_all_threads_where_they_are_alone(
    stand_in, num_chunks, share, alone
) -> None:
    """Else what comes out would depend on what else is left, as in a run that goes on."""
    model, threads = stand_in("same"), []
    restore = model.restore
    model.side_by_side = True
    model.restore = lambda *given: threads.append(torch.get_num_threads()) or restore(*given)
    restorer = Restorer(model, OPTIONS, batch_size=1)
    sources = [Source.from_array(noise(400), RATE) for _ in range(num_chunks)]
    jobs = [restorer.job(source, RecordingSink()) for source in sources]
    assert len(list(restorer.restore_jobs(jobs, alone))) == num_chunks
    assert threads == [share if alone else 1] * num_chunks


@pytest.mark.usefixtures("four_threads")
def test_what_fails_beside_other_batches_is_raised(stand_in) -> None:
    model, calls = stand_in("same"), itertools.count()
    restore = model.restore

    def fail_late(*given: torch.Tensor | None) -> torch.Tensor:
        if next(calls) == 5:
            raise ArithmeticError("the sixth")
        return restore(*given)

    model.side_by_side, model.restore = True, fail_late
    restorer = Restorer(model, OPTIONS, batch_size=1)
    jobs = [restorer.job(Source.from_array(noise(400), RATE), RecordingSink()) for _ in range(20)]
    with pytest.raises(ArithmeticError, match="the sixth"):
        list(restorer.restore_jobs(jobs))


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize("side_by_side", [True, False])
def test_too_little_memory_of_a_cpu_is_one_sentence(stand_in, side_by_side) -> None:
    for takes_too_much in (lambda *_: torch.empty(1 << 58), lambda *_: np.empty(1 << 58)):
        model = stand_in("same")
        model.side_by_side, model.restore = side_by_side, takes_too_much
        with pytest.raises(UserError, match=r"memory is too small .* fewer threads \(OMP"):
            Restorer(model, OPTIONS).restore(noise(400)[0], RATE)


def test_batches_hold_chunks_of_one_length_and_fill_over_several_files(stand_in) -> None:
    model = stand_in("same")
    restorer = Restorer(model, OPTIONS, batch_size=4)
    jobs = [restorer.job(Source.from_array(noise(800), RATE), RecordingSink()) for _ in range(8)]
    list(restorer.restore_jobs(jobs))
    assert model.batches == [(4, 800), (4, 800)]


def test_a_batch_never_exceeds_its_size_with_many_channels(stand_in) -> None:
    model = stand_in("same")
    restorer = Restorer(model, RestoreOptions(channels="each"), batch_size=4)
    waveform = RNG.standard_normal((10, 500)).astype(np.float32)
    restored, _ = restorer.restore(waveform, RATE)
    assert [rows for rows, _ in model.batches] == [4, 4, 2]
    np.testing.assert_allclose(restored, waveform, atol=1e-6)


def test_the_model_is_told_the_true_length_of_the_last_chunk(stand_in) -> None:
    model = stand_in("same", input_hop=80, output_hop=80)
    Restorer(model, OPTIONS).restore(noise(1001), RATE)
    assert model.lengths == [800, 361]
    assert model.batches == [(1, 800), (1, 400)]


def test_a_source_that_fails_is_given_up_and_the_others_go_on(stand_in) -> None:
    restorer = Restorer(stand_in("same"), OPTIONS, batch_size=2)
    jobs = [
        restorer.job(Source.from_array(noise(900), RATE), RecordingSink()),
        restorer.job(failing_source(5000, 20000), RecordingSink()),
        restorer.job(failing_source(1, 20000), RecordingSink()),
        restorer.job(Source.from_array(noise(700), RATE), RecordingSink()),
    ]
    finished = list(restorer.restore_jobs(jobs))
    assert sorted(map(jobs.index, finished)) == [0, 1, 2, 3]
    assert [job.error is None for job in jobs] == [True, False, False, True]
    assert [job.sink.closed for job in jobs] == [1, 0, 0, 1]
    assert [job.sink.aborted for job in jobs] == [0, 1, 1, 0]
    assert "it ends early" in str(jobs[1].error)


def test_a_source_that_fails_when_read_again_for_the_dry_signal(stand_in) -> None:
    calls = itertools.count()

    def blocks() -> Iterator[np.ndarray]:
        if next(calls):
            raise AudioError("vanished")
        yield noise(2000)

    options = RestoreOptions(strength=0.5, chunk_seconds=0.1, overlap_seconds=0.02)
    restorer = Restorer(stand_in("same"), options)
    job = restorer.job(Source("x", RATE, 2000, 1, blocks), RecordingSink())
    assert list(restorer.restore_jobs([job])) == [job]
    assert "vanished" in str(job.error)
    assert (job.sink.closed, job.sink.aborted) == (0, 1)


def test_one_signal_without_numbers_does_not_stop_the_others(stand_in) -> None:
    model = stand_in("same")
    answer = model.answer

    def sometimes(waveform, noise):
        restored = answer(waveform, noise)
        restored[waveform[:, 0] > 0.5] = np.nan
        return restored

    model.answer = sometimes
    bad = noise(5000)
    bad[0, 0] = 9.0
    restorer = Restorer(model, OPTIONS, batch_size=3)
    jobs = [restorer.job(Source.from_array(w, RATE), RecordingSink()) for w in (noise(999), bad)]
    finished = list(restorer.restore_jobs([*jobs, *jobs[:0]]))
    assert len(finished) == 2
    assert jobs[0].error is None
    assert "NaN or Inf" in str(jobs[1].error)
    assert jobs[1].sink.aborted == 1


def test_a_full_disk_ends_the_work_and_gives_up_what_is_open(stand_in) -> None:
    threads = threading.active_count()
    restorer = Restorer(stand_in("same"), OPTIONS, batch_size=1)
    sinks = [RecordingSink(), FullDisk(), RecordingSink()]
    jobs = [restorer.job(Source.from_array(noise(3000), RATE), sink) for sink in sinks]
    with pytest.raises(WriteError, match="no space left"):
        list(restorer.restore_jobs(jobs))
    assert [sink.closed for sink in sinks] == [1, 0, 0]
    assert sinks[1].aborted == 1
    assert threading.active_count() == threads


def test_a_full_disk_below_a_temporary_file_is_told_in_words(stand_in) -> None:
    restorer = Restorer(stand_in("same"), replace(OPTIONS, level="peak"), batch_size=1)
    job = restorer.job(Source.from_array(noise(3000), RATE), RecordingSink())
    with (
        open("/dev/full", "wb", buffering=0) as job.sink._waiting,
        pytest.raises(WriteError, match=r"^a temporary file cannot be written: No space left"),
    ):
        list(restorer.restore_jobs([job]))


def test_leaving_early_gives_up_what_is_open_and_leaves_no_thread(stand_in) -> None:
    threads = threading.active_count()
    restorer = Restorer(stand_in("same"), OPTIONS, batch_size=1)
    sinks = [RecordingSink() for _ in range(50)]
    jobs = [restorer.job(Source.from_array(noise(5000), RATE), sink) for sink in sinks]
    finished = restorer.restore_jobs(jobs)
    next(finished)
    finished.close()
    assert threading.active_count() == threads
    assert all(sink.closed + sink.aborted <= 1 for sink in sinks)
    assert sum(sink.closed for sink in sinks) < 10


def long_source(seconds: int, silent_after: int | None = None) -> Source:
    def blocks() -> Iterator[np.ndarray]:
        block = noise(RATE)
        for second in range(seconds):
            yield block if silent_after is None or second < silent_after else 0 * block

    return Source("long", RATE, seconds * RATE, 1, blocks)


@pytest.mark.parametrize("name", ["same", "garbage"])  # without and with levels to put back
@pytest.mark.parametrize("silent_after", [None, 3])
def test_memory_does_not_grow_with_the_length_of_a_file(
    stand_in, name, silent_after, monkeypatch
) -> None:
    monkeypatch.setattr(job_module, "KEPT_SAMPLES", 0)
    options = RestoreOptions(sample_rate=11025, strength=0.5, chunk_seconds=1, overlap_seconds=0.25)
    peaks = []
    for seconds in (60, 240):
        restorer = Restorer(stand_in(name), options, batch_size=2)
        job = restorer.job(long_source(seconds, silent_after), CountingSink())
        tracemalloc.start()
        assert list(restorer.restore_jobs([job])) == [job]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert job.sink.num_samples == seconds * 11025
    assert peaks[1] < 1.3 * peaks[0]


def test_jobs_are_taken_only_as_there_is_room(stand_in) -> None:
    restorer = Restorer(stand_in("same"), OPTIONS, batch_size=2)
    taken = []

    def jobs() -> Iterator[Job]:
        for number in range(200):
            taken.append(number)
            yield restorer.job(Source.from_array(noise(800), RATE), CountingSink())

    for finished, _ in enumerate(restorer.restore_jobs(jobs()), start=1):
        assert len(taken) - finished < 40


def test_in_background_keeps_order_and_hands_errors_on() -> None:
    assert list(in_background(iter(range(100)), depth=3)) == list(range(100))

    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("no")

    items = in_background(broken(), depth=3)
    assert next(items) == 1
    with pytest.raises(ValueError, match="no"):
        next(items)
