"""Run under torchrun: leave the averaged gradients of each recipe's first step in a file.

python gradients.py OUT_DIR SETTINGS.json, the settings being {name: [override, …]}.
"""

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from open_miipher.config import compose_run
from open_miipher.distributed import start
from open_miipher.training import prepare


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
