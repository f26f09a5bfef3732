"""Restoration with a trained chain: audio of any length in, restored audio out."""

from open_miipher.restoration.assembler import WriteError
from open_miipher.restoration.chain import DEFAULT_MODEL, Chain, Model
from open_miipher.restoration.job import Job, RestoreOptions
from open_miipher.restoration.restorer import Restorer
from open_miipher.restoration.streaming import Stream
from open_miipher.restoration.streams import EncodingSink, FileSink, Level, MemorySink, Source
from open_miipher.restoration.trust import Trust, trust_of

__all__ = [
    "DEFAULT_MODEL",
    "Chain",
    "EncodingSink",
    "FileSink",
    "Job",
    "Level",
    "MemorySink",
    "Model",
    "RestoreOptions",
    "Restorer",
    "Source",
    "Stream",
    "Trust",
    "WriteError",
    "trust_of",
]
