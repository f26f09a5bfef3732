"""CUDA graphs: which shapes get one, and that replaying says the same; captured on a GPU alone."""

import itertools
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from open_miipher.base.errors import Notice
from open_miipher.restoration import Chain
from open_miipher.restoration.graphs import MOST_GRAPHS, WARM_UP, Graphs, bucket

CPU = torch.device("cpu")


class StandIn:
    """Keeps the inputs, as a graph does, and runs the function on them when replayed."""

    def __init__(self):
        self.captured, self.replayed = 0, 0

    def __call__(self, function, inputs):
        self.captured += 1
        inputs = [None if x is None else x.clone() for x in inputs]

        def replay(given):
            self.replayed += 1
            for own, x in zip(inputs, given, strict=True):
                if own is not None:
                    own.copy_(x)
            return function(*inputs)

        return replay


def test_buckets_are_few_and_hardly_longer():
    for frames in range(1, 5000):
        assert frames <= bucket(frames) <= frames * 17 / 16
        assert bucket(bucket(frames)) == bucket(frames)
    assert len({bucket(frames) for frames in range(512, 1024)}) == 17  # the last is 1024 itself


def test_a_shape_is_captured_when_it_has_come_back_and_each_value_of_the_rest_alone():
    stand_in = StandIn()
    graphs = Graphs(lambda sign, x, y: sign * x + (0 if y is None else y), CPU, stand_in)
    calls = list(itertools.product((3, 4), (False, True), (-1, 1))) * (WARM_UP + 3)
    for count, (length, given, sign) in enumerate(calls):
        x = torch.arange(length) + count
        y = torch.tensor(count) if given else None
        assert torch.equal(graphs((x, y), sign), sign * x + (count if given else 0))
    assert stand_in.captured == 8
    assert stand_in.replayed == 2 * 8


def test_the_graphs_that_were_used_last_are_kept():
    stand_in = StandIn()
    graphs = Graphs(lambda x: 2 * x, CPU, stand_in)
    for length in range(MOST_GRAPHS + 1):
        for _ in range(WARM_UP + 1):
            graphs((torch.ones(length),))
    assert stand_in.captured == MOST_GRAPHS + 1
    graphs((torch.ones(1),))
    assert stand_in.captured == MOST_GRAPHS + 1
    assert torch.equal(graphs((torch.ones(0),)), torch.ones(0))  # whose graph was given up
    assert stand_in.captured == MOST_GRAPHS + 2


def test_where_nothing_can_be_captured_a_notice_says_so_once_and_the_work_goes_on():
    def refuse(function, inputs):
        raise torch.OutOfMemoryError("out of memory\nlong text")

    graphs = Graphs(lambda x: 2 * x, CPU, refuse)
    for _ in range(WARM_UP):
        graphs((torch.ones(2),))
    with pytest.warns(Notice, match=r"no CUDA graph .*\(out of memory\)"):
        found = graphs((torch.ones(2),))
    assert torch.equal(found, torch.full((2,), 2.0))
    with warnings.catch_warnings(action="error"):
        assert torch.equal(graphs((torch.ones(2),)), found)


def test_a_thread_captures_only_what_it_has_launched():
    """Libraries have handles and plans for each thread, and make none in a capture."""
    own, captures = threading.local(), []

    def launch(x):
        own.has_launched = True
        return 2 * x

    def capture(function, inputs):
        captures.append(hasattr(own, "has_launched"))
        return StandIn()(function, inputs)

    graphs = Graphs(launch, CPU, capture)
    for number in range(WARM_UP + 2):  # each in a thread of its own
        with ThreadPoolExecutor(1) as thread:
            found = thread.submit(graphs, (torch.full((2,), float(number)),)).result()
        assert torch.equal(found, torch.full((2,), 2.0 * number))
    assert captures == [True]


def batch(model: Chain, lengths: list[int], seed: int):
    generator = torch.Generator().manual_seed(seed)
    frames = -(-max(lengths) // model.input_hop)
    waveform = 0.05 * torch.randn(len(lengths), frames * model.input_hop, generator=generator)
    sizes = torch.tensor(lengths)
    waveform[torch.arange(waveform.shape[1]) >= sizes[:, None]] = 0
    keys = torch.arange(len(lengths)) + seed
    return waveform, sizes, keys, 1000 * keys


def test_a_chain_that_pads_to_buckets_and_replays_says_the_same():
    plain, replayed = Chain.from_checkpoint(), Chain.from_checkpoint()
    stand_in = StandIn()
    replayed._graphs = Graphs(replayed._compute, CPU, stand_in)
    hop = plain.input_hop
    for seed, lengths in enumerate(
        [[70 * hop, 61 * hop], [71 * hop - 5, 30 * hop], [72 * hop] * 2, [70 * hop - 1, 1]] * 2
    ):
        given = batch(plain, lengths, seed)
        expected, found = plain.restore(*given), replayed.restore(*given)
        assert found.shape == expected.shape
        for row, length in enumerate(lengths):
            samples = -(-length // hop) * plain.output_hop
            torch.testing.assert_close(
                found[row, :samples], expected[row, :samples], atol=1e-5, rtol=0
            )
    assert stand_in.captured == 1  # of the bucket of 72 frames, in which all but the full are


def test_batches_of_several_threads_take_turns_and_each_gets_its_own():
    model = Chain.from_checkpoint()
    model._turn = threading.Lock()  # as on a GPU
    compute, within = model._compute, []

    def watched(*inputs):
        within.append(threading.get_ident())
        time.sleep(0.02)
        assert len(within) == 1
        restored = compute(*inputs)
        within.clear()
        return restored

    given = [batch(model, [n * model.input_hop], n) for n in range(3, 9)]
    expected = [model.restore(*inputs) for inputs in given]
    model._compute = watched
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda inputs: model.restore(*inputs), given))
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.fixture
def exact(monkeypatch):
    """Convolutions in float32, as unlike shapes may have TF32 or not."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.usefixtures("exact")
def test_captured_on_a_gpu_a_chain_says_what_it_says_launched():
    plain, replayed = Chain.from_checkpoint(device="cuda"), Chain.from_checkpoint(device="cuda")
    plain._graphs = None
    hop = plain.input_hop
    for seed in range(WARM_UP + 3):
        for lengths in ([70 * hop, 61 * hop], [72 * hop] * 2):
            given = batch(plain, lengths, seed)
            expected, found = plain.restore(*given), replayed.restore(*given)
            torch.testing.assert_close(
                found[:, : 61 * hop], expected[:, : 61 * hop], atol=1e-4, rtol=0
            )
    assert len(replayed._graphs._replays) == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.usefixtures("exact")
def test_on_a_gpu_several_threads_get_what_one_gets():
    plain, model = Chain.from_checkpoint(device="cuda"), Chain.from_checkpoint(device="cuda")
    plain._graphs = None
    given = [batch(plain, [72 * plain.input_hop] * 2, n) for n in range(12)]
    expected = [plain.restore(*inputs) for inputs in given]

    def restore(inputs):
        waveform, *rest = inputs
        pinned = torch.empty(waveform.shape, pin_memory=True).copy_(waveform)
        return model.restore(pinned, *rest).clone()

    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(restore, given))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
    assert len(model._graphs._replays) == 1
