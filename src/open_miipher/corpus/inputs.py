"""What a corpus run works on: items with an id, a stamp, a cost, and something to open.

`recordings` has audio files, of a directory or a manifest, `tars` what becomes tar shards, and
`preprocessing.inputs` raw collections.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from open_miipher.base.errors import UserError, report
from open_miipher.base.paths import size_of
from open_miipher.base.rows import Row
from open_miipher.base.threads import in_threads
from open_miipher.corpus.ledger import Ledger
from open_miipher.corpus.run import Item, Plan
from open_miipher.restoration import Source
from open_miipher.shards import Storage, StorageError

_DONE, _FAILED = "done", "failed"  # in an earlier run


class Inputs(ABC):
    """The inputs of a run; `ids` is asked before the rest, on rank 0, and `open` on any rank.

    Attributes:
        identity: what changes what comes out.
        unit, called_failed: see `Plan`.
        is_estimate: whether costs are taken from sizes.
        are_packed: whether an item becomes a tar shard, and not a file.
        root: the folder that ids are paths below, links followed; known after `ids`.
    """

    identity: Mapping[str, Any] = {}
    unit, called_failed = "files", "failed"
    is_estimate = are_packed = False
    root: str | None = None

    @abstractmethod
    def check(self, output_dir: Path) -> None:
        """Refuse, before anything slow, missing inputs and outputs that cannot go there."""

    @abstractmethod
    def ids(self) -> list[str]:
        """List the inputs' stable ids, sorted; refuse none at all, and what cannot be right."""

    def assign(
        self, items: Collection[str], given: Mapping[str, str], extension: str
    ) -> dict[str, str]:
        """Name the outputs of inputs (a `ledger.Assign`)."""
        return assign_names(items, given, extension, self.named_after)

    def named_after(self, item: str) -> str:
        """Return the path that an input's output is named after."""
        return item

    def items(self, names: dict[str, str]) -> dict[str, str]:
        """Return every item with its output, from the output of every input."""
        return names

    @abstractmethod
    def stamp(self, item: str) -> Any:
        """Return plain data that is another one when an item changed."""

    @abstractmethod
    def look(self, item: str, output: str, stamp: Any) -> Item:
        """Look into an item that is left, in one of several threads.

        Raises:
            AudioError: it cannot be read.
            UserError: the run cannot begin.
        """

    @abstractmethod
    def open(self, item: Item) -> Iterator[Any]:
        """Give what is in an item, piece by piece."""

    def origin(self, item: str) -> Mapping[str, Any]:
        """Return what an item's row says of where it comes from."""
        return {}

    def about(self, item: str) -> Mapping[str, Any]:
        """Return what else is known of an input; nothing of one that is gone."""
        return {}


@dataclass(frozen=True)
class Audio:
    """Audio that is to be restored.

    Attributes:
        input: what the manifest calls it.
        source: reads it.
    """

    input: str
    source: Source


@dataclass(frozen=True)
class InputSample:
    """What is restored together: a file, or a sample of a shard.

    Attributes:
        input: what the manifest calls it; if it cannot be restored, the member that is to blame.
        key: in the shard, if it is of one.
        members: by name in it, in order; bytes are carried along. A sample without audio is carried
            along as a whole.
        error: why it cannot be restored, if it cannot.
        extra: what else the manifest is to say of it.
    """

    input: str
    key: str = ""
    members: Mapping[str, bytes | Audio] = field(default_factory=dict)
    error: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


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


def renamed(
    old_root: str, root: str, given: Collection[str], found: Collection[str]
) -> list[tuple[str, str]]:
    """Find inputs that have another id now, since ids begin below another folder.

    Args:
        old_root: the folder that they began below.
        root: the folder that they begin below now.
        given: ids that were given names before.
        found: ids of now.

    Returns:
        Old and new ids; none unless one of the folders lies in the other.
    """
    below = _relative(old_root, root)
    above = _relative(root, old_root)
    new = [item for item in found if item not in given]
    if below:
        pairs = [(item.removeprefix(below), item) for item in new if item.startswith(below)]
    elif above:
        pairs = [(above + item, item) for item in new]
    else:
        pairs = []
    known = set(given)
    return [(old, item) for old, item in pairs if old in known]


def _relative(inner: str, outer: str) -> str:
    """Return the way from a folder to one inside it, with a slash at its end; else nothing."""
    start = f"{outer.rstrip('/')}/"
    return f"{inner[len(start) :].rstrip('/')}/" if inner.startswith(start) else ""


def _split(path: str) -> tuple[str, str]:
    """Split a path into what stands before its extension, and the extension with its dot."""
    pure = PurePosixPath(path)
    suffix = ".tar.gz" if pure.name.endswith(".tar.gz") else pure.suffix
    return str(pure).removesuffix(suffix), suffix


def find_left(
    inputs: Inputs,
    items: Mapping[str, str],
    ledger: Ledger,
    look: Callable[[str, str, Any], Item | Row],
    from_nothing: bool = False,
    outputs_elsewhere: bool = False,
) -> Plan:
    """Tell what is done, or cannot be, from what is left, and look into what is left.

    Args:
        inputs: give the stamps.
        items: outputs by item.
        ledger: of the task whose items count.
        look: gives an item from its id, output and stamp, or its row if it cannot be started.
        from_nothing: as if nothing was done.
        outputs_elsewhere: what the ledger calls done is done, also where its output was moved away.

    Raises:
        UserError: all that `Inputs.stamp` and `look` raised.
    """
    own = sorted(items) if ledger.array_task is None else ledger.array_task.own(sorted(items))
    known = ("error", "stamp", "output", "output_bytes", "outputs")
    rows = {} if from_nothing else ledger.rows(set(own), known)

    def is_whole(row: Row) -> bool:
        sizes = _output_sizes(row, ledger.root.parent)
        return all(size == wanted or (outputs_elsewhere and size is None) for size, wanted in sizes)

    def find(item: str) -> Item | Row | str | UserError:
        try:
            stamp, row = inputs.stamp(item), rows.get(item)
            if row is None or row["stamp"] != stamp or not is_whole(row):
                return look(item, items[item], stamp)
        except UserError as error:
            return error
        return _DONE if row["error"] is None else _FAILED

    found = list(in_threads(find, own))
    report([str(entry) for entry in found if isinstance(entry, UserError)])
    left = [entry for entry in found if isinstance(entry, Item)]
    return Plan(
        items=left,
        failed=[entry for entry in found if isinstance(entry, dict)],
        unit=inputs.unit,
        called_failed=inputs.called_failed,
        num_done=found.count(_DONE),
        num_failed=found.count(_FAILED),
        num_changed=sum(i.id in rows and rows[i.id]["stamp"] != i.stamp for i in left),
        num_inputs=len(items),
        is_estimate=inputs.is_estimate,
    )


def _output_sizes(row: Row, output_dir: Path) -> list[tuple[int | None, int]]:
    """Return the sizes of the outputs that a row tells of: as they are, and as they were."""
    one = [] if row.get("output") is None else [[row["output"], row["output_bytes"]]]
    return [(size_of(output_dir / name), size) for name, size in row.get("outputs", one)]


def stored_stamp(storage: Storage, url: str) -> list[Any] | UserError:
    """Return the stamp of a stored file, or the error that says that it is missing.

    Raises:
        StorageError: the storage cannot be reached.
    """
    try:
        return storage.stamp(url)
    except StorageError:
        raise
    except UserError as error:
        return error
