"""WaveFit on a GPU: the same numbers as on the CPU, in float32 and nearly so in bfloat16."""

import copy

import pytest
import torch

from open_miipher.vocoders.wavefit import PreNetConfig

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("gain", ["peak", "power"])
def test_outputs_and_gradients_are_those_of_the_cpu(
    make_wavefit, make_inputs, gain, gradient_checkpointing, monkeypatch
):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    model = make_wavefit(
        gain,
        pre_net=PreNetConfig(1, 2, 3, 1),
        upsample="linear",
        gradient_checkpointing=gradient_checkpointing,
    )
    features, noise = make_inputs(model, 2, 20)
    there = copy.deepcopy(model).cuda()
    outputs = model(features, noise)
    outputs_there = there(features.cuda(), noise.cuda())
    assert torch.equal(there.generate(features.cuda(), noise.cuda()), outputs_there[-1])
    torch.testing.assert_close(outputs_there[-1].cpu(), outputs[-1], atol=1e-3, rtol=1e-3)
    outputs[0].sin().sum().backward()
    outputs_there[0].sin().sum().backward()
    for (name, a), b in zip(model.named_parameters(), there.parameters(), strict=True):
        error = (a.grad - b.grad.cpu()).norm() / a.grad.norm()
        assert error < 1e-2, name


@pytest.mark.parametrize("gain", ["peak", "power"])
def test_bfloat16_stays_close(make_wavefit, make_inputs, gain):
    model = make_wavefit(gain).cuda()
    features, noise = (x.cuda() for x in make_inputs(model, 2, 20))
    exact = model.generate(features, noise)
    with torch.autocast("cuda", torch.bfloat16):
        rounded = model.generate(features, noise)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).norm() / exact.norm() < 0.05
