import pytest
import torch

from open_miipher.base.errors import UserError
from open_miipher.layers.conformer import ConformerBlock


@pytest.fixture
def block():
    torch.manual_seed(0)
    return ConformerBlock(16, 4, 5, 32, 0.0)


def test_padding_changes_nothing(block):
    x = torch.randn(3, 20, 16)
    lengths = torch.tensor([20, 7, 1])
    mask = torch.arange(20)[None] < lengths[:, None]
    together = block(x.masked_fill(~mask[:, :, None], 100.0), mask)
    for row, length in enumerate(lengths.tolist()):
        alone = block(x[row : row + 1, :length])
        torch.testing.assert_close(together[row : row + 1, :length], alone, atol=1e-5, rtol=1e-5)


def test_no_position_shift_of_the_whole_clip(block):
    """Far from the ends, a repeated pattern is answered alike at every repetition."""
    pattern = torch.randn(1, 4, 16)
    y = block(pattern.repeat(1, 10, 1))
    torch.testing.assert_close(y[:, 8:12], y[:, 24:28], atol=1e-5, rtol=1e-5)


def test_every_parameter_gets_a_gradient(block):
    block(torch.randn(2, 6, 16), torch.ones(2, 6, dtype=torch.bool)).square().mean().backward()
    missing = [name for name, p in block.named_parameters() if p.grad is None]
    assert missing == []


def test_runs_under_bfloat16_autocast(block):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = block(torch.randn(2, 6, 16), torch.ones(2, 6, dtype=torch.bool))
    assert y.shape == (2, 6, 16)
    assert torch.isfinite(y).all()


def test_wrong_sizes_are_refused():
    with pytest.raises(UserError, match="odd"):
        ConformerBlock(16, 4, 4, 32)
    with pytest.raises(UserError, match="multiple"):
        ConformerBlock(16, 3, 5, 32)
