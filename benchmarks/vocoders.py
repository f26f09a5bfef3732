"""Compare the speed of vocoders for the same features, side by side, with weights that are random.

    OMP_NUM_THREADS=2 python benchmarks/vocoders.py [--side-by-side]
    python benchmarks/vocoders.py --vocoders wavefit_5_ssl wavenext2 --amp bf16 --batch-size 8
    OMP_NUM_THREADS=1 python benchmarks/vocoders.py --vocoders wavefit_log_mel --profile

Names are those under config/vocoder. All speak the same number of seconds in turn, round after
round, so that other work on the machine slows all of them alike; compared are the medians. Each is
in the form in which it restores. `cpu_s_per_s` is the time of processors, which other work changes
less.

With --side-by-side, each thread speaks a batch of its own, as restoring does on a CPU.

--profile says instead where a CPU's time goes: by kind of convolution, and in what stands between.
"""

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from open_miipher.base.errors import UserError, exit_on_user_error
from open_miipher.base.memory import keep_freed_memory
from open_miipher.base.precision import store_in_bf16, without_parametrisations
from open_miipher.base.registry import build
from open_miipher.config import CONFIG_DIR
from open_miipher.layers.pointwise import Pointwise
from open_miipher.vocoders import VOCODERS

_WIDTH = 1024  # of the features of the open USM, and of w2v-BERT, which Sidon's decoder speaks


def main() -> int:
    """Compare vocoders, or profile each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = ["wavefit_log_mel", "wavenext2_log_mel"]
    parser.add_argument("--vocoders", nargs="+", default=default, metavar="NAME")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each clip (default: 4)")
    parser.add_argument("--batch-size", type=int, default=1, help="clips at once (default: 1)")
    parser.add_argument("--rounds", type=int, default=5, help="after a first one (default: 5)")
    parser.add_argument("--amp", choices=["no", "bf16"], default="no")
    parser.add_argument("--device", help="cpu or cuda; default: a GPU if there is one")
    parser.add_argument("--side-by-side", action="store_true", help="a batch for each thread")
    parser.add_argument("--profile", action="store_true", help="where a CPU's time goes")
    arguments = parser.parse_args()
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    if device == "cpu":
        keep_freed_memory()
    voices = {name: Voice(name, arguments.amp, device) for name in arguments.vocoders}
    size = (arguments.batch_size, arguments.seconds)
    if arguments.profile:
        for voice in voices.values():
            profile(voice, *size, arguments.rounds)
        return 0
    at_once = torch.get_num_threads() if arguments.side_by_side else 1
    for row in compare(voices, *size, arguments.rounds, at_once):
        print(json.dumps(row), flush=True)
    return 0


def compare(
    voices: dict[str, "Voice"], batch_size: int, seconds: float, rounds: int, at_once: int
) -> Iterator[dict[str, Any]]:
    """Have all speak in turns, so many batches at once; yield the figures of each."""
    num_threads = torch.get_num_threads()
    share = num_threads // at_once
    threads = ThreadPoolExecutor(at_once, initializer=torch.set_num_threads, initargs=(share,))
    gflop: dict[str, float] = {}
    for name, voice in voices.items():  # warms up, too
        with FlopCounterMode(display=False) as counter:
            voice.speak(batch_size, seconds)
        gflop[name] = counter.get_total_flops() / 1e9
    taken: dict[str, list[float]] = {name: [] for name in voices}
    worked: dict[str, list[float]] = {name: [] for name in voices}
    for _ in range(rounds):
        for name, voice in voices.items():
            clock, processor = time.perf_counter(), time.process_time()
            list(threads.map(lambda _, v=voice: v.speak(batch_size, seconds), range(at_once)))
            taken[name].append(time.perf_counter() - clock)
            worked[name].append(time.process_time() - processor)
    medians = {name: statistics.median(own) for name, own in taken.items()}
    audio = at_once * batch_size * seconds
    for name, voice in voices.items():
        yield {
            "vocoder": name,
            "device": torch.cuda.get_device_name() if voice.device == "cuda" else voice.device,
            "threads": num_threads,
            "side_by_side": at_once,
            "parameters": sum(parameter.numel() for parameter in voice.vocoder.parameters()),
            "gflop_per_s": round(gflop[name] / (batch_size * seconds), 1),
            "real_time_factor": round(medians[name] / audio, 5),
            "slowest": round(max(taken[name]) / audio, 5),
            "cpu_s_per_s": round(statistics.median(worked[name]) / audio, 5),
            "times_as_fast_as_the_first": round(next(iter(medians.values())) / medians[name], 2),
        }


def profile(voice: "Voice", batch_size: int, seconds: float, rounds: int) -> None:
    """Print ms of processors a second of audio of each kind of layer, the dearest first."""
    spent: dict[str, float] = defaultdict(float)
    gflop: dict[str, float] = defaultdict(float)

    def watch(layer: nn.Module, kind: str, by_rate: bool) -> None:
        began = [0.0]

        def start(*_: Any) -> None:
            began[0] = time.process_time()

        def end(_: nn.Module, given: tuple[Tensor, ...], __: Any) -> None:
            at = f"{kind}, {given[0].shape[-1] / seconds / 1000:g} kHz" if by_rate else kind
            spent[at] += time.process_time() - began[0]
            if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d):
                gflop[at] += 2e-9 * layer.weight.numel() * given[0].shape[0] * given[0].shape[-1]

        layer.register_forward_pre_hook(start, prepend=True)
        layer.register_forward_hook(end)

    for layer in voice.vocoder.modules():
        if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d):
            *channels, taps = layer.weight.shape
            if isinstance(layer, nn.Conv1d):
                channels.reverse()
            widths = " -> ".join(map(str, channels))
            watch(layer, f"{type(layer).__name__} {widths}, {taps} taps", by_rate=True)
        elif isinstance(layer, Pointwise):
            watch(layer, "bias, FiLM, activation", by_rate=False)
    for counts in (False, True):
        spent.clear()
        gflop.clear()
        began = time.process_time()
        for _ in range(rounds if counts else 1):
            voice.speak(batch_size, seconds)
        whole = time.process_time() - began
    spent["all else"] = whole - sum(spent.values())
    audio = rounds * batch_size * seconds
    for kind, value in sorted(spent.items(), key=lambda item: -item[1]):
        speed = f", {gflop[kind] / value:.0f} GFLOP/s" if kind in gflop else ""
        print(f"{1000 * value / audio:8.1f} ms, {value / whole:5.1%}: {kind}{speed}")
    print(f"{1000 * whole / audio:8.1f} ms: all")


class Voice:
    """A vocoder with random weights, and random features for it.

    Args:
        name: under config/vocoder.
        amp: of the weights, no or bf16.
        device: of both.
    """

    def __init__(self, name: str, amp: str, device: str) -> None:
        path = CONFIG_DIR / "vocoder" / f"{name}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
            raise UserError(f"--vocoders {name}: choose of {known}")
        spec = yaml.safe_load(path.read_text())
        mel: dict[str, Any] | None = spec.get("mel")
        features = (_WIDTH, 50.0 if spec["name"] == "dac" else 25.0)
        if mel is not None:
            features = (mel["n_mels"], mel["sample_rate"] / mel["hop_length"])
        self.width, self.frame_rate = features
        self.vocoder = build(VOCODERS, spec, *features).to(device).eval()
        without_parametrisations(self.vocoder)
        self.vocoder.merge(device == "cuda")
        if amp == "bf16":
            store_in_bf16(self.vocoder)
        self.device = device

    def speak(self, batch_size: int, seconds: float) -> float:
        """Vocode; return the seconds that it took."""
        frames = round(seconds * self.frame_rate)
        features = torch.randn(batch_size, frames, self.width, device=self.device) - 3
        noise = torch.randn(batch_size, frames * self.vocoder.hop_length, device=self.device)
        began = self.now()
        self.vocoder.generate(features, noise)
        return self.now() - began

    def now(self) -> float:
        """Return the time after the device has finished all work so far."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


if __name__ == "__main__":
    sys.exit(exit_on_user_error(main)())
