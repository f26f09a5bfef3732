"""Text to speech by the batch, whatever speaks: VITS, WhisperSpeech, a token TTS, or espeak-ng."""

import hashlib
import importlib.metadata
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from open_miipher.base.errors import UserError

MMS_ENGLISH = "facebook/mms-tts-eng"
WHISPERSPEECH_TINY = "collabora/whisperspeech:s2a-q4-tiny-en+pl.model"

Speak = Callable[[Sequence[str], Sequence[int]], list[np.ndarray]]
"""Texts and a seed each to waveforms, (samples,) float32."""


@dataclass(frozen=True)
class TTSConfig:
    """What speaks (the section `tts` of a configuration).

    Attributes:
        backend: transformers, whisperspeech, token_tts or espeak.
        model: hub id or folder; None: the backend's own choice.
        voice: number of a speaker (transformers), a recording of one (whisperspeech), or a voice's
            name (espeak); None: the backend's own choice.
        batch_size: texts at once.
        characters_per_second: how fast it speaks, see `expected_seconds`.
    """

    backend: Literal["transformers", "whisperspeech", "token_tts", "espeak"] = "transformers"
    model: str | None = None
    voice: str | int | None = None
    batch_size: int = 16
    characters_per_second: float = 15.0


class TTSProcessor:
    """Speaks texts, many at once.

    What a seed holds: with `transformers` and `token_tts`, what is drawn for a text comes from its
    own seed by counter, so that it sounds the same alone, in any batch and on any device, but for
    rounding, and with VITS but for the last 0.2 s of those that are not the longest of a batch (its
    decoder has no mask, and hears the padding behind them). `whisperspeech` speaks one text at a
    time, after its seed: the same sound again on the same kind of machine. `espeak` has no
    randomness, and ignores seeds.

    Args:
        device: where to compute; `cpu`, `cuda` or `cuda:1`.
        backend: see `TTSConfig`.
        model: see `TTSConfig`.
        voice: see `TTSConfig`.

    Attributes:
        sample_rate: of what it says, in Hz.
        fingerprint: see `fingerprint`.

    Raises:
        UserError: the backend is not installed, or there is no such model or voice.
    """

    def __init__(
        self,
        device: str = "cpu",
        backend: str = "transformers",
        model: str | None = None,
        voice: str | int | None = None,
    ) -> None:
        self.fingerprint = fingerprint(backend, model, voice)
        self._speak, self.sample_rate = _BACKENDS[backend].load(model, voice, device)

    def speak(self, texts: Sequence[str], seeds: Sequence[int] | None = None) -> list[np.ndarray]:
        """Say texts.

        Args:
            texts: not empty.
            seeds: of each text, 0 … 2⁶³ - 1; all 0 by default.

        Returns:
            A waveform each, (samples,) float32 at `sample_rate`, full scale ±1.
        """
        if not texts:
            return []
        return self._speak(texts, [0] * len(texts) if seeds is None else seeds)


def attempt(
    speak: Callable[[Sequence[str], Sequence[int]], list[np.ndarray]],
    texts: Sequence[str],
    seeds: Sequence[int],
) -> list[np.ndarray | str]:
    """Say texts, whatever a backend raises at one of them: an error halves the batch.

    Args:
        speak: of a `TTSProcessor`.
        texts: not empty.
        seeds: of each text.

    Returns:
        For each, its waveform, or what the backend raised at it alone.

    Raises:
        torch.AcceleratorError: the device is lost to this process.
    """
    import torch

    if not texts:
        return []
    try:
        return list(speak(texts, seeds))
    except torch.AcceleratorError:
        raise
    except Exception as error:  # noqa: BLE001 - a backend is others' code, and raises anything
        if len(texts) == 1:
            reason = str(error).strip().partition("\n")[0]
            return [f"{type(error).__name__}: {reason}"]
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # the error may be that there is no memory
    half = len(texts) // 2
    parts = (slice(0, half), slice(half, None))
    return [sound for part in parts for sound in attempt(speak, texts[part], seeds[part])]


def fingerprint(backend: str, model: str | None = None, voice: str | int | None = None) -> str:
    """Return what identifies the weights, or the program, that speaks, and its voice.

    Raises:
        UserError: as `TTSProcessor`, as far as that shows without loading the model.
    """
    if backend not in _BACKENDS:
        raise UserError(f"tts.backend={backend}: choose one of {', '.join(_BACKENDS)}")
    found = _BACKENDS[backend].identify(model, voice)
    return found if voice is None else f"{found}, voice {voice}"


@dataclass(frozen=True)
class _Backend:
    """A way to speak: `identify(model, voice)`, and `load(model, voice, device)`."""

    identify: Callable[[str | None, str | int | None], str]
    load: Callable[[str | None, str | int | None, str], tuple[Speak, int]]


def _identify_vits(model: str | None, voice: str | int | None) -> str:
    from open_miipher.encoders.pretrained import find_file, read_json

    source = model or MMS_ENGLISH
    settings = read_json(source, "config.json", what="speech")
    kind, speakers = settings.get("model_type"), settings.get("num_speakers", 1)
    if kind != "vits":
        raise UserError(
            f"tts.model={source} is of type {kind}; tts.backend=transformers speaks with VITS "
            f"models, such as {MMS_ENGLISH}"
        )
    if voice is not None and not (isinstance(voice, int) and 0 <= voice < max(1, speakers)):
        raise UserError(
            f"tts.voice={voice}: {source} has {speakers} speakers; give a number, 0 … "
            f"{max(1, speakers) - 1}, or nothing"
        )
    weights = find_file(source, "model.safetensors", "pytorch_model.bin", what="speech")
    with weights.open("rb") as file:
        return f"vits {hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"


def _load_vits(model: str | None, voice: str | int | None, device: str) -> tuple[Speak, int]:
    import torch
    from transformers import VitsModel, VitsTokenizer
    from transformers.utils import logging

    from open_miipher.base.precision import in_float32
    from open_miipher.encoders.pretrained import hub_answers
    from open_miipher.synthesis.seeded import seeded_noise

    source, bars = model or MMS_ENGLISH, logging.is_progress_bar_enabled()
    only_here = not hub_answers()
    logging.disable_progress_bar()
    try:
        tokenizer = VitsTokenizer.from_pretrained(source, local_files_only=only_here)
        network = VitsModel.from_pretrained(source, dtype=torch.float32, local_files_only=only_here)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"tts.model={source} cannot be loaded: {reason}") from error
    finally:
        if bars:
            logging.enable_progress_bar()
    if tokenizer.phonemize:
        _need("phonemizer", f"{source} speaks from phonemes: `pip install phonemizer`")
    network = network.to(device).eval().requires_grad_(False)

    def speak(texts: Sequence[str], seeds: Sequence[int]) -> list[np.ndarray]:
        inputs = tokenizer(list(texts), padding=True, return_tensors="pt").to(device)
        with torch.no_grad(), in_float32(torch.device(device)), seeded_noise(seeds):
            out = network(**inputs, speaker_id=voice)
        waveforms, lengths = out.waveform.cpu().numpy(), out.sequence_lengths.tolist()
        return [wave[:length] for wave, length in zip(waveforms, lengths, strict=True)]

    return speak, network.config.sampling_rate


def _identify_whisperspeech(model: str | None, voice: str | int | None) -> str:
    mend = "`pip install '.[whisperspeech]'`, or choose another tts.backend"
    return f"{_need('whisperspeech', mend)} {model or WHISPERSPEECH_TINY}"


def _load_whisperspeech(
    model: str | None, voice: str | int | None, device: str
) -> tuple[Speak, int]:
    import torch
    from whisperspeech.pipeline import Pipeline

    if device.startswith("cuda"):
        torch.cuda.set_device(device)  # it takes the current one
    pipeline = Pipeline(s2a_ref=model or WHISPERSPEECH_TINY)
    if not (hasattr(pipeline, "t2s") and hasattr(pipeline, "s2a")):  # it prints why, and goes on
        raise UserError(f"whisperspeech could not load {model or WHISPERSPEECH_TINY}; see above")

    def speak(texts: Sequence[str], seeds: Sequence[int]) -> list[np.ndarray]:
        sounds = []
        for text, seed in zip(texts, seeds, strict=True):
            torch.manual_seed(seed)
            sounds.append(pipeline.generate(text, speaker=voice).float().cpu().numpy().reshape(-1))
        return sounds

    return speak, 24000


def _identify_token_tts(model: str | None, voice: str | int | None) -> str:
    from open_miipher.checkpoint import Checkpoint

    if model is None:
        raise UserError("tts.backend=token_tts needs tts.model, the output directory of a run")
    if voice is not None:
        raise UserError(f"tts.voice={voice}: a token_tts model has one voice; leave it out")
    return f"token_tts {Checkpoint.open(model).identity[:16]}"


def _load_token_tts(model: str | None, voice: str | int | None, device: str) -> tuple[Speak, int]:
    from open_miipher.checkpoint import Checkpoint
    from open_miipher.synthesis.sampling import SamplingConfig
    from open_miipher.synthesis.speaking import Speaker

    speaker = Speaker.from_checkpoint(Checkpoint.open(str(model)), device)

    def speak(texts: Sequence[str], seeds: Sequence[int]) -> list[np.ndarray]:
        problems = [problem for text in texts if (problem := speaker.problem(text)) is not None]
        if problems:
            raise ValueError(problems[0])
        return [sound.numpy() for sound in speaker.speak(texts, seeds, SamplingConfig())]

    return speak, speaker.sample_rate


def _identify_espeak(model: str | None, voice: str | int | None) -> str:
    if shutil.which("espeak-ng") is None:
        raise UserError(
            "espeak-ng is not installed: `apt-get install espeak-ng` (Debian's package), or choose "
            "another tts.backend"
        )
    if model is not None:
        raise UserError(
            f"tts.model={model}: tts.backend=espeak has no models, but voices; leave it out"
        )
    try:
        _say_by_espeak("a", voice)
    except ValueError as error:
        raise UserError(f"tts.voice={voice}: {error}; `espeak-ng --voices` lists them") from error
    told = subprocess.run(["espeak-ng", "--version"], capture_output=True, text=True, check=True)
    return told.stdout.partition("Data at")[0].strip()


def _load_espeak(model: str | None, voice: str | int | None, device: str) -> tuple[Speak, int]:
    sample_rate = _say_by_espeak("a", voice)[1]
    return lambda texts, seeds: [_say_by_espeak(text, voice)[0] for text in texts], sample_rate


def _say_by_espeak(text: str, voice: str | int | None) -> tuple[np.ndarray, int]:
    """Return (samples,) float32, and their rate.

    Raises:
        ValueError: espeak-ng refuses; what it says.
    """
    command = ["espeak-ng", "--stdin", "--stdout", "-v", str(voice or "en")]
    done = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
    if done.returncode:
        raise ValueError(f"espeak-ng: {done.stderr.decode(errors='replace').strip()}")
    # A WAV file whose header was written before its length was known.
    rate = int.from_bytes(done.stdout[24:28], "little")
    return np.frombuffer(done.stdout[44:], "<i2").astype(np.float32) / 32768, rate


def _need(package: str, mend: str) -> str:
    """Return a package's name and version.

    Raises:
        UserError: it is not installed.
    """
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(f"{package} is not installed: {mend}") from error


_BACKENDS: Mapping[str, _Backend] = {
    "transformers": _Backend(_identify_vits, _load_vits),
    "whisperspeech": _Backend(_identify_whisperspeech, _load_whisperspeech),
    "token_tts": _Backend(_identify_token_tts, _load_token_tts),
    "espeak": _Backend(_identify_espeak, _load_espeak),
}
