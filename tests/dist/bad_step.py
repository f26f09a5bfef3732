"""Run as one of several ranks: a value of rank 1 is NaN in the second step; nothing may move then.

python bad_step.py OVERRIDE…; prints on every rank what `read` says.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from open_miipher.base.errors import UserError
from open_miipher.config import compose_run
from open_miipher.distributed import World, start
from open_miipher.training import Trainer, prepare


def weights(trainer: Trainer) -> list[torch.Tensor]:
    networks = trainer.recipe.trained.values()
    kept = [p.detach().clone() for network in networks for p in network.parameters()]
    return [*kept, *(a.clone() for a in trainer.state.ema.average.values())]


def take_bad_step(world: World) -> None:
    trainer = prepare(compose_run(sys.argv[1:]), world)
    trainer.step()
    trainer.read()
    before = weights(trainer)
    passes = trainer.recipe.passes

    def spoiled(*given: object):
        for item in passes(*given):
            item.losses["l1"] = item.losses["l1"] * float("nan")
            yield item

    if world.rank == 1:
        trainer.recipe.passes = spoiled
    trainer.step()
    trainer.recipe.passes = passes
    trainer.step()
    assert trainer.state.step == 3
    try:
        trainer.read()
    except UserError as error:
        sys.stdout.write(f"rank {world.rank}: {error}\n")  # at once: print writes the end apart
        sys.stdout.flush()
    assert all(map(torch.equal, before, weights(trainer)))
    assert trainer.state.step == 1


def main() -> None:
    world = start("cpu")
    take_bad_step(world)
    world.close()


if __name__ == "__main__":  # loader workers may be spawned
    main()
