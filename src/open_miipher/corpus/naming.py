"""Which output belongs to which input."""

from collections.abc import Collection, Mapping
from pathlib import PurePosixPath


def assign_names(
    items: Collection[str], given: Mapping[str, str], extension: str
) -> dict[str, str]:
    """Give every input an output name of its own.

    `a/x.flac` becomes `a/x.wav`. Where that is taken, the input's extension is kept inside the
    name, as often as it takes: `a/x.flac.wav`. Inputs that already have the outputs' extension go
    before the others.

    The folders of the tree are there too, and no output takes the name of one.

    Args:
        items: inputs, paths in their tree with forward slashes, each with an extension.
        given: names with this extension given before, by input.
        extension: of the outputs, without the dot.

    Returns:
        The names that are new, by input.
    """
    suffix = f".{extension}"
    folders = {str(parent) for item in items for parent in PurePosixPath(item).parents}
    taken = folders.union(given.values())
    new: dict[str, str] = {}
    for item in sorted(set(items) - set(given), key=lambda i: (not i.endswith(suffix), i)):
        path = PurePosixPath(item)
        stem = str(path.with_suffix(""))
        while stem + suffix in taken:
            stem += path.suffix
        new[item] = stem + suffix
        taken.add(new[item])
    return new
