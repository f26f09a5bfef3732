"""Compare the speed of vocoders for the same features, side by side, with weights that are random.

    OMP_NUM_THREADS=2 python benchmarks/vocoders.py
    python benchmarks/vocoders.py --vocoders wavefit_5_ssl wavenext2 --amp bf16 --batch-size 8

Names are those under config/vocoder. All speak the same number of seconds in turn, round after
round, so that other work on the machine slows all of them alike; compared are the medians.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from open_miipher.base.errors import UserError, exit_on_user_error
from open_miipher.base.precision import store_in_bf16
from open_miipher.base.registry import build
from open_miipher.config import CONFIG_DIR
from open_miipher.vocoders import VOCODERS

_SSL = (1024, 25.0)  # values per frame and frames per second of the open USM


def main() -> int:
    """Measure, and print a line of JSON for each vocoder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = ["wavefit_log_mel", "wavenext2_log_mel"]
    parser.add_argument("--vocoders", nargs="+", default=default, metavar="NAME")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each clip (default: 4)")
    parser.add_argument("--batch-size", type=int, default=1, help="clips at once (default: 1)")
    parser.add_argument("--rounds", type=int, default=5, help="after a first one (default: 5)")
    parser.add_argument("--amp", choices=["no", "bf16"], default="no")
    parser.add_argument("--device", help="cpu or cuda; default: a GPU if there is one")
    arguments = parser.parse_args()
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    voices = {name: Voice(name, arguments.amp, device) for name in arguments.vocoders}
    size = (arguments.batch_size, arguments.seconds)
    audio = arguments.batch_size * arguments.seconds
    counts: dict[str, float] = {}
    for name, voice in voices.items():  # warms up, too
        with FlopCounterMode(display=False) as counter:
            voice.speak(*size)
        counts[name] = counter.get_total_flops() / audio / 1e9
    taken: dict[str, list[float]] = {name: [] for name in voices}
    for _ in range(arguments.rounds):
        for name, voice in voices.items():
            taken[name].append(voice.speak(*size))
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    for name, voice in voices.items():
        row = {
            "vocoder": name,
            "device": torch.cuda.get_device_name() if device == "cuda" else device,
            "threads": torch.get_num_threads(),
            "parameters": sum(parameter.numel() for parameter in voice.vocoder.parameters()),
            "gflop_per_s": round(counts[name], 1),
            "real_time_factor": round(medians[name] / audio, 5),
            "slowest": round(max(taken[name]) / audio, 5),
            "times_as_fast_as_the_first": round(medians[arguments.vocoders[0]] / medians[name], 2),
        }
        print(json.dumps(row), flush=True)
    return 0


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
        mel = spec.get("mel")
        features = _SSL if mel is None else (mel["n_mels"], mel["sample_rate"] / mel["hop_length"])
        self.width, self.frame_rate = features
        self.vocoder = build(VOCODERS, spec, *features).to(device).eval()
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
