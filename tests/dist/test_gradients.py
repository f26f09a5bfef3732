"""Gradients of 2 and 3 ranks equal those of 1 rank on the joined batch, for every recipe."""

import json
import shutil

import pytest
import tiny_codec
import tiny_tts
import torch
from tiny_diffusion import BACKBONES, VOCODER, overrides

pytestmark = pytest.mark.dist

SIX = "trainer.batch_size=6"
# The parts of Sidon's vocoder stage, tiny and at 24 kHz.
TINY_DAC = [
    "model.segment_seconds=0.2",
    "model.vocoder={name: dac, sample_rate: 24000, channels: 32, upsampling_rates: [8, 5, 4, 3]}",
    "model.discriminators.multi_period={periods: [3], channels: [4, 8]}",
    "model.discriminators.multi_band_stft={win_lengths: [128], channels: 4}",
    "model.mel={n_mels: [10, 40], win_lengths: [128, 512], floor: 1.0e-5}",
]


@pytest.fixture(scope="module")
def tiny_stages(tiny_stages, tones, speech_dir, spoken, tmp_path_factory):
    tokens = tmp_path_factory.mktemp("tokens")  # made by the first of all runs
    speaking = tiny_tts.overrides(spoken, f"data.tokens_dir={tokens}")
    tokenised = {"codec": tiny_codec.overrides(speech_dir), "token_tts": speaking}
    vocoders = {f"{name}_vocoder": overrides(name, tones, *VOCODER) for name in BACKBONES}
    diffusions = {name: overrides(name, tones) for name in BACKBONES}
    return {**tiny_stages, **tokenised, **diffusions, **vocoders}


@pytest.fixture(scope="module")
def tiny_hubert(tmp_path_factory):
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    config = HubertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        conv_dim=[16] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("hubert")
    HubertModel(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return folder


def test_ranks_average_to_the_joined_batch(run_script, tiny_stages, tmp_path):
    settings = {name: [*overrides, SIX] for name, overrides in tiny_stages.items()}
    twelve = ["trainer.batch_size=12", "trainer.grad_accumulation=2"]
    settings["accumulated"] = [*tiny_stages["finetune"], *twelve]
    run(run_script, tmp_path, settings, "single")
    for name in settings:
        for ranks in (2, 3):
            zeros = name not in ("finetune", "accumulated")  # first weights keep some gradients at 0
            check(tmp_path, name, ranks, relative=1e-5, zeros=zeros)


@pytest.mark.slow
def test_ranks_average_on_pretrained_encoders(run_script, tiny_stages, tiny_hubert, tmp_path):
    common = [
        "encoder@model.encoder=hubert_base",
        f"model.encoder.source={tiny_hubert}",
        "model.encoder.layer=2",
        "data.sample_rate=24000",
        "trainer.amp=no",
        "trainer.logger.kind=none",
        *(o for o in tiny_stages["cleaner"] if o.startswith(("data.", "trainer."))),
        "data.crop_seconds=3",
        SIX,
    ]
    adapters = ["model.cleaner.bottleneck=8", "model.cleaner.init=random"]
    settings = {
        "adapters": ["model=miipher2_feature_cleaner", *adapters, *common],
        # Dropout differs from rank to rank.
        "lora": ["model=sidon_feature_predictor", "model.cleaner.dropout=0.0", *common],
        "dac": ["model=sidon_vocoder_pretrain", *TINY_DAC, *common],
    }
    run(run_script, tmp_path, settings, "single")
    for name in settings:
        for ranks in (2, 3):
            check(tmp_path, name, ranks, relative=1e-5, zeros=name == "lora")


@pytest.mark.slow
def test_ranks_average_to_the_joined_batch_without_rounding(run_script, tiny_stages, tmp_path):
    settings = {name: [*overrides, SIX] for name, overrides in tiny_stages.items()}
    tokens_first = tmp_path / "tokens.json"  # a codec computes in float32 alone
    tokens_first.write_text(json.dumps({"token_tts": settings["token_tts"]}))
    run_script("tests/dist/gradients.py", tmp_path, tokens_first, "single")
    shutil.rmtree(tmp_path / "run-token_tts-1")
    run(run_script, tmp_path, settings, "double")
    for name in settings:
        for ranks in (2, 3):
            check(tmp_path, name, ranks, relative=1e-10, zeros=False)


@pytest.mark.slow
def test_compiled_ranks_average_to_the_joined_batch(run_script, tiny_stages, tmp_path):
    names = ("cleaner", "pretrain", "finetune", "codec")
    plain = {name: [*tiny_stages[name], SIX] for name in names}
    compiled = {name: [*words, "trainer.compile=true"] for name, words in plain.items()}
    for ranks, precision, settings in ((1, "single", plain), (2, "captured", compiled)):
        file = tmp_path / f"{precision}.json"
        file.write_text(json.dumps(settings))
        run_script("tests/dist/gradients.py", tmp_path, file, precision, ranks=ranks)
    for name in names:
        check(tmp_path, name, 2, relative=1e-5, zeros=name != "finetune")


def run(run_script, folder, settings, precision: str) -> None:
    file = folder / "settings.json"
    file.write_text(json.dumps(settings))
    for ranks in (1, 2, 3):
        run_script("tests/dist/gradients.py", folder, file, precision, ranks=ranks)


def check(folder, name: str, ranks: int, relative: float, zeros: bool) -> None:
    """Compare with one rank: every gradient to a share of its network's largest."""
    (expected_losses, expected), (losses, gradients) = (
        torch.load(folder / f"{name}-{n}.pt", weights_only=True) for n in (1, ranks)
    )
    assert losses == pytest.approx(expected_losses, rel=1e-5, abs=1e-6), name
    assert gradients.keys() == expected.keys()
    for network, parameters in expected.items():
        assert all(gradient is not None for gradient in parameters.values()), (name, network)
        largest = max(gradient.abs().max().item() for gradient in parameters.values())
        for key, gradient in gradients[network].items():
            error = (gradient - parameters[key]).abs().max().item()
            assert error <= relative * largest, (
                f"{name}, {ranks} ranks, {network} {key}: {error:.2e}"
            )
        # As long as no logit is beyond ±1, a hinge loss leaves its bias alone.
        moved = [g for key, g in parameters.items() if not key.endswith("to_logits.bias")]
        assert zeros or all(gradient.abs().max() > 0 for gradient in moved), (name, network)
