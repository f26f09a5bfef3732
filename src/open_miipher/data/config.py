"""What the data configuration holds; config/data/default.yaml explains every key."""

from dataclasses import dataclass, field

from open_miipher.degradation import DegradationConfig
from open_miipher.errors import report


@dataclass
class TrainSource:
    """Directories of clean speech, noise and impulse responses, each with a metadata.csv."""

    dir_list: list[str] = field(default_factory=list)
    noise_dir_list: list[str] = field(default_factory=list)
    rir_dir_list: list[str] = field(default_factory=list)


@dataclass
class HeldOutSource(TrainSource):
    """The same for validation, and how many clips of how many seconds."""

    num_clips: int = 16
    clip_seconds: float = 5.0


@dataclass
class CropConfig:
    """How often a crop below a level (dB of full scale) is drawn anew."""

    num_candidates: int = 4
    min_level_db: float = -50.0


@dataclass
class AugmentConfig:
    """What changes clean crops in training: leading silence, sign and gain."""

    shift_seconds: float = 0.5
    polarity_probability: float = 0.5
    volume_db: tuple[float, float] = (-12.0, 0.0)


@dataclass
class DataConfig:
    """All of `data`."""

    sample_rate: int = 24000
    crop_seconds: float = 10.0
    train: TrainSource = field(default_factory=TrainSource)
    test: HeldOutSource = field(default_factory=HeldOutSource)
    crop: CropConfig = field(default_factory=CropConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    degradation: DegradationConfig = field(default_factory=DegradationConfig)
    max_degradation_failures: float = 0.01

    def check(self) -> None:
        """See that the numbers make sense.

        Raises:
            UserError: all that do not, each with its key.
        """
        low, high = self.augment.volume_db
        rules = {
            "data.sample_rate must be at least 8000": self.sample_rate >= 8000,
            "data.crop_seconds must be above 0": self.crop_seconds > 0,
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
        }
        report([rule for rule, kept in rules.items() if not kept])
