"""Universal speech models at 25 Hz: the audio towers of Gemma 4 and Gemma 3n."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from open_miipher.base.errors import UserError
from open_miipher.base.precision import as_stored
from open_miipher.encoders.base import Encoder, attention_mask, frame_mask
from open_miipher.encoders.front_ends import SAMPLE_RATE, Gemma3nMel, Gemma4Mel
from open_miipher.encoders.pretrained import load_part, read_json


@dataclass
class UsmConfig:
    """An audio tower.

    Attributes:
        source: hub id or folder of the whole multimodal checkpoint, or of a copy of the tower
            alone; only the tensors of the used layers are read.
        num_layers: number of layers that are used; the features are the last one's output.
    """

    source: str
    num_layers: int = 6


class UsmGemma4(Encoder):
    """The first layers of Gemma 4's audio tower (`Gemma4AudioModel` in transformers).

    16 kHz in, 25 frames a second out, 1024 wide. A frame sees its own 640 samples and a bounded
    past, so chunks give nearly the features of the whole file. In a clip of whole frames, the last
    window ends 160 samples before the clip, as in the published extractor.
    """

    Config = UsmConfig
    sample_rate = SAMPLE_RATE
    hop_length = 640

    def __init__(self, config: UsmConfig) -> None:
        """Load the tower.

        Raises:
            UserError: the source cannot be read, is no Gemma 4, or has too few layers.
        """
        from transformers.models.gemma4.configuration_gemma4 import Gemma4AudioConfig
        from transformers.models.gemma4.modeling_gemma4 import Gemma4AudioModel

        super().__init__()
        tower_config = _tower_config(config, Gemma4AudioConfig, "num_hidden_layers")
        # Both bounds overflow in float16 autocast. The smaller ones change nothing else: normalised
        # hidden states, and logits capped at 50, are far below either.
        tower_config.gradient_clipping = min(tower_config.gradient_clipping, 65504.0)
        tower_config.attention_invalid_logits_value = -65504.0
        self.tower = Gemma4AudioModel(tower_config)
        # It projects to the language model's width; the features are the layers' own outputs.
        self.tower.output_proj = nn.Identity()
        load_part(self.tower, config.source)
        self.width = self.tower.config.hidden_size
        self.front_end = Gemma4Mel()
        self.freeze()

    @property
    def layers(self) -> nn.ModuleList:
        """The conformer blocks; each maps hidden states to hidden states."""
        return self.tower.layers

    def encode(self, waveform: Tensor, frame_lengths: Tensor) -> Tensor:
        """(batch, frames · 640) -> (batch, frames, width); see `Encoder.encode`."""
        mel = as_stored(self.front_end(waveform), self.tower)
        mel_mask = attention_mask(4 * frame_lengths - 1, mel.shape[1])
        features = self.tower(mel, mel_mask).last_hidden_state
        return _silence(features, frame_lengths)


class UsmGemma3n(Encoder):
    """The first layers of Gemma 3n's audio encoder (`Gemma3nAudioEncoder` in transformers).

    16 kHz in, 25 frames a second out (without the published decimation to 6.25), 1536 wide. A
    frame sees 832 samples after its own. The front end's cumulative group norm makes each frame
    depend on everything before it. So a chunk has other features than the whole file, and training
    and inference must cut audio alike. The published extractor ends at 30 s (480,000 samples), and
    the model was trained up to that length. Nothing is cut off here, but the model has never seen
    longer chunks. In a clip of whole frames, the last window ends 127 samples before the clip, as
    in the published extractor.
    """

    Config = UsmConfig
    sample_rate = SAMPLE_RATE
    hop_length = 640

    def __init__(self, config: UsmConfig) -> None:
        """Load the tower.

        Raises:
            UserError: the source cannot be read, is no Gemma 3n, or has too few layers.
        """
        from transformers.models.gemma3n.configuration_gemma3n import Gemma3nAudioConfig
        from transformers.models.gemma3n.modeling_gemma3n import Gemma3nAudioEncoder

        super().__init__()
        self.tower = Gemma3nAudioEncoder(
            _tower_config(config, Gemma3nAudioConfig, "conf_num_hidden_layers")
        )
        load_part(self.tower, config.source)
        self.width = self.tower.config.hidden_size
        self.front_end = Gemma3nMel()
        self.freeze()

    @property
    def layers(self) -> nn.ModuleList:
        """The conformer blocks; each maps (hidden states, padding mask) to hidden states."""
        return self.tower.conformer

    def encode(self, waveform: Tensor, frame_lengths: Tensor) -> Tensor:
        """(batch, frames · 640) -> (batch, frames, width); see `Encoder.encode`."""
        mel = as_stored(self.front_end(waveform), self.tower)
        hidden = self._subsample(mel, frame_lengths)
        padding = ~frame_mask(frame_lengths, hidden.shape[1])
        for layer in self.layers:
            hidden = layer(hidden, padding)
        return _silence(hidden, frame_lengths)

    def _subsample(self, mel: Tensor, frame_lengths: Tensor) -> Tensor:
        """(batch, 4 · frames - 3, 128) -> (batch, frames, width).

        Both convolutions look ahead, and see zeros after a clip that is alone. So the padding in a
        batch is set to zero before each of them. The stock forward does not do this, and its
        padding leaks into the end of the clip.
        """
        convolutions = self.tower.subsample_conv_projection
        hidden = convolutions.conv_0(_silence(mel, 4 * frame_lengths - 3)[:, None])
        mask = frame_mask(2 * frame_lengths - 1, hidden.shape[2])
        hidden = convolutions.conv_1(hidden.masked_fill(~mask[:, None, :, None], 0.0))
        return convolutions.input_proj_linear(hidden.permute(0, 2, 3, 1).flatten(2))


def _tower_config(config: UsmConfig, config_class: type[Any], depth: str) -> Any:
    """Return the tower's configuration with `num_layers` layers.

    The file is that of a whole checkpoint or of a tower alone.
    """
    fields = read_json(config.source, "config.json")
    fields = fields.get("audio_config") or fields
    if fields.get("model_type") != config_class.model_type:
        raise UserError(
            f"encoder source {config.source} is of type {fields.get('model_type')}; "
            f"{config_class.model_type} is needed"
        )
    tower_config = config_class.from_dict(fields)
    available = getattr(tower_config, depth)
    if not 1 <= config.num_layers <= available:
        raise UserError(
            f"encoder num_layers={config.num_layers} must lie between 1 and {available}, "
            f"the layers of {config.source}"
        )
    setattr(tower_config, depth, config.num_layers)
    return tower_config


def _silence(frames: Tensor, lengths: Tensor) -> Tensor:
    """Set (batch, frames, width) to zero beyond `lengths`."""
    return frames.masked_fill(~frame_mask(lengths, frames.shape[1])[:, :, None], 0.0)
