"""Compare a chain in torch with what src/export.py wrote of it: size, speed and difference.

    python benchmarks/export.py [--ckpt-dir RUN] [--seconds 20] [--rounds 5] [--threads 2]

One chunk of noise at the level of speech, as src/inference.py gives it to the model; the best of
the rounds, which alternate. Prints a table for benchmarks/results/export.md.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np
import onnxruntime
import torch

from open_miipher.audio.level import SPEECH_RMS
from open_miipher.base.errors import exit_on_user_error
from open_miipher.checkpoint import Checkpoint
from open_miipher.evaluation.tables import format_table
from open_miipher.exporting import Contents, export_folder
from open_miipher.exporting.onnx import MODEL, export_onnx
from open_miipher.restoration import Chain
from open_miipher.restoration.chain import DEFAULT_MODEL


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ckpt-dir", default=str(DEFAULT_MODEL), help="a checkpoint of a chain")
    parser.add_argument("--seconds", type=float, default=20.0, help="of the chunk")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder."""
    return sum(p.stat().st_size for p in [path, *path.rglob("*")] if p.is_file())


def in_torch(chain: Chain, given: dict[str, np.ndarray]) -> np.ndarray:
    """Restore the chunk as the chain does, with the noise that is given."""
    with torch.inference_mode():
        features, _ = chain.cleaner(torch.from_numpy(given["waveform"]), None)
        restored: np.ndarray = chain.vocoder.generate(
            features, torch.from_numpy(given["noise"])
        ).numpy()
        return restored


def in_onnxruntime(path: Path, threads: int) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """Return a function that restores the chunk with an exported file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    return lambda given: session.run(None, given)[0]


def main() -> int:
    """Export, restore in turns, and print the table."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    checkpoint = Checkpoint.open(arguments.ckpt_dir)
    chain = Chain.from_checkpoint(checkpoint)
    frames = round(arguments.seconds * chain.input_rate / chain.input_hop)
    rng = np.random.default_rng(0)
    waveform = SPEECH_RMS * rng.standard_normal((1, frames * chain.input_hop))
    given = {
        "waveform": waveform.astype(np.float32),
        "lengths": np.array([frames * chain.input_hop]),
        "noise": rng.standard_normal((1, frames * chain.output_hop)).astype(np.float32),
    }
    with tempfile.TemporaryDirectory() as root:
        whole, half = (
            export_folder(checkpoint, Path(root) / name, Contents(half=name == "half"))
            for name in ("whole", "half")
        )
        graphs = [Path(root) / name for name in (MODEL, f"half_{MODEL}")]
        for path in graphs:
            export_onnx(chain.cleaner, chain.vocoder, path, {}, half=path is graphs[1])
        chains = [chain, Chain.from_checkpoint(whole), Chain.from_checkpoint(half)]
        ways: dict[str, tuple[Path, Callable[[dict[str, np.ndarray]], np.ndarray]]] = {
            "torch, the checkpoint": (checkpoint.path, lambda x: in_torch(chains[0], x)),
            "torch, exported": (whole, lambda x: in_torch(chains[1], x)),
            "torch, exported, float16": (half, lambda x: in_torch(chains[2], x)),
            "onnxruntime": (graphs[0], in_onnxruntime(graphs[0], arguments.threads)),
            "onnxruntime, float16": (graphs[1], in_onnxruntime(graphs[1], arguments.threads)),
        }
        best = dict.fromkeys(ways, float("inf"))
        outputs = {name: run(given) for name, (_, run) in ways.items()}  # caches fill
        for _ in range(arguments.rounds):
            for name, (_, run) in ways.items():
                began = time.perf_counter()
                run(given)
                best[name] = min(best[name], time.perf_counter() - began)
        reference = outputs["torch, the checkpoint"]
        rows = [
            [
                name,
                f"{size_of(path) / 1e6:.1f}",
                f"{frames * chain.input_hop / chain.input_rate / best[name]:.1f}",
                f"{np.abs(outputs[name] - reference).max():.1e}",
            ]
            for name, (path, _) in ways.items()
        ]
    print(format_table(["", "MB", "times real time", "largest difference"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(exit_on_user_error(main)())
