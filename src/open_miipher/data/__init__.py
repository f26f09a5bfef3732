"""Batches and their sources: directories of audio, shards of pairs, and how pairs are made."""

from open_miipher.data.audio import Audio, AudioDataset, LabelledAudio
from open_miipher.data.batch import (
    AudioBatch,
    AudioSample,
    Batch,
    LabelledBatch,
    PairBatch,
    PairSample,
    TokenBatch,
    TokenSample,
)
from open_miipher.data.building import DegradedSpeech, build_test_data, build_train_data
from open_miipher.data.config import (
    AudioConfig,
    AugmentConfig,
    ClipsConfig,
    CropConfig,
    DataConfig,
    HeldOutSource,
    LabelledAudioConfig,
    PreprocessedConfig,
    TokensConfig,
    TrainSource,
)
from open_miipher.data.dataset import DegradedSpeechDataset
from open_miipher.data.loader import train_batches, validation_batches
from open_miipher.data.order import Order
from open_miipher.data.preprocessed import Preprocessed, PreprocessedDataset
from open_miipher.data.source import Dataset, DataSource, FindsFiles, MadeFirst
from open_miipher.data.tokens import TokenDataset, Tokens

DATA: dict[str, type[DataSource]] = {
    "degraded_speech": DegradedSpeech,
    "preprocessed": Preprocessed,
    "audio": Audio,
    "labelled_audio": LabelledAudio,
    "tokens": Tokens,
}

__all__ = [
    "DATA",
    "Audio",
    "AudioBatch",
    "AudioConfig",
    "AudioDataset",
    "AudioSample",
    "AugmentConfig",
    "Batch",
    "ClipsConfig",
    "CropConfig",
    "DataConfig",
    "DataSource",
    "Dataset",
    "DegradedSpeech",
    "DegradedSpeechDataset",
    "FindsFiles",
    "HeldOutSource",
    "LabelledAudio",
    "LabelledAudioConfig",
    "LabelledBatch",
    "MadeFirst",
    "Order",
    "PairBatch",
    "PairSample",
    "Preprocessed",
    "PreprocessedConfig",
    "PreprocessedDataset",
    "TokenBatch",
    "TokenDataset",
    "TokenSample",
    "Tokens",
    "TokensConfig",
    "TrainSource",
    "build_test_data",
    "build_train_data",
    "train_batches",
    "validation_batches",
]
