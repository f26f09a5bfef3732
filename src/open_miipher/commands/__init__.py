"""The commands: `open-miipher NAME …`, and the scripts in `src/`, which call them.

Each is a module with `parse_arguments` and `main`, which take the words of the command line
(default: those that the process was given) and raise `UserError` for wrong use.
"""

import argparse
import sys
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NoReturn

from open_miipher import __version__
from open_miipher.base.errors import USER_ERROR_STATUS, UserError, exit_on_user_error
from open_miipher.base.shipped import as_called
from open_miipher.base.threads import use_one_blas_thread

PROGRAM = "open-miipher"


class Parser(argparse.ArgumentParser):
    """The options of a command: help that names other commands as they are called here."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def format_help(self) -> str:
        """Return the text."""
        return as_called(super().format_help())

    def error(self, message: str) -> NoReturn:
        """End in the sentence that matters, without the usage of all options above it.

        Raises:
            UserError: always; every rank has the same words.
        """
        raise UserError(f"{message}; -h explains the options", shared=True)


@dataclass(frozen=True)
class Command:
    """One of the commands.

    Attributes:
        module: that does it, in this package.
        sentence: what it does, for the list.
        is_rank: several processes may share the work, as ranks of torchrun.
    """

    module: str
    sentence: str
    is_rank: bool = False


COMMANDS = {
    "restore": Command("restore", "restore recordings", True),
    "evaluate": Command("evaluate", "measure restored or generated recordings"),
    "train": Command("train", "train a model, or resume its training", True),
    "index": Command("index", "list the audio files under a directory, for training"),
    "status": Command("status", "say how far a run is, check its outputs, retry what failed"),
    "doctor": Command("doctor", "say what this machine can run"),
    "app": Command("app", "open the page to try a model on"),
    "generate": Command("generate", "generate speech with a trained model", True),
    "synthesize": Command("synthesize", "speak a set of texts", True),
    "tokenize": Command("tokenize", "turn speech into the tokens of a codec", True),
    "preprocess": Command("preprocess", "make shards of degraded pairs, for training", True),
    "fetch": Command("fetch_models", "fetch pretrained encoders, for machines without a network"),
    "export": Command("export", "write a model for others: safetensors, the hub, ONNX"),
    "import": Command("import_checkpoint", "make a checkpoint of published weights"),
    "convert": Command("convert_checkpoint", "bring checkpoints of earlier versions up to date"),
}


def run(name: str) -> NoReturn:
    """Do a command with the words that the process was given, and end with its status."""
    command = COMMANDS[name]
    use_one_blas_thread()
    main = import_module(f"{__name__}.{command.module}").main
    if command.is_rank:
        from open_miipher.distributed import run_as_rank

        run_as_rank(main)
    sys.exit(exit_on_user_error(main)())


def main() -> NoReturn:
    """Do the command that the first word names."""
    name = sys.argv[1] if len(sys.argv) > 1 else "-h"
    if name in ("-h", "--help"):
        print(_help())
        sys.exit()
    if name == "--version":
        print(f"{PROGRAM} {__version__}")
        sys.exit()
    if name not in COMMANDS:
        meant = get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {meant[0]}?" if meant else f"{PROGRAM} -h lists them"
        print(f"error: {name} is no command of {PROGRAM}; {hint}", file=sys.stderr)
        sys.exit(USER_ERROR_STATUS)
    sys.argv[:2] = [f"{PROGRAM} {name}"]  # what the command's own -h calls it
    run(name)


def _help() -> str:
    lines = [f"  {name:<12}{command.sentence}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {PROGRAM} COMMAND …",
            "",
            *lines,
            "",
            f"{PROGRAM} COMMAND -h explains each; {PROGRAM} --version says which this is.",
        ]
    )
