"""Batches and their sources: directories of speech, shards of pairs, and how pairs are made."""

from open_miipher.data.batch import Batch, PairBatch, PairSample
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
from open_miipher.data.source import Dataset, DataSource

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
    "PairBatch",
    "PairSample",
    "Preprocessed",
    "PreprocessedConfig",
    "PreprocessedDataset",
    "TrainSource",
    "build_test_data",
    "build_train_data",
    "train_batches",
    "validation_batches",
]
