"""Run as one of several ranks: leave the averaged gradients of each recipe in files.

python gradients.py OUT_DIR SETTINGS.json single|double|captured, the settings being {name: [override,
…]}. single: of the first step, in float32, as users train. double: of the second step, in float64,
where no rounding hides a mistake and the zeros that some weights start with are gone. captured: as
single, and what is compiled is compiled as `captured` has it.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from captured import leave_out_code

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from open_miipher.config import compose_run
from open_miipher.distributed import World, start
from open_miipher.training import Trainer, prepare


def make_trainer(overrides: list[str], output_dir: Path, world: World) -> Trainer:
    composed = [*overrides, f"trainer.output_dir={output_dir}"]
    run = world.broadcast(compose_run(composed) if world.is_main else None)  # it takes long
    trainer = prepare(run, world)
    dtype = torch.get_default_dtype()
    trainer.batches = (
        replace(batch, **{name: getattr(batch, name).to(dtype) for name in batch.waveforms})
        for batch in trainer.batches
    )
    return trainer


def keep_gradients(trainer: Trainer, double: bool, file: Path, world: World) -> None:
    if double:
        trainer.step()
    losses, _ = trainer.accumulate()
    losses = world.mean({name: float(value) for name, value in losses.items()})
    gradients = {
        network: {key: p.grad for key, p in module.named_parameters() if p.requires_grad}
        for network, module in trainer.recipe.trained.items()
    }
    if world.is_main:
        torch.save((losses, gradients), file)


def main() -> None:
    out_dir, settings = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    double = sys.argv[3] == "double"
    if sys.argv[3] == "captured":
        leave_out_code()
    if double:
        torch.set_default_dtype(torch.float64)
        torch.Tensor.float = torch.Tensor.double  # what asks for float32 gets float64 too
    world = start("cpu")
    for name, overrides in settings.items():
        run, file = out_dir / f"run-{name}-{world.size}", out_dir / f"{name}-{world.size}.pt"
        keep_gradients(make_trainer(overrides, run, world), double, file, world)
    world.close()


if __name__ == "__main__":  # loader workers may be spawned
    main()
