"""Every encoder on a GPU: as on the CPU, and in bfloat16 near to float32."""

import pytest
import torch

pytestmark = pytest.mark.gpu
KINDS = [
    "log_mel",
    "gemma4",
    "gemma3n",
    "w2v_bert",
    "wavlm_base",
    "wavlm_large",
    "hubert_base",
    "hubert_large",
    "hubert_batch_norm",
    "xls_r",
]
DEVICE = "cuda"


def relative_error(estimate, reference):
    return ((estimate.float().cpu() - reference).norm() / reference.norm()).item()


@pytest.mark.parametrize("kind", KINDS)
def test_cpu_and_bfloat16(kind, encoder, speech_like):
    model, lengths = encoder(kind), torch.tensor([16000, 9001])
    waveform = torch.stack([torch.from_numpy(speech_like(16000, seed)) for seed in (0, 1)])
    expected, expected_lengths = model(waveform, lengths)
    try:
        model.to(DEVICE)
        features, frame_lengths = model(waveform.to(DEVICE), lengths)
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            rounded, _ = model(waveform.to(DEVICE), lengths)
    finally:
        model.to("cpu")
    assert torch.equal(frame_lengths.cpu(), expected_lengths)
    # cuDNN's convolutions take TF32 for float32.
    assert relative_error(features, expected) < 5e-3
    assert relative_error(rounded, expected) < 0.05


@pytest.mark.parametrize("kind", ["w2v_bert", "wavlm_base", "hubert_base", "xls_r"])
def test_statistics(kind, encoder, speech_like):
    model = encoder(kind)
    blocks = torch.from_numpy(speech_like(16001)).view(1, -1).split(5000, dim=1)
    expected = model.measure(blocks)
    try:
        model.to(DEVICE)
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            measured = model.measure(block.to(DEVICE) for block in blocks)
    finally:
        model.to("cpu")
    torch.testing.assert_close(measured.cpu(), expected, rtol=1e-6, atol=1e-6)
