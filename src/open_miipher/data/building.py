"""Build the data of a run from its configuration: speech that is damaged while training."""

import filecmp
import warnings
from collections import defaultdict
from pathlib import Path
from typing import ClassVar

from open_miipher.audio.io import AudioInfo
from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable
from open_miipher.data.batch import PairBatch
from open_miipher.data.config import DataConfig, TrainSource
from open_miipher.data.dataset import DegradedSpeechDataset
from open_miipher.data.files import File, Files
from open_miipher.data.material import RecordedNoise, RecordedResponses
from open_miipher.data.order import Order
from open_miipher.degradation import Context, DegradationConfig, Stage, build_degradation
from open_miipher.distributed import is_first_here

_MOST_COMPARED = 2000  # files, by their content


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
    num_clips = min(config.test.num_clips, len(files))
    clips = [files[k * len(files) // num_clips] for k in range(num_clips)]
    if config.train.dir_list and is_first_here():  # which says it for all
        _warn_of_shared(clips, Files(config.train.dir_list))
    return DegradedSpeechDataset(
        clips,
        files.fingerprint,
        Order(num_clips, seed, shuffle=False),
        config.sample_rate,
        config.test.clip_seconds,
        config.crop,
        None,
        source_degradation(config.degradation, config.test, "data.test", config.sample_rate),
        config.max_degradation_failures,
        config.max_broken_samples,
        pad=False,
    )


def _warn_of_shared(clips: list[File], trained: Files) -> None:
    """Warn of clips that are trained on, whichever directory, link or copy has them there.

    Only files of a clip's rate, length and channels are looked at; where these are many, because
    all have one length, only those of a clip's name.
    """
    by_info: dict[AudioInfo, list[File]] = defaultdict(list)
    for clip in clips:
        by_info[clip.info].append(clip)
    likely = list(trained.like(by_info))
    if len(likely) > _MOST_COMPARED:
        names = {clip.path.name for clip in clips}
        likely = [file for file in likely if file.path.name in names]
    shared = {
        clip.path: file.path
        for file in likely
        for clip in by_info[file.info]
        if _is_same(clip.path, file.path)
    }
    for path, other in list(shared.items())[:1]:
        warnings.warn(
            f"{len(shared)} of the {len(clips)} validation clips, such as {printable(path)} "
            f"({printable(other)}), are in data.train.dir_list and in data.test.dir_list: "
            "validation will not show overfitting",
            stacklevel=3,
        )


def _is_same(one: Path, other: Path) -> bool:
    """Whether two files are one, or have the same content."""
    try:
        return one.samefile(other) or filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


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
        noise = RecordedNoise(Files(source.noise_dir_list), sample_rate)
    if source.rir_dir_list:
        responses = open_files(source.rir_dir_list, f"{key}.rir_dir_list", sample_rate)
        rooms = RecordedResponses(responses, sample_rate)
    return build_degradation(config, Context(sample_rate, noise, rooms), "data.degradation")


def open_files(dir_list: list[str], key: str, sample_rate: int) -> Files:
    """Open files that need the full band: clean targets, and impulse responses of rooms.

    Warns of files with a lower sample rate.

    Raises:
        UserError: a directory, its index or a listed file is missing or wrong.
    """
    files = Files(dir_list)
    num_below = files.num_below(sample_rate)
    if num_below:
        warnings.warn(
            f"{num_below} of {len(files)} files of {key} have a lower rate than "
            f"data.sample_rate={sample_rate}: their upper band is empty",
            stacklevel=3,
        )
    return files
