"""What stands between convolutions: a kernel in Triton's interpreter and for a GPU's compiler."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from open_miipher.base.compilers import missing_for_kernels
from open_miipher.layers.pointwise import Snake, fuse

SOURCE = Path(__file__).parents[2] / "src"

INTERPRETED = """
import itertools
import torch
from torch.nn import Parameter
from open_miipher.layers.pointwise import Pointwise, Snake, activate

torch.manual_seed(0)
snake = Snake(Parameter(torch.tensor([0.0, 0.1, 1.0, 3.0, -2.0])[None, :, None]))
yes_or_no = (False, True)
for layer, samples, dtype, side_by_side, has_bias, has_shortcut, has_film in itertools.product(
    (snake, Pointwise(slope=0.2)), (1, 300), (torch.float32, torch.bfloat16), *[yes_or_no] * 4
):
    x, shortcut, scale, shift = (3 * torch.randn(4, 2, samples, 5)).to(dtype).mT
    film = torch.cat([scale, shift], 1) if has_film else None
    if not side_by_side:
        x = x.contiguous()
    shortcut = shortcut if has_shortcut else None
    layer.bias = Parameter(torch.randn(5)) if has_bias else None
    in_full = [None if y is None else y.float() for y in (shortcut, film)]
    with torch.no_grad():
        exact, activated = layer.with_sum(x.float(), *in_full)
        own = (layer.alpha, layer.bias, shortcut, film, layer.slope)
        found, total = activate(x, *own, has_shortcut, torch.float32)
    assert found.stride() == x.stride()
    torch.testing.assert_close(found, activated, atol=2e-5, rtol=1e-5)
    assert total.dtype == dtype and total.numel() == (x.numel() if has_shortcut else 0)
    if has_shortcut:
        torch.testing.assert_close(total.float(), exact, atol=1e-6, rtol=2**-7)
print("all as in plain torch")
"""

COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from open_miipher.layers.pointwise_kernel import kernel

tensors = ("x", "alpha", "bias", "shortcut", "film", "activated", "total")
numbers = {"size": "i64", "stride": "i32", "slope": "fp32", "smallest": "fp32"}
types = dict.fromkeys(tensors, "*bf16") | numbers
fixed = {"CHANNELS": 48, "BLOCK": 1024}
for absent in (dict.fromkeys(tensors[1:5] + tensors[6:]), {"alpha": None}, {"stride": 1}):
    constants = fixed | absent
    signature = types | dict.fromkeys(constants, "constexpr")
    signature = {name: signature[name] for name in kernel.arg_names}
    placed = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, placed)
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]
print("it compiles")
"""

MISSING = missing_for_kernels("cuda")
needs_triton = pytest.mark.skipif(MISSING is not None, reason=f"needs {MISSING}")


def run(script: str, tmp_path: Path, **environment: str) -> str:
    environment = {"PYTHONPATH": str(SOURCE), "TRITON_CACHE_DIR": str(tmp_path), **environment}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_triton
def test_the_kernel_computes_what_plain_torch_does(tmp_path):
    """In Triton's interpreter, which runs it on the CPU."""
    assert "all as in plain torch" in run(INTERPRETED, tmp_path, TRITON_INTERPRET="1")


@needs_triton
def test_the_kernel_compiles_for_an_h200(tmp_path):
    assert "it compiles" in run(COMPILED, tmp_path)


def test_a_snake_takes_over_the_bias_of_the_convolution_before_it():
    torch.manual_seed(0)
    convolution, snake = nn.Conv1d(3, 4, 5), Snake(nn.Parameter(torch.rand(1, 4, 1)))
    x, shortcut = torch.randn(2, 3, 20), torch.randn(2, 4, 16)
    with torch.no_grad():
        total = shortcut + convolution(x)
        activated = snake(total)
        snake.take_bias(convolution)
        assert convolution.bias is None
        found = snake.with_sum(convolution(x), shortcut)
        torch.testing.assert_close(found, (total, activated))
        torch.testing.assert_close(snake(convolution(x), shortcut), activated)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("side_by_side", [False, True])
@torch.no_grad()
def test_on_a_gpu_it_says_what_it_says_on_the_cpu(dtype, side_by_side):
    torch.manual_seed(0)
    snake = Snake(nn.Parameter(torch.rand(1, 48, 1) + 0.1))
    snake.bias = nn.Parameter(torch.randn(48))
    x, shortcut = (3 * torch.randn(2, 2, 1500, 48)).to(dtype).mT
    if not side_by_side:
        x = x.contiguous()
    expected = snake.with_sum(x.float(), shortcut.float())
    snake.cuda()
    fuse(snake)
    total, activated = snake.with_sum(x.cuda(), shortcut.cuda())
    assert total.dtype == activated.dtype == dtype
    for found, exact in zip((total, activated), expected, strict=True):
        tolerance = 1e-5 if dtype == torch.float32 else 2**-7
        torch.testing.assert_close(found.float().cpu(), exact, atol=tolerance, rtol=tolerance)
