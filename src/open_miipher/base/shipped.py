"""What comes with the project, where it lies, and how its commands are called there."""

import re
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_INSIDE = _PACKAGE / "shipped"
IS_INSTALLED = _INSIDE.is_dir()
"""Whether this is an installed wheel, and no checkout."""
_COMMANDS = {
    "src/inference": "restore",
    "src/tokenize_audio": "tokenize",
    "src/fetch_models": "fetch",
    "src/import_checkpoint": "import",
    "src/convert_checkpoint": "convert",
    "dataset/script/make_metadata_csv": "index",
}
_OF_THE_SAME_NAME = (
    *("evaluate", "train", "status", "doctor", "app", "generate", "synthesize", "preprocess"),
    "export",
)
_COMMANDS |= {f"src/{name}": name for name in _OF_THE_SAME_NAME}
# No path of a user's, which has a folder before that.
_SCRIPT = re.compile(r"(python\s+|torchrun [^\n]*?)?(?<![\w/.-])(src|dataset/script)/(\w+)\.py")


def shipped(name: str) -> Path:
    """Return a path of what comes with the project, such as `config` or `pretrained/default`.

    In a checkout and in the image they lie beside `src`; a wheel holds them inside the package.
    """
    return (_INSIDE if IS_INSTALLED else _PACKAGE.parents[1]) / name


def as_called(text: str) -> str:
    """Name the commands in a text for users as they are called here.

    Texts name the scripts of a checkout. Where the package is installed there are none:
    `python src/status.py OUT` is then `open-miipher status OUT`. Nor is there a `.` to install.
    """
    if not IS_INSTALLED:
        return text
    text = _SCRIPT.sub(_called, text).replace("make doctor", "open-miipher doctor")
    # Of "pip install", since a help may break the line between the two; it brings what it lacks.
    return text.replace("install '.[", "install 'open-miipher-2[")


def _called(match: re.Match[str]) -> str:
    launcher, folder, script = match.groups(default="")
    name = _COMMANDS.get(f"{folder}/{script}")
    if name is None:
        return match[0]
    if launcher.startswith("torchrun"):
        return f"{launcher}-m open_miipher.commands {name}"
    return f"open-miipher {name}"
