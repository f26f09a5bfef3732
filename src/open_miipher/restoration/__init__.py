"""The trained chain at work: any audio of any length in, restored audio out."""

from open_miipher.restoration.assembler import WriteError
from open_miipher.restoration.chain import Chain, Model
from open_miipher.restoration.job import Job
from open_miipher.restoration.options import RestoreOptions
from open_miipher.restoration.restorer import Restorer
from open_miipher.restoration.sink import EncodingSink, FileSink, MemorySink
from open_miipher.restoration.source import Source

__all__ = [
    "Chain",
    "EncodingSink",
    "FileSink",
    "Job",
    "MemorySink",
    "Model",
    "RestoreOptions",
    "Restorer",
    "Source",
    "WriteError",
]
