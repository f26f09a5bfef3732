"""Measure text to speech by tokens: what a token costs, and what a batch of training costs.

    python benchmarks/token_tts.py --plot benchmarks/results/token_tts.png
    python benchmarks/token_tts.py --device cuda

How long `token_tts_small` takes for speech of several lengths, with the keys and values of what was
said kept, and without (each token by the whole network over all before it). And how long a batch of
64 samples (on a CPU 4) takes to be read from a map of tokens, beside the training step that uses
it. On a CPU the seconds are those of the process on one core, which other processes do not add to.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from open_miipher.data.batch import TokenBatch
from open_miipher.data.order import Order
from open_miipher.data.token_store import TokenStore
from open_miipher.data.tokens import TokenDataset
from open_miipher.synthesis import SamplingConfig, TokenTTS, TokenTTSConfig, sample
from open_miipher.synthesis.text import text_batch

TEXT = "I am happy you are here"
LENGTHS = (75, 150, 300, 600)
BATCH = {"cpu": 4, "cuda": 64}
FRAMES = 150


def seconds_of(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Return the shortest time of some runs; of several, the first does not count."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    taken = []
    for _ in range(repeats + (repeats > 1)):
        start = clock()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(clock() - start)
    return min(taken[-repeats:])


@torch.no_grad()
def without_cache(network: TokenTTS, text: Tensor, lengths: Tensor, number: int) -> Tensor:
    """Say so many tokens, each by the whole network."""
    codes = torch.zeros(1, 0, dtype=torch.int64, device=text.device)
    while codes.shape[1] < number:
        place = codes.shape[1]
        frames = functional.pad(codes, (0, -place % network.codebooks))
        logits = network(text, lengths, frames.view(1, -1, network.codebooks))
        own = logits[place % network.codebooks][0, place // network.codebooks]
        codes = torch.cat([codes, own[: network.codebook_size].argmax().view(1, 1)], 1)
    return codes


def network_of(num_frames: int, device: torch.device) -> TokenTTS:
    """Return a model of random weights that never comes to an end."""
    torch.manual_seed(0)
    made = TokenTTS(2, 1024, num_frames, 511, 511, TokenTTSConfig()).to(device).eval()
    with torch.no_grad():
        made.biases[0][-1] = -1e9
    return made


def made_up_store(folder: Path) -> TokenStore:
    """Return tokens of 4096 utterances of 2 s, with texts of 30 letters."""
    rng, number = np.random.default_rng(0), 4096
    ends = np.arange(1, number + 1)
    codes = rng.integers(1024, size=(number * FRAMES, 2)).astype(np.int16)
    arrays = {"codes": codes, "code_ends": ends * FRAMES}
    for name, size in (("text", 30), ("name", 20)):
        arrays |= {f"{name}s": np.full(number * size, 97, np.uint8), f"{name}_ends": ends * size}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    about = {"utterances": number, "copies": 1, "seconds": 2.0 * number, "longest_text": 30}
    (folder / "done.json").write_text(json.dumps({**about, "left_out": {}, "broken": []}))
    return TokenStore(folder)


def training_step(network: TokenTTS, batch: TokenBatch) -> None:
    """Do the work of a step, but for the optimiser."""
    logits = network(batch.text, batch.text_lengths, batch.codes)
    losses = [
        functional.cross_entropy(own[:, :FRAMES].transpose(1, 2), batch.codes[..., book])
        for book, own in enumerate(logits)
    ]
    torch.stack(losses).mean().backward()


def plot(path: Path, kept: list[float], whole: list[float]) -> None:
    """Draw the seconds by length, with the cache and without."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.2), layout="constrained")
    axes.plot(LENGTHS, whole, "o--", color="0.6", label="without the cache")
    axes.plot(LENGTHS, kept, "o-", label="as it is")
    axes.set(xlabel="tokens", ylabel="seconds on one core", ylim=(0, None), xlim=(0, None))
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print, and plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--plot", type=Path, help="gets a picture of the seconds by length")
    arguments = parser.parse_args()
    device, repeats = torch.device(arguments.device), arguments.repeats
    torch.set_num_threads(1)
    network = network_of(max(LENGTHS) // 2, device)
    text, lengths = (tensor.to(device) for tensor in text_batch([TEXT]))
    kept, whole = [], []
    for number in LENGTHS:
        config, item = SamplingConfig(max_new_tokens=number), torch.tensor([0])
        say = lambda c=config, i=item: sample(network, text, lengths, i, c)  # noqa: E731
        kept.append(seconds_of(say, device, repeats))
        say_whole = lambda n=number: without_cache(network, text, lengths, n)  # noqa: E731
        whole.append(seconds_of(say_whole, device, 1))
        print(f"{number} tokens: {kept[-1]:.2f} s, without the cache {whole[-1]:.2f} s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        store = made_up_store(Path(folder))
        data = TokenDataset(store, Order(len(store), 0), 0.0)
        size = BATCH[device.type]
        read = lambda: data.collate([(p, data[p]) for p in range(size)])  # noqa: E731
        of_data = seconds_of(read, torch.device("cpu"), 10)
        batch = read().to(device)
    trained = network_of(FRAMES, device).train()
    of_step = seconds_of(lambda: training_step(trained, batch), device, repeats)
    print(f"a batch of {size}: {of_data * 1000:.1f} ms to read, {of_step * 1000:.1f} ms to train")
    if arguments.plot is not None:
        plot(arguments.plot, kept, whole)


if __name__ == "__main__":
    main()
