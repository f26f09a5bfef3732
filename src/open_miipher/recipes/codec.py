"""A neural codec learns to say speech again from few tokens: an EnCodec without an adversary."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from open_miipher.audio.spectral import log_spectral_distance
from open_miipher.base.errors import UserError, report
from open_miipher.base.noise import stream_keys, uniform
from open_miipher.codec import CODECS, Encodec
from open_miipher.data.batch import AudioBatch
from open_miipher.data.source import AudioSource
from open_miipher.losses import MultiScaleMelConfig, MultiScaleMelLoss
from open_miipher.recipes.recipe import Pass, Recipe, Sound, check_weights, weighted_sum

_GAIN, _ORDER = range(2)  # what is drawn for a crop in a step
LOSSES = ("waveform", "mel", "commitment")


@dataclass
class CodecRecipeConfig:
    """What trains, and on what.

    Attributes:
        network: the codec (name and fields).
        loss_weights: of waveform, mel and commitment.
        mel: scales of the log-mel loss.
        gain_db: by which a crop gets louder; drawn uniformly.
    """

    network: dict[str, Any]
    loss_weights: dict[str, float]
    mel: MultiScaleMelConfig = field(default_factory=MultiScaleMelConfig)
    gain_db: tuple[float, float] = (-12.0, 6.0)


class Codec(Recipe[AudioBatch]):
    """Reconstruction of speech through a codec's tokens.

    The losses are the mean absolute difference of the waveforms, that of log-mel spectra at several
    scales, and the quantiser's commitment (Défossez et al. 2022, section 3.4, without the
    discriminators).

    Args:
        data: gives the audio, at the codec's sample rate.
        seed: of the gains, and of what unused codes become.
        config: what trains.

    Raises:
        UserError: a key does not fit, or the data has another rate.
    """

    Config = CodecRecipeConfig
    data_kinds = (AudioBatch,)
    score = "mel_distance"
    scores = ("log_spectral_distance",)

    def __init__(self, data: AudioSource, seed: int, config: CodecRecipeConfig) -> None:
        super().__init__()
        check_weights(config.loss_weights, LOSSES)
        if config.gain_db[0] > config.gain_db[1]:
            raise UserError("model.gain_db must go from low to high")
        self.codec: Encodec = self.build("codec", CODECS, config.network, key="model.network")
        check_network(self.codec, data)
        self.trained["codec"] = self.codec
        self.seed, self.weights, self.gain_db = seed, config.loss_weights, config.gain_db
        self.mel_loss = MultiScaleMelLoss(data.sample_rate, config.mel)
        self.mel_distance = MultiScaleMelLoss(data.sample_rate, MultiScaleMelConfig())
        self.tools = [self.mel_loss, self.mel_distance]

    def passes(self, batch: AudioBatch, networks: Mapping[str, nn.Module]) -> Iterator[Pass]:
        """Yield the one pass; calling the network moves its codebooks."""
        positions = batch.positions.to(batch.waveform.device, non_blocking=True)
        low, high = self.gain_db
        gain = low + (high - low) * uniform(stream_keys(self.seed, positions, _GAIN))
        waveform = batch.waveform * 10 ** (gain[:, None] / 20)
        keys = stream_keys(self.seed, positions, _ORDER)
        decoded, commitment = networks["codec"](waveform, keys)
        losses = self._losses(waveform, decoded, commitment)
        yield Pass("codec", weighted_sum(losses, self.weights), losses)

    def validate(self, batch: AudioBatch) -> dict[str, float]:
        """Return the losses, and the distances of log-mel spectra (DAC's) and spectra (dB)."""
        waveform = batch.waveform[:, : int(batch.lengths[0])]
        decoded, commitment = self.codec(waveform)
        losses = self._losses(waveform, decoded, commitment)
        distance = log_spectral_distance(waveform, decoded.float(), self.codec.sample_rate)
        return {
            "loss": float(weighted_sum(losses, self.weights)),
            **{name: float(value) for name, value in losses.items()},
            "mel_distance": float(self.mel_distance(waveform, decoded)["mel"]),
            "log_spectral_distance": float(distance[0]),
        }

    def samples(self, batch: AudioBatch | None) -> dict[str, Sound]:
        """Return a clip, and the same from its tokens."""
        if batch is None:
            return {}
        waveform = batch.waveform[:, : int(batch.lengths[0])]
        sounds = {"original": waveform, "decoded": self.codec(waveform)[0]}
        return {name: Sound(x[0].float(), self.codec.sample_rate) for name, x in sounds.items()}

    def _losses(self, waveform: Tensor, decoded: Tensor, commitment: Tensor) -> dict[str, Tensor]:
        return {
            "waveform": (waveform - decoded.float()).abs().mean(),
            **self.mel_loss(waveform, decoded),
            "commitment": commitment.mean(),
        }


def check_network(codec: Encodec, data: AudioSource) -> None:
    """See that a codec's numbers make sense, and fit the data.

    Raises:
        UserError: all that is wrong.
    """
    config, samples = codec.config, round(data.crop_seconds * data.sample_rate)
    rules = {
        f"model.network.sample_rate={config.sample_rate} is not data.sample_rate="
        f"{data.sample_rate}: make them equal": config.sample_rate == data.sample_rate,
        f"data.crop_seconds={data.crop_seconds:g} must hold 8 frames of {codec.hop} samples at "
        "least": samples >= 8 * codec.hop,
        "model.network.decay must lie between 0 and 1": 0 < config.decay < 1,
        "model.network.unquantised must lie between 0 and 1": 0 <= config.unquantised <= 1,
        "model.network.restart_below must lie between 0 and 1": 0 <= config.restart_below < 1,
    }
    report([rule for rule, kept in rules.items() if not kept])
