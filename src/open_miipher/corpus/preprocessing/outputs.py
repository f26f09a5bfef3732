"""The shards in a run's folder: of which unit each is, and which are of none any more."""

import contextlib
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable

# As `inputs.Unit.name` has it: what can be read, a digest, and a block's number.
_UNIT = r"(?P<unit>(?P<source>[A-Za-z0-9_-]*-[0-9a-f]{12})(?P<block>-\d{5,})?)"
_SHARD_NAME = re.compile(rf"{_UNIT}-\d{{5,}}\.tar")
_TEMPORARY_NAME = re.compile(rf"\.{_UNIT}-\d{{5,}}\.tar\.\d+\.tmp")  # as ShardWriter names them


def clear_stale(
    folder: Path, units: Collection[str], directories: Collection[str], overwrite: bool
) -> None:
    """Remove the shards of units that are no more, once nothing is to be refused.

    A directory whose index got shorter, or whose blocks got longer, has fewer units than before.
    Of other inputs it cannot be told whether they were left out on purpose.

    Args:
        folder: of the shards.
        units: names of all that there are now.
        directories: names of the directories among the inputs, without a block's number.
        overwrite: remove the shards of other inputs too.

    Raises:
        UserError: some come from an input that is not given now; nothing was removed.
    """

    def is_of_directory(match: re.Match) -> bool:
        return match["block"] is not None and match["source"] in directories

    stale = set()
    for path, match in _matches(folder, _SHARD_NAME, _TEMPORARY_NAME):
        if match["unit"] in units:
            continue
        if overwrite or is_of_directory(match):
            stale.add(match["unit"])
        elif match.re is _SHARD_NAME:
            raise UserError(
                f"{printable(path)} comes from an input that is not given now; give all inputs of "
                "this folder again, with more if you like, choose another preprocess.job_id, or "
                "make everything again (preprocess.overwrite=true)"
            )
    remove(folder, stale.__contains__)


def sizes(folder: Path) -> dict[str, int]:
    """Return the sizes of the shards that are there, by name."""
    found = {}
    for path, _ in _matches(folder, _SHARD_NAME):
        # another task of an array may be removing one of its own
        with contextlib.suppress(FileNotFoundError):
            found[path.name] = path.stat().st_size
    return found


def remove(folder: Path, is_wanted: Callable[[str], bool]) -> None:
    """Remove the shards of some units, chosen by name, and what killed runs left of them."""
    for path, match in _matches(folder, _SHARD_NAME, _TEMPORARY_NAME):
        if is_wanted(match["unit"]):
            path.unlink(missing_ok=True)


def _matches(folder: Path, *patterns: re.Pattern) -> Iterator[tuple[Path, re.Match]]:
    for path in folder.iterdir():
        match = next(filter(None, (pattern.fullmatch(path.name) for pattern in patterns)), None)
        if match is not None:
            yield path, match
