"""The list of a directory's audio files: metadata.csv, made, read and checked."""

from open_miipher.index.foreign import index_command, is_ljspeech, match_texts, mends
from open_miipher.index.metadata import (
    METADATA_NAME,
    Entry,
    Index,
    keep_old,
    read_extra_columns,
    read_foreign_columns,
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
    "index_command",
    "is_ljspeech",
    "keep_old",
    "match_texts",
    "mends",
    "read_extra_columns",
    "read_foreign_columns",
    "read_index",
    "scan",
    "verify_index",
    "write_index",
]
