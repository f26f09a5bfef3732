"""From a configuration to a trainer that is ready to run."""

import dataclasses
import socket
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import torch

from open_miipher.base.errors import UserError
from open_miipher.base.registry import build
from open_miipher.checkpoint import Checkpoint, complete_checkpoints, remove_leftovers
from open_miipher.data import Dataset, train_batches, validation_batches
from open_miipher.distributed import StopSignal, World, hold, mark_requeue
from open_miipher.recipes import RECIPES, Recipe, fill_parts
from open_miipher.training.config import AUTO, Run
from open_miipher.training.console import Console
from open_miipher.training.loggers import build_loggers
from open_miipher.training.state import Position, TrainingState, load_weights
from open_miipher.training.trainer import Trainer

# The keys by which a stage takes earlier ones, and the network that each gives.
_STAGES = {"cleaner_ckpt_dir": ("cleaner",), "vocoder_ckpt_dir": ("generator", "discriminator")}
# How long a run that restarts by itself waits for its dying predecessor: a file server keeps the
# lock of a host that is gone for a while (NFS: 90 s).
_LOCK_PATIENCE_SECONDS = 120.0


def prepare(run: Run, world: World) -> Trainer:
    """Check everything that can be checked cheaply, then build, then load weights.

    Raises:
        UserError: with what is wrong, before any training; the same on every rank.
    """
    stop = StopSignal()  # a signal that comes while things are built is obeyed after one step
    world.agree(lambda: run.trainer.check(world.size))
    started = world.broadcast(time.strftime("%Y%m%d-%H%M%S"))
    sources = world.agree(lambda: _sources(run))
    _check_same(sources, world)
    run = world.agree(lambda: _fill(run, started, sources))
    output_dir = Path(run.plain["trainer"]["output_dir"])
    lock = world.agree(lambda: _own(output_dir, run) if world.is_main else None)
    console = Console(output_dir / "train.log" if world.is_main else None)
    train_data, test_data = world.agree(lambda: _data(run, console))
    _check_same_data([train_data, test_data], world)
    state = world.agree(lambda: _state(run, world, train_data, console))
    config = run.trainer
    logging = (config.logger, output_dir, run.data.sample_rate, run.plain)
    loggers = world.agree(
        lambda: build_loggers(*logging, state.run_id, state.step) if world.is_main else []
    )
    state.run_id = next((logger.run_id for logger in loggers if logger.run_id), state.run_id)
    batches = train_batches(
        train_data,
        state.position.consumed,
        config.batch_size,
        config.grad_accumulation,
        world.rank,
        world.size,
        config.num_workers,
        pin_memory=world.device.type == "cuda",
    )
    return Trainer(
        config,
        run.optimizers,
        state,
        batches,
        None if test_data is None else partial(validation_batches, test_data),
        world,
        stop,
        output_dir,
        loggers,
        console,
        lock,
    )


def _sources(run: Run) -> list[Checkpoint]:
    """Open every checkpoint that weights come from."""
    if run.resumed is not None:
        return [run.resumed]
    folders = [run.trainer.init_from, *(run.model.get(key) for key in _STAGES)]
    return [Checkpoint.open(folder) for folder in folders if folder]


def _check_same(sources: list[Checkpoint], world: World) -> None:
    """Check that every rank has found the same checkpoints.

    Raises:
        UserError: they differ; says what each host sees.
    """
    names = ", ".join(f"{c.path} (step {c.state['step']})" for c in sources) or "no checkpoint"
    saved_at = [c.state["saved_at"] for c in sources]
    found = world.gather((f"{socket.gethostname()}: {names}", saved_at))
    if any(times != saved_at for _, times in found):
        seen = dict.fromkeys(
            f"rank {rank} on {name}, saved at {times}" for rank, (name, times) in enumerate(found)
        )
        raise UserError(
            "the ranks would start from different checkpoints; put them on storage that every "
            f"node shares ({'; '.join(seen)})",
            shared=True,
        )


def _fill(run: Run, started: str, sources: list[Checkpoint]) -> Run:
    """Name the run and its directory, and fill the parts that earlier stages give."""
    plain = run.plain
    logger = {**plain["trainer"]["logger"]}
    logger["run_name"] = logger["run_name"] or started
    output_dir = plain["trainer"]["output_dir"] or f"output/{run.name}/{logger['run_name']}"
    model = run.model
    if run.resumed is None:  # or else everything is filled with what the run had
        model = fill_parts(model, sources)
    trainer = {**plain["trainer"], "output_dir": output_dir, "logger": logger}
    return dataclasses.replace(
        run, model=model, plain={**plain, "model": model, "trainer": trainer}
    )


def _own(output_dir: Path, run: Run) -> TextIO:
    """Lock the directory for this run, which must be the one that already wrote there, if any.

    Raises:
        UserError: another run is writing, or has written, there.
    """
    auto = run.trainer.ckpt_dir == AUTO
    lock = hold(output_dir, _LOCK_PATIENCE_SECONDS if auto else 0.0)
    root = output_dir / "ckpt"
    complete = complete_checkpoints(root)
    if complete and not (run.resumed and _wrote(run.resumed, output_dir)):
        raise UserError(
            f"{output_dir} holds the checkpoints of another run; go on with it by "
            "trainer.ckpt_dir=auto, or choose another trainer.output_dir"
        )
    if auto and run.resumed and complete[-1:] != [run.resumed.path]:
        raise UserError(
            f"{run.resumed.path} is no longer the newest checkpoint there: another run wrote while "
            "this one was starting; start it again"
        )
    root.mkdir(exist_ok=True)
    remove_leftovers(root)
    mark_requeue(output_dir, False)
    return lock


def _wrote(checkpoint: Checkpoint, output_dir: Path) -> bool:
    """Whether a checkpoint is of the run in this directory, which may have been moved."""
    recorded = Path(checkpoint.config["trainer"]["output_dir"])
    there = (output_dir / "ckpt").resolve()
    return checkpoint.path.parent == there or recorded.resolve() == output_dir.resolve()


def _data(run: Run, console: Console) -> tuple[Dataset, Dataset | None]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        train_data = run.data.train(run.trainer.seed)
        test_data = run.data.validation(run.trainer.seed)
    for warning in caught:
        console.line(f"warning: {warning.message}")
    if test_data is None:
        console.line(
            f"{run.data.validation_key} is empty: no validation, no samples, no best checkpoint"
        )
    return train_data, test_data


def _check_same_data(datasets: list[Dataset | None], world: World) -> None:
    """Check that every rank has found the same data, or samples would repeat and be missed.

    Raises:
        UserError: they differ; says what each host sees.
    """
    seen = [data and (data.num_items, data.fingerprint[:12]) for data in datasets]
    found = world.gather((socket.gethostname(), seen))
    if any(items != seen for _, items in found):
        hosts = dict.fromkeys(f"rank {rank} on {name}: {s}" for rank, (name, s) in enumerate(found))
        raise UserError(
            "the ranks see different data (number of items and fingerprint, for training and "
            f"validation); give every node the same ({'; '.join(hosts)})",
            shared=True,
        )


def build_recipe(model: dict[str, Any], sample_rate: int, seed: int) -> Recipe:
    """Build the recipe that `model.recipe` names, its fresh weights drawn from the seed.

    Args:
        model: the recipe's name and fields, every part filled.
        sample_rate: of the data.
        seed: of the run.

    Raises:
        UserError: a key does not fit.
    """
    torch.manual_seed(seed)
    fields = {k: v for k, v in model.items() if k != "recipe" and k not in _STAGES}
    return build(RECIPES, {"name": model["recipe"], **fields}, sample_rate, seed, key="model")


def _state(run: Run, world: World, train_data: Dataset, console: Console) -> TrainingState:
    config = run.trainer
    recipe = build_recipe(run.model, run.data.sample_rate, config.seed)
    recipe.to(world.device)
    _check_optimizers(run, recipe)
    if run.resumed is None:
        _start_weights(run, recipe)
    state = TrainingState.fresh(
        recipe,
        run.optimizers,
        Position(train_data.num_items, train_data.fingerprint),
        run.plain,
        run.overrides,
        config.amp,
        config.ema.decay if config.ema.enabled else None,
    )
    if run.resumed is not None:
        news = state.restore(run.resumed, run.optimizers)
        console.line(f"resumed from {run.resumed.path} at step {state.step}")
        if news:
            console.line(news)
    for name, network in recipe.trained.items():
        count = sum(p.numel() for p in network.parameters() if p.requires_grad)
        console.line(f"{name}: {count / 1e6:.2f} M trainable parameters")
    return state


def _start_weights(run: Run, recipe: Recipe) -> None:
    """Take weights from `trainer.init_from`, then from earlier stages; averaged where kept."""
    if run.trainer.init_from:
        load_weights(recipe, Checkpoint.open(run.trainer.init_from), averaged=True)
    for key, names in _STAGES.items():
        if run.model.get(key):
            checkpoint = Checkpoint.open(run.model[key])
            checkpoint.check_encoder(recipe.encoder.fingerprint())
            for name in (n for n in names if n in recipe.trained or n in recipe.frozen):
                recipe.load(name, checkpoint.averaged_weights(name), checkpoint.path)


def _check_optimizers(run: Run, recipe: Recipe) -> None:
    if set(run.optimizers) != set(recipe.trained):
        raise UserError(
            f"optimizer has keys for {', '.join(run.optimizers)} but {run.name} trains "
            f"{', '.join(recipe.trained)}"
        )
