"""Temporary files that killed runs left beside the outputs they were to become."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

_TEMPORARY = re.compile(r"\.(.+?)\.\d+(\.plain)?\.tmp", re.DOTALL)  # as AudioWriter names them
_LONGEST_KEPT = 200  # bytes; a longer name is replaced by its SHA-256 there


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
        raw = os.fsencode(output.name)
        is_long = len(raw) > _LONGEST_KEPT
        names_in[output.parent].add(sha256(raw).hexdigest() if is_long else output.name)
    for folder, names in names_in.items():
        if folder.is_dir():
            for path in folder.iterdir():
                match = _TEMPORARY.fullmatch(path.name)
                if match is not None and match[1] in names:
                    path.unlink(missing_ok=True)
