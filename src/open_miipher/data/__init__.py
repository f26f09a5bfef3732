"""Batches of clean and damaged speech, from directories of speech or from shards of pairs."""

from open_miipher.data.batch import Batch
from open_miipher.data.building import DegradedSpeech, build_test_data, build_train_data
from open_miipher.data.config import (
    AugmentConfig,
    ClipsConfig,
    CropConfig,
    DataConfig,
    HeldOutSource,
    PreprocessedConfig,
    TrainSource,
)
from open_miipher.data.dataset import DegradedSpeechDataset
from open_miipher.data.loader import train_batches, validation_batches
from open_miipher.data.order import Order
from open_miipher.data.preprocessed import Preprocessed, PreprocessedDataset
from open_miipher.data.source import Dataset, DataSource, Sample

DATA: dict[str, type[DataSource]] = {
    "degraded_speech": DegradedSpeech,
    "preprocessed": Preprocessed,
}

__all__ = [
    "DATA",
    "AugmentConfig",
    "Batch",
    "ClipsConfig",
    "CropConfig",
    "DataConfig",
    "DataSource",
    "Dataset",
    "DegradedSpeech",
    "DegradedSpeechDataset",
    "HeldOutSource",
    "Order",
    "Preprocessed",
    "PreprocessedConfig",
    "PreprocessedDataset",
    "Sample",
    "TrainSource",
    "build_test_data",
    "build_train_data",
    "train_batches",
    "validation_batches",
]
