"""Speech encoders of the transformers library, up to a chosen layer: w2v-BERT, WavLM, HuBERT, …"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from open_miipher.base.errors import UserError
from open_miipher.base.precision import as_stored
from open_miipher.encoders.base import Encoder, attention_mask
from open_miipher.encoders.convolutional import ConvolutionalFrontEnd
from open_miipher.encoders.front_ends import SAMPLE_RATE, KaldiMel
from open_miipher.encoders.pretrained import find_file, how_to_fetch, hub_answers, read_json
from open_miipher.encoders.relative_key import RelativeKeyAttention

MEL_FAMILY = "wav2vec2-bert"
WAVEFORM_FAMILIES = ("hubert", "wav2vec2", "wavlm")


@dataclass
class SpeechModelConfig:
    """A pretrained speech encoder.

    Attributes:
        source: hub id or folder, as for `transformers.AutoModel`.
        layer: number of layers that are used; the features are `hidden_states[layer]` of the full
            model.
        lead_samples: zeros that w2v-BERT's front end puts before a clip; 0 for other models.
    """

    source: str
    layer: int = 8
    lead_samples: int = 0


class SpeechModel(Encoder):
    """The first `layer` layers of a w2v-BERT 2.0, WavLM, HuBERT or wav2vec 2.0 (XLS-R) model.

    The features are the raw output of the last used layer. Models with a "stable layer norm" have a
    norm after their full depth; it is left out, as in `hidden_states`. Each clip is padded with
    zeros by itself, until its features have ceil(samples / hop_length) frames. The stock extractor
    and model give the same features for a clip that is padded like this.
    """

    Config = SpeechModelConfig

    def __init__(self, config: SpeechModelConfig) -> None:
        """Load the model.

        Raises:
            UserError: the source cannot be loaded, is of another family, or lacks layers or
                weights.
        """
        super().__init__()
        model = _load(config)
        self.width = model.config.hidden_size
        self.front_end: KaldiMel | ConvolutionalFrontEnd
        if model.config.model_type == MEL_FAMILY:
            self.sample_rate, self.hop_length = SAMPLE_RATE, 320
            self.front_end = KaldiMel(config.lead_samples)
            settings = f"lead_samples={config.lead_samples}" if config.lead_samples else ""
        elif config.lead_samples:
            raise UserError(
                f"encoder lead_samples={config.lead_samples} is for w2v-BERT; leave it out for "
                f"{config.source}"
            )
        else:
            extractor = read_json(config.source, "preprocessor_config.json")
            self.sample_rate = extractor.get("sampling_rate", SAMPLE_RATE)
            do_normalise = extractor.get("do_normalize", True)
            self.front_end = ConvolutionalFrontEnd(model.feature_extractor, do_normalise)
            self.hop_length = self.front_end.hop_length
            settings = f"do_normalize={do_normalise}"
        self.needs_statistics = self.front_end.needs_statistics
        self.projection = model.feature_projection
        self.transformer = model.encoder
        if getattr(model.config, "position_embeddings_type", None) == "relative_key":
            for layer in self.layers:
                layer.self_attn = RelativeKeyAttention(layer.self_attn)
        if getattr(model.config, "do_stable_layer_norm", False):
            self.transformer.layer_norm = nn.Identity()
        if getattr(model.config, "conv_pos_batch_norm", False):
            positions = self.transformer.pos_conv_embed
            positions.batch_norm = PaddingKeepingNorm(positions.batch_norm)
        self.freeze(settings)

    @property
    def layers(self) -> nn.ModuleList:
        """The used layers; each maps hidden states to hidden states (WavLM's to a tuple)."""
        return self.transformer.layers

    def encode(self, waveform: Tensor, frame_lengths: Tensor) -> Tensor:
        """(batch, frames · hop_length) -> (batch, frames, width); see `Encoder.encode`."""
        return self._transform(self.front_end(waveform, frame_lengths), frame_lengths)

    def encode_with(self, waveform: Tensor, frame_lengths: Tensor, statistics: Tensor) -> Tensor:
        """As `encode`, normalised by statistics from `measure`; see `Encoder.forward`."""
        hidden = self.front_end(waveform, frame_lengths, statistics)
        return self._transform(hidden, frame_lengths)

    def measure(self, blocks: Iterable[Tensor]) -> Tensor:
        """(rows, n) blocks of whole signals -> (rows, numbers); see `Encoder.measure`."""
        return self.front_end.measure(blocks)

    def _transform(self, hidden: Tensor, frame_lengths: Tensor) -> Tensor:
        hidden = self.projection(as_stored(hidden, self.projection))
        # The projections of all models but HuBERT also return their input.
        hidden = hidden if isinstance(hidden, Tensor) else hidden[0]
        mask = attention_mask(frame_lengths, hidden.shape[1])
        features = self.transformer(hidden, attention_mask=mask).last_hidden_state
        return features if mask is None else features.masked_fill(~mask[:, :, None], 0.0)


class PaddingKeepingNorm(nn.Module):
    """The batch norm before some HuBERTs' positional convolution; it keeps the padding at zero.

    The stock encoder sets padded frames to zero before the norm. The norm would shift them, and the
    convolution would carry that into the end of the clip.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, hidden: Tensor) -> Tensor:
        """(batch, width, frames) -> the same shape; frames of zeros stay zeros."""
        padding = (hidden == 0).all(1, keepdim=True)
        return self.norm(hidden).masked_fill(padding, 0.0)


def _load(config: SpeechModelConfig) -> Any:
    """Load the model in float32 with `config.layer` layers and without its training-time noise."""
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModel

    find_file(config.source, "config.json")
    is_folder = Path(config.source).expanduser().is_dir()
    only_cache = {"local_files_only": not is_folder and not hub_answers()}
    try:
        with _only_errors():
            model_config = AutoConfig.from_pretrained(config.source, **only_cache)
            _cut(model_config, config)
            model, info = AutoModel.from_pretrained(
                config.source,
                config=model_config,
                dtype=torch.float32,
                output_loading_info=True,
                **only_cache,
            )
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"encoder source {config.source} cannot be loaded ({reason}); "
            f"{how_to_fetch(config.source)}"
        ) from error
    wrong = sorted(map(str, (*info["missing_keys"], *info["mismatched_keys"])))
    if wrong:
        raise UserError(f"encoder source {config.source} lacks weights: {', '.join(wrong)}")
    return model


def _cut(model_config: Any, config: SpeechModelConfig) -> None:
    families = (MEL_FAMILY, *WAVEFORM_FAMILIES)
    if model_config.model_type not in families:
        raise UserError(
            f"encoder source {config.source} is of type {model_config.model_type}; "
            f"{', '.join(families)} are supported"
        )
    if not 1 <= config.layer <= model_config.num_hidden_layers:
        raise UserError(
            f"encoder layer={config.layer} must lie between 1 and "
            f"{model_config.num_hidden_layers}, the layers of {config.source}"
        )
    model_config.num_hidden_layers = config.layer
    model_config.layerdrop = 0.0
    model_config.apply_spec_augment = False
    # No masking, so the model has no mask embedding; and nothing after the layers is used.
    model_config.mask_time_prob = model_config.mask_feature_prob = 0.0
    model_config.add_adapter = False
    if model_config.model_type == MEL_FAMILY:
        model_config.use_intermediate_ffn_before_adapter = False
    if model_config.model_type != "wavlm":  # which has an attention of its own
        model_config._attn_implementation = _unread_masks()


def _unread_masks() -> str:
    """Return the name of an attention that takes boolean masks and never looks into them.

    The stock one asks at every call whether a mask hides anything, and waits for the device to say.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def mask(*args: Any, attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
        options["allow_is_bidirectional_skip"] = attention_mask is None
        return sdpa_mask(*args, attention_mask=attention_mask, **options)

    AttentionInterface.register("sdpa_unread", sdpa_attention_forward)
    AttentionMaskInterface.register("sdpa_unread", mask)
    return "sdpa_unread"


@contextmanager
def _only_errors() -> Iterator[None]:
    """Hide the progress bar and the list of unused tensors, which are of the unused layers."""
    from transformers.utils import logging

    verbosity, progress = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if progress:
            logging.enable_progress_bar()
