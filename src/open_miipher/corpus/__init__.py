"""The resumable map over a corpus, and what it is used for."""

from open_miipher.corpus.file_format import FORMATS, SAMPLE_BYTES, FileFormat
from open_miipher.corpus.manifest import Manifest
from open_miipher.corpus.recordings import Directory, Recordings
from open_miipher.corpus.restore import RestoreFiles
from open_miipher.corpus.restore_shards import RestoreShards
from open_miipher.corpus.run import run
from open_miipher.corpus.shard import Shard
from open_miipher.corpus.shard_inputs import Groups, ShardInputs, TarShards

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
    "Shard",
    "ShardInputs",
    "TarShards",
    "run",
]
