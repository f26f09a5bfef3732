"""Temporary files that killed runs left beside the outputs they were to become."""

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from open_miipher.audio.files import temporary_stem

_TEMPORARY = re.compile(r"\.(.+?)\.\d+(\.plain)?\.tmp", re.DOTALL)  # see temporary_path


def is_temporary(name: str) -> bool:
    """Whether a file of this name is one of ours that is being written, or was."""
    return _TEMPORARY.fullmatch(name) is not None


def remove_leftovers(outputs: Iterable[Path]) -> None:
    """Remove the temporary files of these outputs and no others.

    Args:
        outputs: those whose work is the caller's alone; each folder is listed once.
    """
    names_in: dict[Path, set[str]] = defaultdict(set)
    for output in outputs:
        names_in[output.parent].add(temporary_stem(output.name))
    for folder, names in names_in.items():
        if folder.is_dir():
            for path in folder.iterdir():
                match = _TEMPORARY.fullmatch(path.name)
                if match is not None and match[1] in names:
                    path.unlink(missing_ok=True)
