"""src/train.py in float64: what no longer agrees then is no matter of rounding."""

import runpy
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from open_miipher.data import Batch

move = Batch.to


def move_in_double(batch: Batch, device: torch.device) -> Batch:
    return move(batch, device)._map(lambda t: t.double() if t.is_floating_point() else t)


torch.set_default_dtype(torch.float64)
torch.Tensor.float = torch.Tensor.double  # what asks for float32 gets float64 too
Batch.to = move_in_double
runpy.run_path(f"{sys.path[0]}/train.py", run_name="__main__")
