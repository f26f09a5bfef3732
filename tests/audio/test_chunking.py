"""Chunks joined again are the signal; a model of finite context notices no chunks."""

import itertools

import numpy as np
import pytest

from open_miipher.audio.chunking import ChunkGrid, OverlapAdd, Tap
from open_miipher.base.errors import UserError

RNG = np.random.default_rng(0)


def join(grid: ChunkGrid, chunks: list[np.ndarray], samples_per_frame: int) -> np.ndarray:
    overlap_add = OverlapAdd(grid, samples_per_frame)
    blocks = [overlap_add.push(c.copy(), last=c is chunks[-1]) for c in chunks]
    return np.concatenate(blocks, axis=1)


@pytest.mark.parametrize(("chunk", "overlap"), [(10, 4), (10, 5), (9, 3), (8, 0), (7, 1), (1, 0)])
def test_every_length_is_covered_once_and_no_chunk_is_tiny(chunk: int, overlap: int) -> None:
    grid = ChunkGrid(chunk, overlap)
    for num_frames in range(1, 3 * chunk + 2):
        bounds = list(grid.bounds(num_frames))
        assert len(bounds) == grid.num_chunks(num_frames)
        assert bounds[0][0] == 0
        assert bounds[-1][1] == num_frames
        for k, (start, end) in enumerate(bounds):
            assert start == k * (chunk - overlap)
            assert end - start == chunk or k == len(bounds) - 1
        for (_, end), (start, _) in itertools.pairwise(bounds):
            assert end - start == overlap
        if len(bounds) > 1:
            assert bounds[-1][1] - bounds[-1][0] > overlap


@pytest.mark.parametrize(("chunk", "overlap"), [(10, 4), (10, 5), (9, 3), (8, 0), (7, 1)])
@pytest.mark.parametrize("hop", [1, 3])
def test_joining_untouched_chunks_gives_the_signal(chunk: int, overlap: int, hop: int) -> None:
    grid = ChunkGrid(chunk, overlap)
    for num_frames in range(1, 3 * chunk + 2):
        signal = RNG.standard_normal((2, num_frames * hop)).astype(np.float32)
        chunks = [signal[:, s * hop : e * hop] for s, e in grid.bounds(num_frames)]
        np.testing.assert_allclose(join(grid, chunks, hop), signal, atol=1e-6)


def test_a_model_of_finite_context_gives_the_unchunked_result_to_1e_6() -> None:
    grid = ChunkGrid(24, 12)
    hop = 5
    context = grid.margin_frames * hop  # samples on either side

    def model(signal: np.ndarray) -> np.ndarray:
        kernel = np.hanning(2 * context + 1) / context
        return np.stack([np.convolve(np.tanh(row), kernel, mode="same") for row in signal])

    for num_frames in range(1, 3 * grid.chunk_frames + 2):
        signal = RNG.standard_normal((1, num_frames * hop)).astype(np.float32)
        padded = np.pad(signal, ((0, 0), (context, context)))
        whole = model(padded)[:, context:-context]
        chunks = []
        for start, end in grid.bounds(num_frames):
            piece = np.pad(signal[:, start * hop : end * hop], ((0, 0), (context, context)))
            chunks.append(model(piece)[:, context:-context])
        np.testing.assert_allclose(join(grid, chunks, hop), whole, atol=1e-6)


def test_a_wrong_end_of_a_chunk_is_discarded() -> None:
    grid = ChunkGrid(30, 9)
    signal = np.ones((1, 60), dtype=np.float32)
    chunks = [signal[:, s:e].copy() for s, e in grid.bounds(60)]
    for chunk in chunks[:-1]:
        chunk[:, -grid.margin_frames :] = np.nan
    for chunk in chunks[1:]:
        chunk[:, : grid.margin_frames] = np.nan
    np.testing.assert_allclose(join(grid, chunks, 1), signal, atol=1e-6)


def test_chunks_begin_on_whole_samples_of_both_rates() -> None:
    grid = ChunkGrid.from_seconds(20.0, 2.0, frame_rate=16000 / 640)
    assert (grid.chunk_frames, grid.overlap_frames, grid.hop_frames) == (500, 50, 450)
    for start, _ in grid.bounds(5000):
        assert start * 640 / 16000 == start * 960 / 24000


@pytest.mark.parametrize(("chunk", "overlap"), [(0, 0), (10, -1), (10, 6)])
def test_impossible_grids_are_refused(chunk: int, overlap: int) -> None:
    with pytest.raises(UserError, match=r"chunk|overlap"):
        ChunkGrid(chunk, overlap)


def test_a_tap_gives_any_amounts_and_reads_no_further_than_needed() -> None:
    signal = RNG.standard_normal((2, 100)).astype(np.float32)
    read = []

    def blocks():
        for start in range(0, 100, 7):
            read.append(start)
            yield signal[:, start : start + 7]

    tap = Tap(blocks(), 2)
    np.testing.assert_array_equal(tap.peek(10), signal[:, :10])
    assert read == [0, 7]
    tap.drop(4)
    np.testing.assert_array_equal(tap.peek(3), signal[:, 4:7])
    np.testing.assert_array_equal(tap.peek(500), signal[:, 4:])
    tap.drop(500)
    assert tap.peek(1).shape == (2, 0)
