"""Loggers of curves and samples: wandb, tensorboard, and files."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from open_miipher.audio.io import AudioWriter
from open_miipher.base.atomic import named_if_full
from open_miipher.base.errors import UserError
from open_miipher.recipes import Sound
from open_miipher.training.config import LoggerConfig


class Logger(Protocol):
    """Receives curves and samples."""

    @property
    def run_id(self) -> str | None:
        """The identifier by which a resumed run continues the same log, if the logger has one."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers by their full names (`train/loss`)."""

    def clip(self, step: int, name: str, sounds: Mapping[str, Sound]) -> None:
        """Log sounds that belong together, such as the versions of a clip."""

    def close(self) -> None:
        """Write everything that is still buffered."""


class FileLogger:
    """Samples as FLAC and PNG files in a folder for each step; curves stay in metrics.jsonl.

    Args:
        directory: of these folders, `step-NNNNNNNN`.
    """

    run_id = None

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Do nothing."""

    def clip(self, step: int, name: str, sounds: Mapping[str, Sound]) -> None:
        """Write the sounds and their spectrograms."""
        from PIL import Image

        folder = self.directory / f"step-{step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        for version, sound in sounds.items():
            path = folder / f"{name}-{version}.flac"
            with AudioWriter(path, sound.sample_rate, 1, format="flac") as writer:
                writer.write(np.clip(_array(sound), -1.0, 1.0)[None])
        with named_if_full(folder / f"{name}.png"):
            Image.fromarray(_picture(sounds)).save(folder / f"{name}.png")

    def close(self) -> None:
        """Do nothing."""


class WandbLogger:
    """Weights & Biases, offline unless WANDB_API_KEY is set; WANDB_MODE overrides this.

    Args:
        config: project and run name.
        output_dir: the run's; wandb writes below it.
        settings: the run's resolved configuration.
        run_id: wandb's identifier of the run that is resumed.

    Raises:
        UserError: wandb does not start.
    """

    def __init__(
        self,
        config: LoggerConfig,
        output_dir: Path,
        settings: Mapping[str, Any],
        run_id: str | None,
    ) -> None:
        import wandb  # slow to import, and not needed by the other kinds

        self.wandb = wandb
        default_mode = "online" if os.environ.get("WANDB_API_KEY") else "offline"
        try:
            self.run = wandb.init(
                project=config.project_name,
                name=config.run_name,
                id=run_id,
                resume="allow" if run_id else None,
                dir=output_dir,
                config=dict(settings),
                mode=os.environ.get("WANDB_MODE", default_mode),  # type: ignore[arg-type]
                settings=wandb.Settings(silent=True, save_code=False, disable_git=True),
            )
        except (wandb.errors.Error, ValueError) as error:  # pydantic's are ValueErrors
            raise UserError(
                f"wandb does not start ({error}); without a network set WANDB_MODE=offline"
            ) from error
        # Not wandb's own step counter: a resumed run may repeat steps.
        self.run.define_metric("*", step_metric="step")
        self.run_id = self.run.id

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers."""
        self.run.log({"step": step, **values})

    def clip(self, step: int, name: str, sounds: Mapping[str, Sound]) -> None:
        """Log the clip's versions as audio and one picture."""
        media: dict[str, Any] = {
            f"samples/{name}/{version}": self.wandb.Audio(
                _array(sound), sample_rate=sound.sample_rate
            )
            for version, sound in sounds.items()
        }
        media[f"samples/{name}/spectrogram"] = self.wandb.Image(_picture(sounds))
        self.run.log({"step": step, **media})

    def close(self) -> None:
        """Finish the run."""
        self.run.finish()


class TensorBoardLogger:
    """TensorBoard event files under `tensorboard/`.

    Args:
        output_dir: the run's.
        step: the step that this run continues from; later events of a killed run are hidden.
    """

    run_id = None

    def __init__(self, output_dir: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(output_dir / "tensorboard", purge_step=step + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def clip(self, step: int, name: str, sounds: Mapping[str, Sound]) -> None:
        """Log the clip's versions as audio and one picture."""
        for version, sound in sounds.items():
            audio = np.clip(_array(sound), -1.0, 1.0)[None]
            self.writer.add_audio(f"{name}/{version}", audio, step, sound.sample_rate)
        self.writer.add_image(name, _picture(sounds), step, dataformats="HWC")

    def close(self) -> None:
        """Flush the files."""
        self.writer.close()


def _array(sound: Sound) -> np.ndarray:
    return np.asarray(sound.waveform.float().cpu())


def _picture(sounds: Mapping[str, Sound]) -> np.ndarray:
    """Return the spectrograms side by side, (height, width, 4) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import

    from open_miipher.evaluation.spectrograms import Panel, draw_spectrograms

    panels = [Panel(name, _array(sound), sound.sample_rate) for name, sound in sounds.items()]
    canvas = FigureCanvasAgg(draw_spectrograms([panels]))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def build_loggers(
    config: LoggerConfig,
    output_dir: Path,
    samples_folder: str,
    settings: Mapping[str, Any],
    run_id: str | None,
    step: int,
) -> list[Logger]:
    """Return the file logger and the one that `trainer.logger.kind` names."""
    loggers: list[Logger] = [FileLogger(output_dir / samples_folder)]
    if config.kind == "wandb":
        loggers.append(WandbLogger(config, output_dir, settings, run_id))
    if config.kind == "tensorboard":
        loggers.append(TensorBoardLogger(output_dir, step))
    return loggers
