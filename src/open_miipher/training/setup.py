"""Build a trainer from a configuration."""

import contextlib
import dataclasses
import shutil
import socket
import time
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import torch

from open_miipher.audio.spectral import DEFINITION
from open_miipher.base.compilers import missing_for_kernels
from open_miipher.base.errors import UserError
from open_miipher.base.memory import keep_freed_memory
from open_miipher.base.registry import build
from open_miipher.checkpoint import (
    Checkpoint,
    complete_checkpoints,
    remove_leftovers,
    set_aside,
)
from open_miipher.data import (
    Dataset,
    FindsFiles,
    MadeFirst,
    train_batches,
    validation_batches,
)
from open_miipher.distributed import StopSignal, World, hold, mark_requeue
from open_miipher.recipes import RECIPES, Recipe, fill_parts, named_output_dir, recipe_class
from open_miipher.training.config import AUTO, Run
from open_miipher.training.console import Console
from open_miipher.training.loggers import build_loggers
from open_miipher.training.state import Position, TrainingState, load_networks
from open_miipher.training.trainer import Trainer

# How long a run that is restarted automatically waits for the lock of the run before it. A file
# server keeps the lock of a host that went down for some time (NFS: 90 s).
_LOCK_PATIENCE_SECONDS = 120.0


def prepare(run: Run, world: World) -> Trainer:
    """Check the configuration and the data, then build the networks and load weights.

    Raises:
        UserError: something is wrong; raised on every rank, before any training.
    """
    stop = StopSignal()  # a signal that arrives while we build stops the run after its first step
    world.agree(lambda: _check(run, world))
    started = world.broadcast(time.strftime("%Y%m%d-%H%M%S"))
    sources = world.agree(lambda: _sources(run))
    _check_same(list(sources.values()), world)
    sources = _verified(sources, world)
    run = world.agree(lambda: _fill(run, started, sources))
    output_dir = Path(run.plain["trainer"]["output_dir"])
    lock = world.agree(lambda: _own(output_dir, run) if world.is_main else None)
    console = Console(output_dir / "train.log" if world.is_main else None)
    has_best = world.on_main(lambda: _begin_branch(output_dir, run, console))
    if isinstance(run.data, MadeFirst):
        with _telling(console):
            run.data.make(output_dir, world, console.line)
    train_data, test_data = world.agree(lambda: _data(run, console))
    sampled = world.agree(lambda: _sampled(run)) or test_data
    _check_same_data([train_data, test_data], world)
    state = world.agree(lambda: _state(run, world, train_data, sources, console))
    if not has_best:
        state.best_score = float("inf")
    config = run.trainer
    for line in _about(run, world, output_dir, train_data, state):
        console.line(line)
    logging = (config.logger, output_dir, state.recipe.samples_folder, run.plain)
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
        start_method="fork" if world.may_fork else "spawn",
    )
    return Trainer(
        config,
        run.optimizers,
        state,
        batches,
        None if test_data is None else partial(validation_batches, test_data),
        None if sampled is None else partial(validation_batches, sampled),
        world,
        stop,
        output_dir,
        loggers,
        console,
        lock,
    )


def _check(run: Run, world: World) -> None:
    """Check the trainer's keys, and that the recipe can train on this kind of data.

    Raises:
        UserError: a key does not fit, the data is of another kind, validation has no such score, or
            nothing can be compiled here.
    """
    run.trainer.check(world.size)
    missing = missing_for_kernels(world.device.type) if run.trainer.compile else None
    if missing is not None:
        raise UserError(f"trainer.compile=true cannot compile: this machine lacks {missing}")
    recipe = recipe_class(run.model)
    if run.trainer.best_by is not None:
        recipe.check_scores(run.trainer.best_by)
    kinds, given = recipe.data_kinds, run.data.batch_type
    if not issubclass(given, kinds):
        wanted = " or ".join(kind.kind for kind in kinds)
        raise UserError(
            f"{run.name} trains on {wanted}, but data.name={run.plain['data']['name']} gives "
            f"{given.kind}; choose another data=…"
        )


def _sources(run: Run) -> dict[str, Checkpoint]:
    """Open every checkpoint that weights are taken from: configuration key to checkpoint."""
    if run.resumed is not None:
        return {"trainer.ckpt_dir": run.resumed}
    keys = {"trainer.init_from": run.trainer.init_from}
    keys |= {f"model.{key}": run.model.get(key) for key in recipe_class(run.model).takes}
    which = str(run.trainer.ckpt)
    return {key: Checkpoint.open(folder, which) for key, folder in keys.items() if folder}


def _check_same(sources: list[Checkpoint], world: World) -> None:
    """Check that every rank found the same checkpoints.

    Raises:
        UserError: they differ; the message says what each rank found.
    """
    seen = [
        f"{c.path} (step {c.state['step']}, save {c.state['save_number']}, {c.identity[:12]})"
        for c in sources
    ]
    found = world.gather((socket.gethostname(), seen))
    if any(others != seen for _, others in found):
        hosts = dict.fromkeys(
            f"rank {rank} on {name}: {', '.join(others) or 'no checkpoint'}"
            for rank, (name, others) in enumerate(found)
        )
        raise UserError(
            "the ranks would start from different checkpoints; put them on storage that every "
            f"node shares ({'; '.join(hosts)})",
            shared=True,
        )


def _verified(sources: dict[str, Checkpoint], world: World) -> dict[str, Checkpoint]:
    """Verify the checkpoints' hashes once per machine, before all of its ranks map the files."""
    world.once_a_machine(lambda: [checkpoint.verify() for checkpoint in sources.values()])
    return {k: dataclasses.replace(c, is_verified=True) for k, c in sources.items()}


def _fill(run: Run, started: str, sources: dict[str, Checkpoint]) -> Run:
    """Set the run's name and directory, and fill in the parts that earlier stages provide."""
    plain = run.plain
    logger = {**plain["trainer"]["logger"]}
    logger["run_name"] = logger["run_name"] or started
    model = run.model
    output_dir = (
        plain["trainer"]["output_dir"]
        or named_output_dir(model)
        or f"output/{run.name}/{logger['run_name']}"
    )
    if run.resumed is None:  # a resumed run's configuration is complete already
        model = fill_parts(recipe_class(model), model, list(sources.values()))
    trainer = {**plain["trainer"], "output_dir": output_dir, "logger": logger}
    return dataclasses.replace(
        run, model=model, plain={**plain, "model": model, "trainer": trainer}
    )


def _own(output_dir: Path, run: Run) -> TextIO:
    """Lock the output directory for this run.

    Raises:
        UserError: another run is writing or has written there.
    """
    auto = run.trainer.ckpt_dir == AUTO
    lock = hold(output_dir, _LOCK_PATIENCE_SECONDS if auto else 0.0)
    root = output_dir / "ckpt"
    complete = complete_checkpoints(root)
    if complete and not (run.resumed and _wrote(run.resumed, output_dir)):
        raise UserError(
            f"{output_dir} holds the checkpoints of another run; resume it with "
            "trainer.ckpt_dir=auto, or choose another trainer.output_dir"
        )
    if auto and run.resumed and complete[-1:] != [run.resumed.path]:
        raise UserError(
            f"{run.resumed.path} is no longer the newest checkpoint there: another run wrote one "
            "while this one was starting; start this run again"
        )
    root.mkdir(exist_ok=True)
    remove_leftovers(root)  # the next save warns of what could not be removed
    mark_requeue(output_dir, False)
    return lock


def _begin_branch(output_dir: Path, run: Run, console: Console) -> bool:
    """Set aside what was saved after the checkpoint that is resumed in place.

    Returns:
        Whether the best checkpoint so far is still there.
    """
    root = output_dir / "ckpt"
    folder = set_aside(root, run.resumed.path) if run.resumed else None
    if folder is not None:
        metrics = output_dir / "metrics.jsonl"
        if metrics.exists():  # its lines of later steps are removed
            shutil.copy2(metrics, folder)
        console.line(f"what this run saved after that checkpoint is set aside in {folder}")
    return folder is None or (root / "best").exists()


def _about(
    run: Run, world: World, output_dir: Path, train_data: Dataset, state: TrainingState
) -> Iterator[str]:
    """Say what is trained on what, and what may surprise."""
    ranks = f"{world.size} processes" if world.size > 1 else "one process"
    yield f"{run.name} in {output_dir}, on {world.device.type}, {ranks}"
    steps = f"steps {state.step} to {run.trainer.max_steps} of {run.trainer.batch_size} samples"
    yield f"trains on {train_data.described}; {steps}"
    for network, optimizer in run.optimizers.items():
        if optimizer.schedule != "constant" and optimizer.lr < optimizer.final_lr:
            yield (
                f"warning: optimizer.{network}.lr={optimizer.lr:g} is below its schedule's end, "
                f"final_lr={optimizer.final_lr:g}: the rate will rise"
            )
    if run.resumed is not None and run.resumed.state["overrides"]:
        yield f"overrides that still hold: {' '.join(run.overrides)}"


def _wrote(checkpoint: Checkpoint, output_dir: Path) -> bool:
    """Whether the run in this directory wrote a checkpoint; the directory may have been moved."""
    recorded = Path(checkpoint.config["trainer"]["output_dir"])
    there = (output_dir / "ckpt").resolve()
    return checkpoint.path.parent == there or recorded.resolve() == output_dir.resolve()


def _data(run: Run, console: Console) -> tuple[Dataset, Dataset | None]:
    with _telling(console):
        train_data = run.data.train(run.trainer.seed)
        test_data = run.data.validation(run.trainer.seed)
    if test_data is None:
        console.line(
            f"{run.data.validation_key} is empty: no validation, no samples, no best checkpoint"
        )
    elif run.trainer.validate_every > run.trainer.max_steps:
        console.line(
            f"trainer.validate_every={run.trainer.validate_every} is beyond the last step: no "
            "validation, no best checkpoint"
        )
    return train_data, test_data


def _sampled(run: Run) -> Dataset | None:
    """Return the clip that the samples are made of; None: those of validation.

    Raises:
        UserError: there is no such file, or the data is not of single files.
    """
    if run.sampled is None:
        return None
    if not isinstance(run.data, FindsFiles):
        raise UserError(
            f"generate.mel_name={run.sampled} names a file, and the samples of {run.name} are of "
            "no single files: leave it out"
        )
    return run.data.named(run.sampled, run.trainer.seed)


@contextlib.contextmanager
def _telling(console: Console) -> Iterator[None]:
    """Print the warnings that come from inside the block."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        console.line(f"warning: {warning.message}")


def _check_same_data(datasets: list[Dataset | None], world: World) -> None:
    """Check that every rank found the same data; otherwise samples would repeat or be missed.

    Raises:
        UserError: they differ; the message says what each rank found.
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


def build_recipe(model: Mapping[str, Any], data: Any, seed: int) -> Recipe[Any]:
    """Build the recipe that `model.recipe` names, with fresh weights drawn from the seed.

    Args:
        model: the recipe's name and fields, every part filled in.
        data: the source of the data; a recipe for audio reads its `sample_rate`.
        seed: of the run.

    Raises:
        UserError: a key does not fit.
    """
    torch.manual_seed(seed)
    takes = recipe_class(model).takes
    fields = {k: v for k, v in model.items() if k != "recipe" and k not in takes}
    return build(RECIPES, {"name": model["recipe"], **fields}, data, seed, key="model")


def _state(
    run: Run,
    world: World,
    train_data: Dataset,
    sources: Mapping[str, Checkpoint],
    console: Console,
) -> TrainingState:
    config = run.trainer
    recipe = build_recipe(run.model, run.data, config.seed)
    recipe.to(world.device)
    if world.device.type == "cpu":
        keep_freed_memory()  # of activations, which come again in every step
    if config.best_by is not None:
        recipe.best_by = config.best_by
    _check_optimizers(run, recipe)
    if run.resumed is None:
        _start_weights(recipe, sources)
        for key, checkpoint in sources.items():
            console.line(f"{key}: {checkpoint.described}")
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
        [checkpoint] = sources.values()
        notice = state.restore(checkpoint, run.optimizers)
        console.line(f"resumed from {checkpoint.path} at step {state.step}")
        if notice:
            console.line(notice)
        change = _other_scores(checkpoint, recipe)
        if change is not None:
            state.best_score = float("inf")
            console.line(f"{change}: the next validation gives the first best checkpoint")
    for name, network in recipe.trained.items():
        count = sum(p.numel() for p in network.parameters() if p.requires_grad)
        console.line(f"{name}: {count / 1e6:.2f} M trainable parameters")
    return state


def _other_scores(checkpoint: Checkpoint, recipe: Recipe[Any]) -> str | None:
    """Say why the best score so far cannot be compared with those to come; None if it can."""
    before = checkpoint.config["trainer"].get("best_by") or [recipe.score]
    if list(recipe.best_by) != before:
        return f"trainer.best_by was {', '.join(before)} and is {', '.join(recipe.best_by)}"
    definition = checkpoint.state.get("log_spectral_distance", 1)
    if "log_spectral_distance" in before and definition != DEFINITION:
        return "the log-spectral distance is another one since this checkpoint"
    return None


def _start_weights(recipe: Recipe[Any], sources: Mapping[str, Checkpoint]) -> None:
    """Load weights from `trainer.init_from`, then from earlier stages; averaged ones if kept."""
    for key, checkpoint in sources.items():
        taken = recipe.takes.get(key.removeprefix("model."), tuple(recipe.saved))
        names = [name for name in taken if name in recipe.saved]
        load_networks(recipe, checkpoint, names, averaged=True)


def _check_optimizers(run: Run, recipe: Recipe[Any]) -> None:
    if set(run.optimizers) != set(recipe.trained):
        raise UserError(
            f"optimizer has keys for {', '.join(run.optimizers)} but {run.name} trains "
            f"{', '.join(recipe.trained)}"
        )
