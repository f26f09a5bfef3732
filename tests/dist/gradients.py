"""Run under torchrun: leave the averaged gradients of each recipe's first step in a file.

python gradients.py OUT_DIR SETTINGS.json, the settings being {name: [override, …]}.
"""

import json
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "src"))

from open_miipher.config import compose_run  # noqa: E402
from open_miipher.distributed import start  # noqa: E402
from open_miipher.training import prepare  # noqa: E402


def main() -> None:
    out_dir, settings = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    world = start("cpu")
    for name, overrides in settings.items():
        output_dir = out_dir / f"run-{name}-{world.size}"
        trainer = prepare(compose_run([*overrides, f"trainer.output_dir={output_dir}"]), world)
        losses, _ = trainer.accumulate()
        gradients = {
            f"{network}.{key}": parameter.grad
            for network, module in trainer.recipe.trained.items()
            for key, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        losses = world.mean(losses)
        if world.is_main:
            torch.save((losses, gradients), out_dir / f"{name}-{world.size}.pt")
    world.close()


main()
