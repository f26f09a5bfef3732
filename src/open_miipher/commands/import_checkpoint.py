"""Import published weights: `src/import_checkpoint.py --kind sidon --path D --output-dir O`."""

import argparse
import pickle
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_miipher.base.errors import UserError
from open_miipher.base.shipped import as_called
from open_miipher.commands import Parser

if TYPE_CHECKING:
    from torch import Tensor

    from open_miipher.recipes import Recipe
    from open_miipher.training import Run
    from open_miipher.training.state import TrainingState

DESCRIPTION = """\
Convert published weights into a checkpoint of this project. A weight that is missing or left over
is an error.

--kind sidon: a folder with adapter_config.json and adapter_model.safetensors, as peft writes them,
and decoder_state_dict.pt, the weights of descript's decoder. src/inference.py restores with the
result, and training continues from it:
  src/train.py model=sidon_feature_predictor trainer.init_from=OUTPUT_DIR …
  src/train.py model=sidon_vocoder_finetune model.cleaner_ckpt_dir=OUTPUT_DIR \\
      model.vocoder_ckpt_dir=OUTPUT_DIR …
The published folder has no discriminators; those in the result have random weights.

--kind diffwave: a file of an unconditional WaveNet of the public DiffWave code (1000000.pkl), with
the schedule of SC09. src/generate.py generates with the result, and training continues from it:
  src/train.py model=wavenet experiment=sc09 +model.diffusion_step_embed_exponent=-4 \\
      trainer.init_from=OUTPUT_DIR …
"""
MODEL = "sidon_vocoder_finetune"
DECODER = "decoder_state_dict.pt"
_LAYER = re.compile(r"\.encoder\.layers\.(\d+)\.")


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=DESCRIPTION)
    add = parser.add_argument
    add("--kind", choices=["sidon", "diffwave"], required=True, help="whose weights they are")
    add("--path", type=Path, required=True, metavar="DIR|FILE", help="what is published")
    add("--output-dir", type=Path, required=True, metavar="DIR", help="for ckpt/step-00000000")
    add(
        "--encoder-source",
        metavar="ID|DIR",
        help="the base encoder, if not the one that config/encoder/w2v_bert_2.yaml names",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Read the published weights, load them into networks, and write a checkpoint."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    arguments = parse_arguments(argv)
    from open_miipher.checkpoint import complete_checkpoints, write_checkpoint  # all this is slow

    root = arguments.output_dir / "ckpt"
    if complete_checkpoints(root):
        raise UserError(f"{root} holds checkpoints already; choose another --output-dir")
    is_sidon = arguments.kind == "sidon"
    run, recipe = _import_sidon(arguments) if is_sidon else _import_diffwave(arguments)
    written = write_checkpoint(root, _state(run, recipe).content())
    use = "restore with python src/inference.py" if is_sidon else "python src/generate.py"
    print(as_called(f"{written}: {use} --ckpt-dir {arguments.output_dir} …"))
    return 0


def _import_sidon(arguments: argparse.Namespace) -> "tuple[Run, Recipe[Any]]":
    from open_miipher.checkpoint import load_weights, weights_of
    from open_miipher.cleaners.peft_folder import read_settings, read_weights
    from open_miipher.training.setup import build_recipe
    from open_miipher.vocoders.descript import from_descript

    if not arguments.path.is_dir():
        raise UserError(f"{arguments.path} is not a folder; pass the published one as --path")
    cleaner = read_settings(arguments.path)
    decoder, generator = from_descript(
        _read_tensors(arguments.path / DECODER), str(arguments.path / DECODER)
    )
    run = _run(arguments, cleaner, {"name": "dac", **decoder})
    recipe = build_recipe(run.model, run.data, run.trainer.seed)
    network = recipe.saved["cleaner"]
    load_weights(network, read_weights(arguments.path, weights_of(network)), arguments.path)
    load_weights(recipe.saved["generator"], generator, arguments.path / DECODER)
    return run, recipe


def _import_diffwave(arguments: argparse.Namespace) -> "tuple[Run, Recipe[Any]]":
    from open_miipher.checkpoint import load_weights
    from open_miipher.config import compose_run
    from open_miipher.diffusion.published import from_public
    from open_miipher.training.setup import build_recipe

    state = _read_tensors(arguments.path, "model_state_dict")
    sizes, weights = from_public(state, str(arguments.path))
    given = [f"++model.{name}={value}" for name, value in sizes.items()]
    where = f"trainer.output_dir={arguments.output_dir}"
    run = compose_run(["model=wavenet", "experiment=sc09", *given, where])
    recipe = build_recipe(run.model, run.data, run.trainer.seed)
    load_weights(recipe.saved["backbone"], weights, arguments.path)
    return run, recipe


def _read_tensors(path: Path, part: str | None = None) -> "dict[str, Tensor]":
    """Read a `torch.save` file that holds only tensors by name, without running code from it.

    Args:
        path: of the file.
        part: name of these tensors in it, if it has others beside them.
    """
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{path} cannot be read as a file of tensors: {reason}") from error
    if part is not None and isinstance(state, dict):
        state = state.get(part, state)
    if not isinstance(state, dict) or not all(isinstance(t, torch.Tensor) for t in state.values()):
        raise UserError(f"{path} must hold tensors by name, and nothing else")
    return state


def _run(arguments: argparse.Namespace, cleaner: dict[str, Any], vocoder: dict[str, Any]) -> "Run":
    """Compose stage 3 with its parts filled in, as they are after stages 1 and 2."""
    from open_miipher.cleaners.peft_folder import WEIGHTS
    from open_miipher.config import compose_plain, compose_run

    run = compose_run([f"model={MODEL}", f"trainer.output_dir={arguments.output_dir}"])
    first = compose_plain(["model=sidon_vocoder_pretrain"])["model"]
    encoder = {**first["encoder"], "layer": _num_layers(arguments.path / WEIGHTS)}
    if arguments.encoder_source is not None:
        encoder["source"] = arguments.encoder_source
    run.model.update(
        encoder=encoder,
        cleaner=cleaner,
        vocoder={**first["vocoder"], **vocoder},
        discriminators=first["discriminators"],
    )
    return run


def _num_layers(path: Path) -> int:
    """Return how many layers of the encoder the adapters belong to."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            numbers = [int(match[1]) for name in file.keys() if (match := _LAYER.search(name))]  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not numbers:
        raise UserError(f"{path} holds no adapters for the layers of an encoder")
    return max(numbers) + 1


def _state(run: "Run", recipe: "Recipe[Any]") -> "TrainingState":
    """Return the state of a run of this stage at step 0."""
    from open_miipher.training.state import Position, TrainingState

    position = Position(1, "imported")
    return TrainingState.fresh(
        recipe, run.optimizers, position, run.plain, run.overrides, run.trainer.amp, None
    )
