"""The list of a directory's audio files: metadata.csv, made, read and checked."""

from open_miipher.index.metadata import (
    METADATA_NAME,
    Entry,
    Index,
    read_extra_columns,
    read_index,
    write_index,
)
from open_miipher.index.scan import Scan, find_audio, scan
from open_miipher.index.verify import verify_index

__all__ = [
    "METADATA_NAME",
    "Entry",
    "Index",
    "Scan",
    "find_audio",
    "read_extra_columns",
    "read_index",
    "scan",
    "verify_index",
    "write_index",
]
