"""Recordings and shards to restored files or shards."""

from open_miipher.corpus.restoring.file_format import FORMATS, SAMPLE_BYTES, FileFormat
from open_miipher.corpus.restoring.files import RestoreFiles
from open_miipher.corpus.restoring.manifest import Manifest
from open_miipher.corpus.restoring.recordings import Directory, Recordings
from open_miipher.corpus.restoring.shard_inputs import Groups, ShardInputs, TarShards
from open_miipher.corpus.restoring.shards import RestoreShards

__all__ = [
    "FORMATS",
    "SAMPLE_BYTES",
    "Directory",
    "FileFormat",
    "Groups",
    "Manifest",
    "Recordings",
    "RestoreFiles",
    "RestoreShards",
    "ShardInputs",
    "TarShards",
]
