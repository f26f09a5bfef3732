"""The data configuration; config/data/*.yaml explain every key."""

from dataclasses import dataclass, field
from typing import Literal

from open_miipher.base.errors import report
from open_miipher.codec import CodecConfig
from open_miipher.degradation import DegradationConfig
from open_miipher.shards import S3Config

DrawBy = Literal["file", "duration"]
"""Whether an epoch has every file once, or each as often as its share of all seconds asks."""


@dataclass
class TrainSource:
    """Directories of clean speech, noise and impulse responses, each with a metadata.csv."""

    dir_list: list[str] = field(default_factory=list)
    noise_dir_list: list[str] = field(default_factory=list)
    rir_dir_list: list[str] = field(default_factory=list)


@dataclass
class HeldOutSource(TrainSource):
    """The same for validation, with the number and length of its clips."""

    num_clips: int = 16
    clip_seconds: float = 5.0


@dataclass
class CropConfig:
    """Crops are drawn, at most `num_candidates`, until one has the level (dB of full scale)."""

    num_candidates: int = 4
    min_level_db: float = -50.0


@dataclass
class AugmentConfig:
    """Changes of clean crops in training: silence before them, polarity and gain."""

    shift_seconds: float = 0.5
    polarity_probability: float = 0.5
    volume_db: tuple[float, float] = (-12.0, 0.0)


@dataclass
class DataConfig:
    """All of `data` for speech that is damaged while training."""

    name: Literal["degraded_speech"] = "degraded_speech"
    sample_rate: int = 24000
    crop_seconds: float = 10.0
    draw_by: DrawBy = "file"
    train: TrainSource = field(default_factory=TrainSource)
    test: HeldOutSource = field(default_factory=HeldOutSource)
    crop: CropConfig = field(default_factory=CropConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    degradation: DegradationConfig = field(default_factory=DegradationConfig)
    max_degradation_failures: float = 0.01
    max_broken_samples: float = 0.01

    def check(self) -> None:
        """Check that the numbers are in range.

        Raises:
            UserError: some are not; the message lists each with its key.
        """
        low, high = self.augment.volume_db
        rules = {
            "data.sample_rate must be at least 8000": self.sample_rate >= 8000,
            "data.crop_seconds must be at least 0.001": self.crop_seconds >= 0.001,
            "data.test.clip_seconds must be above 0": self.test.clip_seconds > 0,
            "data.test.num_clips must be at least 1": self.test.num_clips >= 1,
            "data.crop.num_candidates must be at least 1": self.crop.num_candidates >= 1,
            "data.augment.shift_seconds must not be negative": self.augment.shift_seconds >= 0,
            "data.augment.polarity_probability must lie within 0 … 1": (
                0 <= self.augment.polarity_probability <= 1
            ),
            "data.augment.volume_db must go from low to high": low <= high,
            "data.max_degradation_failures must lie within 0 … 1": (
                0 <= self.max_degradation_failures <= 1
            ),
            "data.max_broken_samples must lie within 0 … 1": 0 <= self.max_broken_samples <= 1,
        }
        report([rule for rule, kept in rules.items() if not kept])


@dataclass
class ClipsConfig:
    """The number of validation clips, and their length at most, in seconds."""

    num_clips: int = 16
    clip_seconds: float = 5.0


@dataclass
class PreprocessedConfig:
    """All of `data` for pairs that were made beforehand, in shards."""

    name: Literal["preprocessed"] = "preprocessed"
    sample_rate: int = 24000
    crop_seconds: float = 10.0
    draw_by: DrawBy = "file"
    train_urls: list[str] | str = field(default_factory=list)
    val_urls: list[str] | str = field(default_factory=list)
    is_s3: bool = False
    s3: S3Config = field(default_factory=S3Config)
    test: ClipsConfig = field(default_factory=ClipsConfig)
    max_broken_samples: float = 0.01
    max_broken_shards: int = 0

    def check(self) -> None:
        """Check that the numbers are in range.

        Raises:
            UserError: some are not; the message lists each with its key.
        """
        rules = {
            "data.sample_rate must be at least 8000": self.sample_rate >= 8000,
            "data.crop_seconds must be at least 0.001": self.crop_seconds >= 0.001,
            "data.test.clip_seconds must be above 0": self.test.clip_seconds > 0,
            "data.test.num_clips must be at least 1": self.test.num_clips >= 1,
            **self.s3.rules("data.s3"),
            "data.max_broken_samples must lie within 0 … 1": 0 <= self.max_broken_samples <= 1,
            "data.max_broken_shards must not be negative": self.max_broken_shards >= 0,
        }
        report([rule for rule, kept in rules.items() if not kept])


@dataclass
class AudioDirs:
    """Directories of audio, each with a metadata.csv, and a folder of mels of their files."""

    dir_list: list[str] = field(default_factory=list)
    mel_dir: str | None = None


@dataclass
class HeldOutAudio(AudioDirs):
    """The same for validation, with the number and length of its clips; None: as the crops."""

    num_clips: int = 16
    clip_seconds: float | None = None


@dataclass
class MelShape:
    """What the files in `mel_dir` hold: bands, and samples from frame to frame."""

    n_mels: int = 80
    hop_length: int = 256


@dataclass
class AudioFields:
    """All of `data` for audio alone but its name."""

    sample_rate: int = 16000
    crop_seconds: float = 1.0
    train: AudioDirs = field(default_factory=AudioDirs)
    test: HeldOutAudio = field(default_factory=HeldOutAudio)
    mel: MelShape = field(default_factory=MelShape)
    max_broken_samples: float = 0.01

    @property
    def crop_samples(self) -> int:
        """Length of a crop, in samples."""
        return round(self.crop_seconds * self.sample_rate)

    def check(self) -> None:
        """Check that the numbers are in range.

        Raises:
            UserError: some are not; the message lists each with its key.
        """
        seconds, hop = self.test.clip_seconds, self.mel.hop_length
        rules = {
            "data.sample_rate must be at least 8000": self.sample_rate >= 8000,
            "data.crop_seconds must be above 0": self.crop_samples > 0,
            "data.test.clip_seconds must be above 0, or null": seconds is None or seconds > 0,
            "data.test.num_clips must be at least 1": self.test.num_clips >= 1,
            "data.mel.n_mels and data.mel.hop_length must be at least 1": (
                self.mel.n_mels >= 1 and hop >= 1
            ),
            "data.max_broken_samples must lie within 0 … 1": 0 <= self.max_broken_samples <= 1,
        }
        problems = [rule for rule, kept in rules.items() if not kept]
        if not problems and self.train.mel_dir is not None and self.crop_samples % hop:
            near = max(1, round(self.crop_samples / hop)) * hop
            problems.append(
                f"data.crop_seconds={self.crop_seconds:g} gives {self.crop_samples} samples, no "
                f"multiple of data.mel.hop_length={hop}: with data.train.mel_dir take "
                f"{near / self.sample_rate:.6f} ({near} samples)"
            )
        report(problems)


@dataclass
class AudioConfig(AudioFields):
    """All of `data` for audio alone."""

    name: Literal["audio"] = "audio"


@dataclass
class LabelledAudioConfig(AudioFields):
    """All of `data` for audio with labels."""

    name: Literal["labelled_audio"] = "labelled_audio"


@dataclass
class SpokenTexts:
    """Directories of audio, each with a metadata.csv that has a column `text`."""

    dir_list: list[str] = field(default_factory=list)


@dataclass
class HeldOutTexts(SpokenTexts):
    """The same for validation, with the number of its utterances."""

    num_clips: int = 16


@dataclass
class TokensConfig:
    """All of `data` for texts with the tokens of speech."""

    name: Literal["tokens"] = "tokens"
    codec: CodecConfig = field(default_factory=CodecConfig)
    seconds: float = 2.0
    long_text: Literal["drop", "cut_at_pause", "keep"] = "drop"
    normalize_text: str | None = None
    max_text_bytes: int = 511
    augmentation_factor: int = 4
    augmentation_sigma: float = 6.0e-4
    augmentation_seed: int = 0
    tokens_dir: str | None = None
    train: SpokenTexts = field(default_factory=SpokenTexts)
    test: HeldOutTexts = field(default_factory=HeldOutTexts)
    max_broken_samples: float = 0.01

    def check(self) -> None:
        """Check that the numbers are in range.

        Raises:
            UserError: some are not; the message lists each with its key.
        """
        rules = {
            "data.seconds must lie within 0.1 … 60": 0.1 <= self.seconds <= 60,
            "data.max_text_bytes must lie within 1 … 8191": 1 <= self.max_text_bytes <= 8191,
            "data.augmentation_factor must be at least 1": self.augmentation_factor >= 1,
            "data.augmentation_sigma must not be negative": self.augmentation_sigma >= 0,
            "data.augmentation_seed must lie within 0 … 2^63 - 1": (
                0 <= self.augmentation_seed < 2**63
            ),
            "data.test.num_clips must be at least 1": self.test.num_clips >= 1,
            "data.max_broken_samples must lie within 0 … 1": 0 <= self.max_broken_samples <= 1,
        }
        report([rule for rule, kept in rules.items() if not kept])


@dataclass
class RawSource(TrainSource):
    """Clean speech as indexed directories and as tar files; noise and impulse responses."""

    urls: list[str] = field(default_factory=list)


@dataclass
class PreprocessingData:
    """All of `data` for making pairs beforehand, into shards."""

    sample_rate: int = 24000
    crop_seconds: float = 20.0
    sample_seconds: float = 20.0
    low_cut_hz: float | None = 50.0
    peak: float = 0.9
    train: RawSource = field(default_factory=RawSource)
    test: RawSource = field(default_factory=RawSource)
    s3: S3Config = field(default_factory=S3Config)
    degradation: DegradationConfig = field(default_factory=DegradationConfig)
    max_degradation_failures: float = 0.01

    @property
    def crop_samples(self) -> int:
        """Longest crop, in samples."""
        return round(self.crop_seconds * self.sample_rate)

    @property
    def sample_samples(self) -> int:
        """Length of a sample of a shard, in samples of its waveforms."""
        return round(self.sample_seconds * self.sample_rate)

    def problems(self) -> list[str]:
        """Say which numbers make no sense."""
        rules = {
            "data.sample_rate must be at least 8000": self.sample_rate >= 8000,
            "data.crop_seconds must be at least 0.1": self.crop_seconds >= 0.1,
            "data.sample_seconds must be at least 0.1": self.sample_seconds >= 0.1,
            "data.low_cut_hz must lie within 20 … 1000, or be null": (
                self.low_cut_hz is None or 20 <= self.low_cut_hz <= 1000
            ),
            "data.peak must be above 0 and at most 1": 0 < self.peak <= 1,
            **self.s3.rules("data.s3"),
            "data.max_degradation_failures must lie within 0 … 1": (
                0 <= self.max_degradation_failures <= 1
            ),
            "there is nothing to preprocess: give data.train.dir_list, data.train.urls, "
            "data.test.dir_list or data.test.urls": any(
                source.dir_list or source.urls for source in (self.train, self.test)
            ),
        }
        return [rule for rule, kept in rules.items() if not kept]
