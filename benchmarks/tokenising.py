"""Measure tokenising: seconds of audio a second, and memory on a long file.

    python benchmarks/tokenising.py --json output/tokenize.json
    python benchmarks/tokenising.py --device cuda --json output/tokenize.json

The codec has EnCodec's own sizes and random weights: 24 kHz, 32 filters, two layers of LSTM, 1.5
kb/s. Utterances of 2 to 15 s are tokenised in batches of like length, beside `transformers`' own
`encode` of each alone. On a machine that does other things too, the seconds of audio a second of
processor time, of all threads, say more. The memory is the highest of a process that tokenises one
file of 2 minutes, and of one that tokenises 20 minutes, piece by piece.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from processes import peak_bytes

from open_miipher.codec import AudioTokenizer

RATE = 24000


def main() -> None:
    """Measure, and print or write what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu | cuda (default: %(default)s)")
    parser.add_argument("--utterances", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--batch-seconds", type=float, default=40.0, help="default: %(default)s")
    parser.add_argument("--no-memory", action="store_true", help="leave out the long files")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_codec(Path(folder))
        codec = AudioTokenizer(arguments.device, folder)
        found = {
            "load_average": os.getloadavg()[0],
            "threads": torch.get_num_threads(),
            **speeds(codec, arguments.utterances, arguments.batch_seconds),
        }
        for minutes in () if arguments.no_memory else (2, 20):
            found[f"memory_{minutes}_min_mb"] = peak_memory(folder, 60 * minutes)
    for name, value in found.items():
        print(f"{name:<24} {value:,.1f}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


def make_codec(folder: Path) -> None:
    """Save an EnCodec of the published sizes with random weights and codebooks."""
    from transformers import EncodecConfig, EncodecModel

    torch.manual_seed(0)
    model = EncodecModel(EncodecConfig())
    for layer in model.quantizer.layers:
        layer.codebook.embed.normal_()
    model.save_pretrained(folder)


def speeds(codec: AudioTokenizer, count: int, batch_seconds: float) -> dict[str, float]:
    """Return seconds of audio a second: in batches, back, and by `transformers` one by one."""
    generator = torch.Generator().manual_seed(0)
    lengths = (RATE * (2 + 13 * torch.rand(count, generator=generator))).long().sort().values
    waveforms = [0.1 * torch.randn(int(length), generator=generator) for length in lengths]
    seconds = float(lengths.sum()) / RATE
    codec.encode(waveforms[0][None], lengths[:1])  # warm
    with timed() as encoding:
        tokens = [t for batch in batches(waveforms, batch_seconds) for t in encode(codec, batch)]
    with timed() as decoding:
        for first in range(0, count, 8):
            codec.decode(tokens[first : first + 8])
    with timed() as stock, torch.no_grad():
        for waveform in waveforms:
            codec._model.encode(waveform[None, None].to(codec.device), bandwidth=1.5)
    taken = {"encode": encoding, "decode": decoding, "transformers_encode": stock}
    found = {f"{name}_times_real_time": seconds / wall for name, (wall, _) in taken.items()}
    return found | {f"{name}_per_cpu_second": seconds / cpu for name, (_, cpu) in taken.items()}


@contextmanager
def timed() -> Iterator[list[float]]:
    """Give a list that gets the seconds of the block, by the clock and of all processors."""
    started, found = (time.monotonic(), time.process_time()), list[float]()
    yield found
    found += [time.monotonic() - started[0], time.process_time() - started[1]]


def batches(waveforms: list[Tensor], seconds: float) -> Iterator[list[Tensor]]:
    """Yield sorted waveforms in batches of so many seconds, the padding included."""
    batch: list[Tensor] = []
    for waveform in waveforms:
        if batch and (len(batch) + 1) * len(waveform) > seconds * RATE:
            yield batch
            batch = []
        batch.append(waveform)
    yield batch


def encode(codec: AudioTokenizer, batch: list[Tensor]) -> list[Tensor]:
    """Tokenise a batch."""
    lengths = torch.tensor([len(waveform) for waveform in batch])
    return codec.encode(pad_sequence(batch, batch_first=True), lengths)


def peak_memory(folder: str, seconds: int) -> float:
    """Return the most memory, in MB, of a process that tokenises one file of so many seconds."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(tokenise_long, (folder, seconds))


def tokenise_long(folder: str, seconds: int) -> float:
    """Tokenise noise in blocks of a second; return the process's highest memory in MB."""
    codec = AudioTokenizer("cpu", folder)
    frames = sum(map(len, codec.encode_stream(0.1 * torch.randn(RATE) for _ in range(seconds))))
    assert frames == 75 * seconds
    return peak_bytes() / 2**20


if __name__ == "__main__":
    main()
