"""Which output belongs to which input."""

from collections.abc import Callable, Collection, Mapping
from pathlib import PurePosixPath

GROUP_PREFIX = "restored-"


def assign_names(
    items: Collection[str],
    given: Mapping[str, str],
    extension: str,
    wanted: Callable[[str], str] = str,
) -> dict[str, str]:
    """Give every input an output name of its own (a `ledger.Assign`).

    `a/x.flac` becomes `a/x.wav`. Where that is taken, the input's extension is kept inside the
    name, as often as it takes: `a/x.flac.wav`. Inputs that already have the outputs' extension go
    before the others.

    The folders of the tree are there too, and no output takes the name of one.

    Args:
        items: inputs, paths in their tree with forward slashes.
        given: names with this extension given before, by input.
        extension: of the outputs, without the dot.
        wanted: the path that an input's name is made from; the input itself, by default.

    Returns:
        The names that are new, by input.
    """
    suffix = f".{extension}"
    paths = {item: wanted(item) for item in set(items) - set(given)}
    folders = {str(parent) for item in items for parent in PurePosixPath(wanted(item)).parents}
    taken = folders.union(given.values())
    new: dict[str, str] = {}
    for item in sorted(paths, key=lambda i: (not paths[i].endswith(suffix), paths[i], i)):
        stem, own_suffix = _split(paths[item])
        while stem + suffix in taken:
            stem += own_suffix or "_"
        new[item] = stem + suffix
        taken.add(new[item])
    return new


def assign_groups(
    items: Collection[str], given: Mapping[str, str], extension: str, size: int
) -> dict[str, str]:
    """Put every input that has no group yet into one, at most `size` into each.

    Inputs that come later get groups of their own, so that a group is made once. Groups have the
    names of shards: `restored-000000.tar` …; else as `assign_names`.
    """
    suffix = f".{extension}"
    numbers = (n.removeprefix(GROUP_PREFIX).removesuffix(suffix) for n in set(given.values()))
    first = max((int(number) for number in numbers if number.isdigit()), default=-1) + 1
    new = sorted(set(items) - set(given))
    return {
        item: f"{GROUP_PREFIX}{first + place // size:06d}{suffix}" for place, item in enumerate(new)
    }


def _split(path: str) -> tuple[str, str]:
    """Split a path into what stands before its extension, and the extension with its dot."""
    pure = PurePosixPath(path)
    suffix = ".tar.gz" if pure.name.endswith(".tar.gz") else pure.suffix
    return str(pure).removesuffix(suffix), suffix
