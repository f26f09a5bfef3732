"""Where float32 is meant, it is float32: inside autocast, and where TF32 is allowed."""

import pytest
import torch

from open_miipher.base.precision import in_float32
from open_miipher.base.registry import build
from open_miipher.discriminators import DISCRIMINATORS
from open_miipher.vocoders import VOCODERS
from open_miipher.vocoders.wavegrad import UNet, UNetConfig


def fail_within(backends) -> None:
    with in_float32(torch.device("cpu")):
        assert not torch.is_autocast_enabled("cpu")
        assert [backend.allow_tf32 for backend in backends] == [False, False]
        raise ValueError("stop")


def test_neither_autocast_nor_tf32_within_and_both_as_before_after() -> None:
    backends = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in backends]
    for allowed in (True, False):
        backends[0].allow_tf32 = allowed
        with torch.autocast("cpu", torch.bfloat16):
            with pytest.raises(ValueError, match="stop"):
                fail_within(backends)
            assert torch.is_autocast_enabled("cpu")
        assert [backend.allow_tf32 for backend in backends] == [allowed, before[1]]
    backends[0].allow_tf32 = before[0]


def types(network, *inputs) -> dict[str, tuple[torch.dtype, torch.dtype]]:
    """Types that go into and come out of every module under bfloat16 autocast."""
    found = {}

    def note(name):
        return lambda module, given, result: found.__setitem__(name, (given[0].dtype, result.dtype))

    for name, module in network.named_modules():
        if not list(module.children()) or hasattr(module, "parametrizations"):
            module.register_forward_hook(note(name))
    with torch.autocast("cpu", torch.bfloat16):
        network(*inputs)
    return found


FLOAT, BF16 = (torch.float32, torch.float32), torch.bfloat16


@pytest.mark.parametrize("has_norm", [True, False])
def test_the_edges_of_the_dac_decoder_are_float32_and_its_inside_is_not(has_norm) -> None:
    spec = {"name": "dac", "sample_rate": 400, "channels": 16, "upsampling_rates": [4, 2]}
    vocoder = build(VOCODERS, {**spec, "weight_norm": has_norm}, 6, 50.0)
    found = types(vocoder, torch.randn(1, 9, 6), torch.zeros(()))
    edges = {name: both for name, both in found.items() if "block" not in name}
    edges = {name: both for name, both in edges.items() if "param" not in name}
    assert set(edges) == {f"decoder.{name}" for name in ("conv1", "conv2", "snake1", "tanh")}
    assert edges.pop("decoder.snake1") == (BF16, torch.float32)  # it sums in float32
    assert set(edges.values()) == {FLOAT}
    # The first block's snake gets the first convolution's float32; all that follows is bfloat16.
    snakes = [both for name, both in found.items() if "block" in name and "snake" in name]
    assert snakes[0] == FLOAT
    assert set(snakes[1:]) == {(BF16, BF16)}


def test_the_edges_of_the_u_net_are_float32() -> None:
    sizes = {"up_factors": [5, 2], "up_channels": [8, 8], "down_channels": [8], "stem_channels": 4}
    config = UNetConfig(condition_channels=8, dilations=[[1, 2, 1, 2]] * 2, fold=1, **sizes)
    found = types(UNet(config), torch.randn(1, 60), torch.randn(1, 8, 6), 1)
    assert found["stem"] == found["last"] == FLOAT
    assert all(given == FLOAT[0] or out == BF16 for given, out in found.values())
    assert sum(out == BF16 for _, out in found.values()) > 10


@pytest.mark.parametrize(
    ("sizes", "channels"),
    [
        ({"name": "multi_period", "channels": [4, 8]}, 1),
        ({"name": "multi_scale", "base_channels": 4, "max_channels": 8}, 1),
        ({"name": "multi_band_stft", "channels": 4}, 2),
    ],
)
def test_discriminators_hear_the_waveform_in_float32(sizes, channels) -> None:
    network = build(DISCRIMINATORS, sizes)
    found = types(network, torch.randn(1, 4096))
    modules = dict(network.named_modules())
    layers = {name: both for name, both in found.items() if hasattr(modules[name], "kernel_size")}
    for name, both in layers.items():
        assert both == FLOAT if modules[name].in_channels == channels else both[1] == BF16, name
    assert {both[1] for both in layers.values()} == {FLOAT[0], BF16}
