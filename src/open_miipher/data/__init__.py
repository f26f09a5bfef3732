"""Speech in, batches of clean and damaged speech out."""

from open_miipher.data.batch import Batch
from open_miipher.data.building import build_test_data, build_train_data
from open_miipher.data.config import (
    AugmentConfig,
    CropConfig,
    DataConfig,
    HeldOutSource,
    TrainSource,
)
from open_miipher.data.dataset import DegradedSpeechDataset, Sample
from open_miipher.data.loader import train_batches, validation_batches
from open_miipher.data.order import Order

__all__ = [
    "AugmentConfig",
    "Batch",
    "CropConfig",
    "DataConfig",
    "DegradedSpeechDataset",
    "HeldOutSource",
    "Order",
    "Sample",
    "TrainSource",
    "build_test_data",
    "build_train_data",
    "train_batches",
    "validation_batches",
]
