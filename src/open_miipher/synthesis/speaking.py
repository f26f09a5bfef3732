"""A trained token text-to-speech model at work: from its checkpoint alone, texts become sounds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from open_miipher.base.errors import UserError, report
from open_miipher.base.registry import from_mapping
from open_miipher.checkpoint import Checkpoint
from open_miipher.codec import AudioTokenizer, CodecConfig
from open_miipher.synthesis.sampling import SamplingConfig, sample
from open_miipher.synthesis.text import check_language, normalised, text_batch, text_problem
from open_miipher.synthesis.token_tts import TokenTTS


class Speaker:
    """A network and the codec whose tokens it writes.

    Attributes:
        network: in evaluation mode, on its device.
        codec: makes sounds of tokens.
        sample_rate: of the sounds, in Hz.
        fingerprint: identifies the weights.
    """

    def __init__(
        self, network: TokenTTS, codec: AudioTokenizer, language: str | None, fingerprint: str
    ) -> None:
        """Take a trained network to its codec's device.

        Args:
            network: trained.
            codec: whose tokens it learned.
            language: in which numbers are written out (see `text.normalised`); None: they are not.
            fingerprint: of the weights.
        """
        self.network, self.codec = network.to(codec.device).eval(), codec
        self.sample_rate, self.fingerprint = codec.sample_rate, fingerprint
        self._language = language

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Checkpoint, device: torch.device | str = "cpu", ema: bool = True
    ) -> "Speaker":
        """Build the speaker of a checkpoint, and load its codec from where training had it.

        Args:
            checkpoint: of a run of the token_tts recipe.
            device: to compute on.
            ema: take the moving average of the weights, if there is one.

        Raises:
            UserError: the checkpoint is of something else, or damaged; or its codec is not there,
                or has other weights now.
        """
        blueprint = checkpoint.networks.get("token_tts")
        if blueprint is None:
            raise UserError(
                f"{checkpoint.path} is of model={checkpoint.config['name']}, which speaks no text: "
                "give the run of a text-to-speech model (model=token_tts_small, …)"
            )
        data = checkpoint.config["data"]
        codec = AudioTokenizer.from_config(
            from_mapping(CodecConfig, data["codec"], "data.codec"), device
        )
        wanted = checkpoint.networks["codec"].fingerprint
        if codec.fingerprint != wanted:
            raise UserError(
                f"{checkpoint.path} learned tokens of another codec ({wanted}) than "
                f"{data['codec']['source']} holds here ({codec.fingerprint}): give that the files "
                "it had in training"
            )
        check_language(data["normalize_text"], "data.normalize_text")
        return cls(
            cast(TokenTTS, checkpoint.build("token_tts", ema)),
            codec,
            data["normalize_text"],
            f"{checkpoint.identity[:16]}{'' if ema else '-no-ema'}",
        )

    def problem(self, text: object) -> str | None:
        """Say why a text cannot be spoken; None if it can."""
        spoken = normalised(text, self._language) if isinstance(text, str) else text
        network = self.network
        found = text_problem(spoken, min(network.longest_text, network.max_bytes))
        if found is not None and "more than" in found:
            seconds = network.num_frames / self.codec.frame_rate
            found += (
                f", the longest that the model learned to say in its {seconds:g} s "
                "(data.seconds): cut it into shorter lines"
            )
        return found

    def tokens(
        self, texts: Sequence[str], items: Sequence[int], sampling: SamplingConfig
    ) -> list[Tensor]:
        """Say texts in tokens.

        Args:
            texts: each without a `problem`.
            items: a number for each: what is drawn depends on the seed and these alone.
            sampling: how.

        Returns:
            For each, (frames, codebooks) int64 on the CPU.
        """
        ids, lengths = text_batch([normalised(text, self._language) for text in texts])
        device = self.codec.device
        numbers = torch.tensor(list(items), dtype=torch.int64)
        return sample(self.network, ids.to(device), lengths.to(device), numbers, sampling)

    def speak(
        self, texts: Sequence[str], items: Sequence[int], sampling: SamplingConfig
    ) -> list[Tensor]:
        """Say texts aloud: as `tokens`, and for each (samples,) float32 on the CPU."""
        return self.codec.decode(self.tokens(texts, items, sampling)) if texts else []


class TextToSpeechPipeline:
    """Speaks texts, by the interface of the field's pipelines.

    Args:
        speaker: of a checkpoint.
    """

    def __init__(self, speaker: Speaker) -> None:
        self.speaker = speaker

    def __call__(
        self, texts: str | Sequence[str], forward_params: Mapping[str, Any] | None = None
    ) -> Any:
        """Speak a text, or a batch of them.

        Args:
            texts: one, or several.
            forward_params: fields of `SamplingConfig`: num_beams, do_sample, temperature, top_k,
                max_new_tokens, seed.

        Returns:
            `{"audio": (samples,) float32, "sampling_rate": Hz}`; of several texts a list of such.
            Text k of a list draws by the seed and k, so a single one is as the first of a list.

        Raises:
            UserError: a text cannot be spoken, or a parameter is unknown or out of range.
        """
        sampling = from_mapping(SamplingConfig, forward_params or {}, "forward_params")
        is_single = isinstance(texts, str) or not isinstance(texts, Sequence)
        given = [texts] if is_single else list(texts)
        problems = (self.speaker.problem(text) for text in given)
        report([f"text {k}: {found}" for k, found in enumerate(problems) if found is not None])
        sounds = self.speaker.speak(cast(list[str], given), range(len(given)), sampling)
        made = [
            {"audio": sound.numpy(), "sampling_rate": self.speaker.sample_rate} for sound in sounds
        ]
        return made[0] if is_single else made


def text_to_speech_pipeline(
    model_path: str | Path, device: str | torch.device = "cpu", ckpt: str = "newest"
) -> TextToSpeechPipeline:
    """Load a trained model; see `TextToSpeechPipeline`.

    Args:
        model_path: output directory of a run, or a checkpoint.
        device: to compute on.
        ckpt: which checkpoint of a run: newest, best, or a step.

    Raises:
        UserError: see `Speaker.from_checkpoint`.
    """
    return TextToSpeechPipeline(Speaker.from_checkpoint(Checkpoint.open(model_path, ckpt), device))
