"""The configuration of a training run: the trainer's keys, and all keys of a run together."""

from dataclasses import dataclass, field
from typing import Any, Literal

from open_miipher.base.errors import report
from open_miipher.checkpoint import NEWEST, Checkpoint
from open_miipher.data import DataSource
from open_miipher.training.optimization import OptimizerConfig

AUTO = "auto"  # value of ckpt_dir: resume the run in output_dir, or start it


@dataclass
class EmaConfig:
    """The moving average of the main network's weights.

    Attributes:
        enabled: keep an average; validation, samples and restoration then use it.
        decay: of the average at each step; early steps use (1 + step) / (10 + step) if it is less.
    """

    enabled: bool = True
    decay: float = 0.9999


@dataclass
class LoggerConfig:
    """Where to log curves and samples, besides `metrics.jsonl` and `samples/`.

    Attributes:
        kind: wandb (offline unless WANDB_API_KEY is set), tensorboard or none.
        project_name: project in wandb.
        run_name: name of the run; None: the time at which it was started.
    """

    kind: Literal["wandb", "tensorboard", "none"] = "wandb"
    project_name: str = "open-miipher-2"
    run_name: str | None = None


@dataclass
class TrainerConfig:
    """The trainer's keys.

    Attributes:
        batch_size: samples per step, over all ranks and micro batches.
        max_steps: the step at which this run ends.
        output_dir: where everything is written; None: output/<model>/<run name>, or the name that
            the recipe gives.
        device: cpu or cuda; None: a GPU if there is one.
        num_workers: loader processes per rank; 0 loads in the rank's own process.
        amp: bf16 or fp16 autocast, or no.
        compile: compile the networks and losses (torch.compile): the first steps take minutes, the
            others less than without. float32 is then never rounded to TF32.
        lr_factor: times the learning rates of all networks, first and last.
        grad_accumulation: micro batches per step.
        max_grad_norm: limit of each network's gradient norm; None: no clipping.
        log_every: steps between lines of metrics.
        save_every: steps between checkpoints.
        validate_every: steps between validations; 0: never.
        sample_every: steps between samples to listen to; 0: never.
        num_samples: number of clips to listen to.
        best_by: names of validation scores; the best checkpoint is the one with the least geometric
            mean of them (of those that rise, of their inverses). None: the recipe's `score`.
        keep_last: number of newest checkpoints to keep, besides the best one.
        seed: of weights, order, damage and noise.
        timeout_minutes: how long a rank waits for another rank.
        ckpt_dir: checkpoint to resume from; auto: the newest complete one in output_dir, or a
            fresh start if there is none.
        init_from: checkpoint to take weights from, with a fresh optimiser.
        ckpt: which checkpoint is taken where an output folder stands for one: newest, best, or a
            step.
        ema: moving average.
        logger: curves and samples.
    """

    batch_size: int
    max_steps: int
    output_dir: str | None = None
    device: str | None = None
    num_workers: int = 4
    amp: Literal["bf16", "fp16", "no"] = "no"
    compile: bool = False
    lr_factor: float = 1.0
    grad_accumulation: int = 1
    max_grad_norm: float | None = 1.0
    log_every: int = 50
    save_every: int = 1000
    validate_every: int = 1000
    sample_every: int = 5000
    num_samples: int = 4
    best_by: list[str] | None = None
    keep_last: int = 3
    seed: int = 0
    timeout_minutes: float = 30.0
    ckpt_dir: str | None = None
    init_from: str | None = None
    ckpt: str | int = NEWEST
    ema: EmaConfig = field(default_factory=EmaConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)

    def __post_init__(self) -> None:
        """Check the keys that are used before the ranks meet.

        Raises:
            UserError: a value does not fit; the message lists all of them.
        """
        rules = {
            f"lr_factor={self.lr_factor} must be above 0": self.lr_factor > 0,
            f"timeout_minutes={self.timeout_minutes} must lie within 0.01 … 1000000": (
                0.01 <= self.timeout_minutes <= 1e6
            ),
        }
        report([f"trainer.{rule}" for rule, kept in rules.items() if not kept])

    def check(self, num_ranks: int) -> None:
        """Check the keys against each other and the number of ranks.

        Raises:
            UserError: a value does not fit; the message lists all of them.
        """
        problems = []
        positive = ("batch_size", "max_steps", "grad_accumulation", "log_every", "save_every")
        for name in (*positive, "keep_last"):
            if getattr(self, name) < 1:
                problems.append(f"trainer.{name}={getattr(self, name)} must be at least 1")
        for name in ("num_workers", "validate_every", "sample_every", "num_samples", "seed"):
            if getattr(self, name) < 0:
                problems.append(f"trainer.{name}={getattr(self, name)} must not be negative")
        parts = num_ranks * self.grad_accumulation
        if parts > 0 and self.batch_size % parts:
            problems.append(
                f"trainer.batch_size={self.batch_size} does not divide by {num_ranks} ranks × "
                f"trainer.grad_accumulation={self.grad_accumulation}; start a number of ranks that "
                f"divides it, or use {max(1, self.batch_size // parts) * parts}"
            )
        if self.seed >= 2**63:
            problems.append(f"trainer.seed={self.seed} must be below 2^63")
        if not 0.0 <= self.ema.decay < 1.0:
            problems.append(f"trainer.ema.decay={self.ema.decay} must be in [0, 1)")
        if self.max_grad_norm is not None and self.max_grad_norm <= 0:
            problems.append("trainer.max_grad_norm must be above 0, or null for no clipping")
        report(problems)


@dataclass(frozen=True)
class Run:
    """A composed and checked configuration.

    Attributes:
        name: of the model configuration (`model=…`).
        data: where the samples come from.
        model: the recipe, its parts and its earlier stages; plain data.
        optimizers: one for each network that trains, by the network's name.
        trainer: the trainer's keys.
        plain: the whole configuration as resolved plain data, as a checkpoint stores it.
        overrides: the command-line overrides that composed it, without `trainer.ckpt_dir`.
        resumed: the checkpoint that the run resumes from, if any.
        sampled: name of the file that samples are made of; None: the first validation clips.
    """

    name: str
    data: DataSource
    model: dict[str, Any]
    optimizers: dict[str, OptimizerConfig]
    trainer: TrainerConfig
    plain: dict[str, Any]
    overrides: list[str]
    resumed: Checkpoint | None
    sampled: str | None = None
