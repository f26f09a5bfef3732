"""The resumable map over a corpus, and what it is used for."""

from open_miipher.corpus.file_format import FORMATS, SAMPLE_BYTES, FileFormat
from open_miipher.corpus.restore import RestoreDirectory, check_directories
from open_miipher.corpus.run import run
from open_miipher.corpus.shard import Shard

__all__ = [
    "FORMATS",
    "SAMPLE_BYTES",
    "FileFormat",
    "RestoreDirectory",
    "Shard",
    "check_directories",
    "run",
]
