"""Raw collections of clean speech to shards of degraded pairs."""

from open_miipher.corpus.preprocessing.config import (
    Preprocessing,
    PreprocessingData,
    PreprocessingOptions,
    RawSource,
)
from open_miipher.corpus.preprocessing.task import (
    SPLITS,
    Preprocess,
    build_tasks,
    output_folder,
)

__all__ = [
    "SPLITS",
    "Preprocess",
    "Preprocessing",
    "PreprocessingData",
    "PreprocessingOptions",
    "RawSource",
    "build_tasks",
    "output_folder",
]
