"""OUTPUT_DIR/manifest.jsonl: what became of every input, one a line."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from open_miipher.corpus.ledger import Ledger
from open_miipher.corpus.rows import Row

MANIFEST_NAME = "manifest.jsonl"
PRIVATE = ("run", "time", "id", "stamp", "output_bytes")
"""Keys of a row that are the ledger's own business."""


def public(row: Mapping[str, Any]) -> Row:
    """Return what the manifest says of an item."""
    return {key: value for key, value in row.items() if key not in PRIVATE}


def lines(ledger: Ledger, rows: Iterable[Row]) -> Iterator[Row]:
    """Yield the manifest's lines: of an output shard those of its samples, else the item's own.

    Args:
        ledger: of the output directory.
        rows: the newest one of every item, by id.
    """
    for row in rows:
        if "num_samples" in row:
            yield from ledger.samples(row["id"])
        else:
            yield public(row)
