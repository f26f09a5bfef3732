"""Audio alone: crops of indexed files, with mels from files or labels where these are wanted."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from open_miipher.audio.mel import MelError, read_mel
from open_miipher.base.errors import UserError, notice, report
from open_miipher.base.paths import printable
from open_miipher.data.batch import AudioBatch, AudioSample, LabelledBatch
from open_miipher.data.config import (
    AudioConfig,
    AudioDirs,
    AudioFields,
    CropConfig,
    LabelledAudioConfig,
    MelShape,
)
from open_miipher.data.crops import CropDataset, draw_crop
from open_miipher.data.files import File, Files, described, held_out, open_files
from open_miipher.data.order import Order
from open_miipher.distributed import is_first_here

_ANY = CropConfig(num_candidates=1)  # a quiet crop is audio, too


@dataclass(frozen=True)
class Mels:
    """Mels in files: of AUDIO_DIR/a/b.wav in FOLDER/a/b.npy.

    Attributes:
        folder: where they are.
        shape: what each must be.
        sample_rate: of the waveforms that the hop counts, in Hz.
    """

    folder: Path
    shape: MelShape
    sample_rate: int

    def path(self, file: File) -> Path:
        """Return where the mel of a file is."""
        return self.folder / Path(file.entry.file_path).with_suffix(".npy")

    def crop(self, file: File, start: int, num_samples: int) -> np.ndarray:
        """Read the frames of a crop.

        Args:
            file: that is cropped.
            start: the crop's first sample, a multiple of the hop.
            num_samples: length of the crop, which may go beyond the file.

        Returns:
            (bands, frames) float32. Beyond the file stands the crop's smallest value: what silence
            is in a mel of another program is not known.

        Raises:
            MelError: the file is missing, damaged, of other bands or of another hop.
        """
        path, hop = self.path(file), self.shape.hop_length
        if file.info.num_channels > 1:
            raise MelError(f"{printable(file.path)} has several channels: a mel is of one")
        mel = read_mel(path, self.shape.n_mels)
        wanted = -(-file.num_samples(self.sample_rate) // hop)
        if mel.shape[1] not in (wanted, wanted + 1):  # frames centred on samples are one more
            raise MelError(
                f"{printable(path)} has {mel.shape[1]} frames, but {wanted} are one every "
                f"data.mel.hop_length={hop} samples of {printable(file.path)} at "
                f"data.sample_rate={self.sample_rate}: is it of another hop, rate or file?"
            )
        num_frames = -(-num_samples // hop)
        crop = np.array(mel[:, start // hop :][:, :num_frames], np.float32)
        if not np.isfinite(crop).all():
            raise MelError(f"{printable(path)} holds NaN or infinity; make it again")
        beyond = num_frames - crop.shape[1]
        return np.pad(crop, ((0, 0), (0, beyond)), constant_values=crop.min())


class AudioDataset(CropDataset[AudioSample]):
    """Crops of audio.

    Args:
        files: audio.
        fingerprint, order, crop_samples: see `CropDataset`.
        config: all of `data`.
        mels: mels of the files; None: none. One that does not fit ends the run.
        labels: names of the labels, of which each file has one; None: none.
    """

    fatal = (MelError,)

    def __init__(
        self,
        files: Files | list[File],
        fingerprint: str,
        order: Order,
        config: AudioFields,
        crop_samples: int,
        mels: Mels | None,
        labels: Sequence[str] | None,
    ) -> None:
        rate, max_broken = config.sample_rate, config.max_broken_samples
        super().__init__(len(files), fingerprint, order, rate, crop_samples, max_broken)
        self._shortest = config.crop_samples
        self._files, self._mels = files, mels
        self._numbers = {name: number for number, name in enumerate(labels or ())}
        self._joined = AudioBatch if labels is None else LabelledBatch

    @property
    def described(self) -> str:
        """See `Dataset.described`."""
        return described(self._files)

    def collate(self, samples: Sequence[tuple[int, AudioSample]]) -> AudioBatch:
        """Join samples; see `Dataset.collate`. Clips are padded to the length of a crop."""
        return self._joined.join(samples, self._shortest)

    def _make(self, number: int, rng: np.random.Generator) -> AudioSample:
        file = self._files[number]
        step = self._mels.shape.hop_length if self._mels else 1
        waveform, start = draw_crop(file, rng, self.crop_samples, self.sample_rate, _ANY, step)
        num_samples = max(len(waveform), self._shortest)
        mel = self._mels.crop(file, start, num_samples) if self._mels else None
        label = self._numbers[label_of(file)] if self._numbers else 0
        return AudioSample(waveform, mel, label, file.name)


def label_of(file: File) -> str:
    """Return the first folder of a file's path; empty if it lies in none."""
    folder, _, rest = file.entry.file_path.partition("/")
    return folder if rest else ""


class Audio:
    """`data.name=audio`: random crops of indexed directories.

    Args:
        config: all of `data`.
    """

    Config: ClassVar[type] = AudioConfig
    batch_type: type[AudioBatch] = AudioBatch
    validation_key = "data.test.dir_list"

    def __init__(self, config: AudioFields) -> None:
        self.config = config
        self.sample_rate, self.crop_seconds = config.sample_rate, config.crop_seconds

    def train(self, seed: int) -> AudioDataset:
        """Build the training data; warns of clips shorter than a crop, which are padded.

        Args:
            seed: of everything drawn.

        Raises:
            UserError: a key is out of range, or a directory, index, file or mel is missing or
                wrong; or every file is shorter than a crop.
        """
        self.config.check()
        files, length = self._train_files, self.config.crop_samples
        short = files.num_shorter(length, self.sample_rate)
        if short == len(files):
            raise UserError(
                f"all {short} files of data.train.dir_list are shorter than "
                f"data.crop_seconds={self.crop_seconds:g}: take shorter crops or longer files"
            )
        if short:
            notice(
                f"{short} of {len(files)} files of data.train.dir_list are shorter than "
                f"data.crop_seconds={self.crop_seconds:g}: they are padded with zeros",
            )
        order = Order(len(files), seed)
        return self._dataset(files, files.fingerprint, order, length, self.config.train.mel_dir)

    def validation(self, seed: int) -> AudioDataset | None:
        """Build the clips for validation, evenly spaced in the index, like `train`.

        None without directories.
        """
        config = self.config
        if not config.test.dir_list:
            return None
        config.check()
        files = self._open(config.test, "data.test")
        clips = held_out(files, config.test.num_clips, config.train.dir_list)
        order = Order(len(clips), seed, shuffle=False)
        return self._dataset(
            clips, files.fingerprint, order, self._clip_samples, config.test.mel_dir
        )

    def named(self, name: str, seed: int) -> AudioDataset:
        """Build the one clip of a name, like those of validation.

        Args:
            name: of a file of the test data or else of the training data, without its ending; with
                its folders, where several files have that name.
            seed: of the place of the crop.

        Raises:
            UserError: no file has that name; and as `train`.
        """
        self.config.check()
        for key, source in (("data.test", self.config.test), ("data.train", self.config.train)):
            files = self._open(source, key) if source.dir_list else ()
            for number in range(len(files)):
                stem = Path(files[number].entry.file_path).with_suffix("")
                if name in (stem.name, str(stem)):
                    clip, order = [files[number]], Order(1, seed, shuffle=False)
                    return self._dataset(clip, name, order, self._clip_samples, source.mel_dir)
        raise UserError(
            f"generate.mel_name={name}: no file of data.test.dir_list or data.train.dir_list has "
            "that name (without its ending)"
        )

    @property
    def _clip_samples(self) -> int:
        seconds = self.config.test.clip_seconds or self.crop_seconds
        return round(seconds * self.sample_rate)

    def _dataset(
        self,
        files: Files | list[File],
        fingerprint: str,
        order: Order,
        length: int,
        mel_dir: str | None,
    ) -> AudioDataset:
        mels = None
        if mel_dir is not None:
            mels = Mels(Path(mel_dir), self.config.mel, self.sample_rate)
            _check_mels(mels, files)
        return AudioDataset(
            files, fingerprint, order, self.config, length, mels, self._labels_or_none
        )

    @property
    def _labels_or_none(self) -> Sequence[str] | None:
        return None

    @cached_property
    def _train_files(self) -> Files:
        return self._open(self.config.train, "data.train")

    def _open(self, source: AudioDirs, key: str) -> Files:
        if not source.dir_list:
            raise UserError(f"{key}.dir_list is empty; give it directories of audio")
        return open_files(source.dir_list, f"{key}.dir_list", self.sample_rate)


class LabelledAudio(Audio):
    """`data.name=labelled_audio`: the same; the label is the first folder of `file_path`.

    Args:
        config: all of `data`.
    """

    Config: ClassVar[type] = LabelledAudioConfig
    batch_type: type[AudioBatch] = LabelledBatch

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels of the training data, sorted.

        Raises:
            UserError: a directory or its index is missing or wrong, a file lies in no folder, a
                folder has no files, or there is only one.
        """
        found = _labels(self._train_files, self.config.train.dir_list, "data.train.dir_list")
        if len(found) < 2:
            raise UserError(
                f"data.train.dir_list has one label, {found[0]}: the label is the first folder of "
                "file_path, so give the directory above the folders"
            )
        return found

    def validation(self, seed: int) -> AudioDataset | None:
        """Build the clips for validation; see `Audio.validation`.

        Raises:
            UserError: besides, the labels are not those of the training data.
        """
        dir_list = self.config.test.dir_list
        if dir_list:
            found = _labels(Files(dir_list), dir_list, "data.test.dir_list")
            if found != self.labels:
                raise UserError(
                    f"data.test.dir_list has the labels {', '.join(found)}, and "
                    f"data.train.dir_list {', '.join(self.labels)}: both need the same folders"
                )
        return super().validation(seed)

    @property
    def _labels_or_none(self) -> Sequence[str] | None:
        return self.labels


def _labels(files: Files, dir_list: Sequence[str], key: str) -> tuple[str, ...]:
    """Return the names of the labels, sorted.

    Raises:
        UserError: a file lies in no folder, or a folder has no files.
    """
    every = (files[number] for number in range(len(files)))
    first = {label_of(file): file for file in every}
    if "" in first:
        raise UserError(
            f"{printable(first[''].path)} of {key} lies in no folder: the label is the first "
            "folder of file_path"
        )
    folders = {
        path.name: path
        for root in dir_list
        for path in sorted(Path(root).iterdir())
        if path.is_dir() and not path.name.startswith(".")
    }
    report(
        [
            f"{printable(path)} of {key} is a folder without files in metadata.csv: fill it and "
            "make the index again, or remove it"
            for name, path in folders.items()
            if name not in first
        ]
    )
    return tuple(sorted(first))


def _check_mels(mels: Mels, files: Files | list[File]) -> None:
    """Check that every file has a mel, and look into one.

    Raises:
        UserError: some are missing, or the first is wrong.
    """
    if is_first_here():
        every = (files[number] for number in range(len(files)))
        missing = [mels.path(file) for file in every if not mels.path(file).exists()]
        if missing:
            raise UserError(
                f"{printable(mels.folder)} has no mel of {len(missing)} of {len(files)} files "
                f"(the first: {printable(missing[0])}): make them with "
                "dataset/script/make_mels.py"
            )
    mels.crop(files[0], 0, mels.shape.hop_length)
