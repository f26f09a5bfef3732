"""Build the data of a run from its configuration: speech that is damaged while training."""

from typing import ClassVar

from open_miipher.base.errors import UserError
from open_miipher.data.batch import PairBatch
from open_miipher.data.config import DataConfig, TrainSource
from open_miipher.data.dataset import DegradedSpeechDataset
from open_miipher.data.decoded import decoded
from open_miipher.data.files import Files, held_out, open_files
from open_miipher.data.material import RecordedNoise, RecordedResponses
from open_miipher.data.order import Order
from open_miipher.degradation import Context, DegradationConfig, Stage, build_degradation


class DegradedSpeech:
    """`data.name=degraded_speech`: every crop of clean speech is damaged when it is read.

    Args:
        config: all of `data`.
    """

    Config: ClassVar[type] = DataConfig
    batch_type = PairBatch
    validation_key = "data.test.dir_list"

    def __init__(self, config: DataConfig) -> None:
        self.config, self.sample_rate = config, config.sample_rate
        self.crop_seconds = config.crop_seconds

    def train(self, seed: int) -> DegradedSpeechDataset:
        """Build the training data; see `build_train_data`."""
        return build_train_data(self.config, seed)

    def validation(self, seed: int) -> DegradedSpeechDataset | None:
        """Build the validation clips; see `build_test_data`. None without directories."""
        return build_test_data(self.config, seed) if self.config.test.dir_list else None


def build_train_data(config: DataConfig, seed: int) -> DegradedSpeechDataset:
    """Build the training data.

    Warns of clean speech and impulse responses whose sample rate is below the model's.

    Args:
        config: all of `data`.
        seed: of everything drawn.

    Raises:
        UserError: a key is out of range, or a directory, index or file is missing or wrong.
    """
    config.check()
    files = _speech(config.train, "data.train", config.sample_rate)
    return DegradedSpeechDataset(
        files,
        files.fingerprint,
        Order(len(files), seed),
        config.sample_rate,
        config.crop_seconds,
        config.crop,
        config.augment,
        source_degradation(config.degradation, config.train, "data.train", config.sample_rate),
        config.max_degradation_failures,
        config.max_broken_samples,
        pad=True,
        number_at=files.number_at if config.draw_by == "duration" else None,
    )


def build_test_data(config: DataConfig, seed: int) -> DegradedSpeechDataset:
    """Build the fixed clips of validation: clean speech without augmentation, damaged.

    Warns like `build_train_data`, and of clips that are also trained on.

    Args:
        config: all of `data`.
        seed: of everything drawn.

    Raises:
        UserError: see `build_train_data`.
    """
    config.check()
    files = _speech(config.test, "data.test", config.sample_rate)
    clips = held_out(files, config.test.num_clips, config.train.dir_list)
    return DegradedSpeechDataset(
        clips,
        files.fingerprint,
        Order(len(clips), seed, shuffle=False),
        config.sample_rate,
        config.test.clip_seconds,
        config.crop,
        None,
        source_degradation(config.degradation, config.test, "data.test", config.sample_rate),
        config.max_degradation_failures,
        config.max_broken_samples,
        pad=False,
    )


def _speech(source: TrainSource, key: str, sample_rate: int) -> Files:
    if not source.dir_list:
        raise UserError(f"{key}.dir_list is empty; give it directories of clean speech")
    return open_files(source.dir_list, f"{key}.dir_list", sample_rate)


def source_degradation(
    config: DegradationConfig, source: TrainSource, key: str, sample_rate: int
) -> Stage:
    """Build the degradation chain with the noise and impulse responses of a source.

    Args:
        config: `data.degradation`.
        source: has the recordings.
        key: the configuration key of the source, for messages.
        sample_rate: in Hz.

    Raises:
        UserError: a key is out of range, or a directory, index or file is missing or wrong.
    """
    noise, rooms = None, None
    if source.noise_dir_list:
        files = decoded(Files(source.noise_dir_list), f"{key}.noise_dir_list")
        noise = RecordedNoise(files, sample_rate)
    if source.rir_dir_list:
        responses = open_files(source.rir_dir_list, f"{key}.rir_dir_list", sample_rate)
        rooms = RecordedResponses(decoded(responses, f"{key}.rir_dir_list"), sample_rate)
    return build_degradation(config, Context(sample_rate, noise, rooms), "data.degradation")
