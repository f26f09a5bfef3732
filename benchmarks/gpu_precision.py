"""Checks of what a GPU computes: in float32 where that is heard, and near enough in bfloat16."""

from functools import partial
from operator import itemgetter

import torch
from check_runner import Outcome
from gpu_chains import FAMILIES, Chains, speech_like
from torch import Tensor, nn

# bfloat16 has 8 bits: each of some hundred successive operations has a rounding error of 2^-9.
LARGEST_ERROR = {"features": 0.05, "waveform": 0.2}
# Of what is to compute in float32, against float64. TF32 has errors of 3e-4, bfloat16 of 2e-3.
LARGEST_FLOAT32_ERROR = 2e-5


@torch.inference_mode()
def front_ends(chains: Chains) -> Outcome:
    """Compare resampling and log-mel features with those of the CPU."""
    from open_miipher.audio.mel import LogMel, MelConfig
    from open_miipher.recipes.parts import at_rate

    waveform = speech_like(2.0, 24000)
    lengths = torch.full((2,), waveform.shape[1])
    mel = LogMel(MelConfig())
    here = {"at_rate": at_rate(waveform, lengths, 24000, 16000)[0], "log_mel": mel(waveform)}
    waveform, lengths = waveform.to(chains.device), lengths.to(chains.device)
    there = {"at_rate": at_rate(waveform, lengths, 24000, 16000)[0]}
    there["log_mel"] = mel.to(chains.device)(waveform)
    return judge({k: relative_error(v, there[k].cpu()) for k, v in here.items()})


def float32_parts(chains: Chains, family: str) -> Outcome:
    """Compare every layer that is to compute in float32, under autocast, with float64."""
    from open_miipher.base.precision import stays_in_float32
    from open_miipher.base.registry import build
    from open_miipher.config import compose_plain
    from open_miipher.discriminators import DISCRIMINATORS

    cleaner, vocoder = chains.parts(family)
    plain = compose_plain([f"model={family}_{FAMILIES[family][1]}", chains.encoder(family)])
    networks = nn.ModuleDict({"cleaner": cleaner, "vocoder": vocoder})
    for name, spec in plain["model"]["discriminators"].items():
        networks[name] = build(DISCRIMINATORS, spec)
    networks.to(chains.device).eval()
    errors: dict[str, float] = {}

    def compare(name: str, layer: nn.Module, given: tuple[Tensor], output: Tensor) -> None:
        with torch.autocast(given[0].device.type, enabled=False):
            exact = layer._conv_forward(  # type: ignore[operator]
                given[0].double(), layer.weight.double(), layer.bias.double()
            )
        errors[name] = relative_error(exact, output)

    for name, module in networks.named_modules():
        for path, layer in module.named_modules() if stays_in_float32(module) else ():
            if isinstance(layer, nn.Conv1d | nn.Conv2d):
                full = f"{name}.{path}".rstrip(".")
                layer.register_forward_hook(partial(compare, full))
    seconds = 0.12 if chains.tiny else 1.0
    waveform = speech_like(seconds, cleaner.encoder.sample_rate).to(chains.device)
    lengths = torch.full((2,), waveform.shape[1], device=chains.device)
    with torch.no_grad(), torch.autocast(torch.device(chains.device).type, torch.bfloat16):
        features, _ = cleaner(waveform, lengths)
        noise = torch.randn(2, features.shape[1] * vocoder.hop_length, device=chains.device)
        spoken = vocoder.generate(features, noise)
        for name in plain["model"]["discriminators"]:
            networks[name](spoken)
    if not errors:
        return False, "no layer is marked", {}
    return judge(errors)


@torch.inference_mode()
def compare_bf16(chains: Chains, family: str) -> Outcome:
    """Compare features and waveform of bfloat16 weights, without autocast, with float32."""
    from open_miipher.base.precision import store_in_bf16, without_parametrisations

    cleaner, vocoder = (part.to(chains.device).eval() for part in chains.parts(family))
    waveform = speech_like(0.24 if chains.tiny else 10.0, cleaner.encoder.sample_rate)
    lengths = torch.tensor([waveform.shape[1], waveform.shape[1] // 2], device=chains.device)
    waveform = waveform.to(chains.device)
    features, _ = cleaner(waveform, lengths)
    samples = features.shape[1] * vocoder.hop_length
    noise = torch.randn(len(features), samples, device=chains.device)
    exact = {"features": features, "waveform": vocoder.generate(features, noise)}
    for part in (cleaner, vocoder):
        without_parametrisations(part)
        store_in_bf16(part)
    rounded = {"features": cleaner(waveform, lengths)[0]}
    rounded["waveform"] = vocoder.generate(features, noise)
    errors = {name: relative_error(exact[name], rounded[name]) for name in exact}
    said = ", ".join(f"{k} {e:.4f} (at most {LARGEST_ERROR[k]})" for k, e in errors.items())
    return all(errors[k] <= LARGEST_ERROR[k] for k in errors), f"error {said}", errors


def judge(errors: dict[str, float]) -> Outcome:
    """Hold errors of what computes in float32 against their bound."""
    bad = {name: error for name, error in errors.items() if not error < LARGEST_FLOAT32_ERROR}
    shown = bad or dict([max(errors.items(), key=itemgetter(1))])
    said = ", ".join(f"{name} {error:.1e}" for name, error in shown.items())
    said = f"{len(errors)} parts, {'too large' if bad else 'largest error'}: {said}"
    return not bad, f"{said} (at most {LARGEST_FLOAT32_ERROR})", errors


def relative_error(exact: Tensor, rounded: Tensor) -> float:
    """Return ‖a - b‖ / ‖a‖."""
    return float((exact.float() - rounded.float()).norm() / exact.float().norm())
