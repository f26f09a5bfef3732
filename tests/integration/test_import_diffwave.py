"""Published WaveNets, imported: the same guess, or one sentence."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from public_wavenet import Public

from open_miipher.checkpoint import Checkpoint

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning"),
]


def run(path: Path, output_dir: Path, capsys) -> tuple[int, str]:
    script = str(ROOT / "src/import_checkpoint.py")
    arguments = ["--kind", "diffwave", "--path", str(path), "--output-dir", str(output_dir)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *arguments])
        patch.setattr(sys, "path", list(sys.path))
        with pytest.raises(SystemExit) as end:
            runpy.run_path(script, run_name="__main__")
    return end.value.code, capsys.readouterr().err


@pytest.fixture(scope="module")
def public():
    torch.manual_seed(0)
    return Public().eval()


def test_the_guess_is_that_of_the_original(public, tmp_path, capsys):
    path, out = tmp_path / "1000000.pkl", tmp_path / "out"
    torch.save({"iter": 1000000, "model_state_dict": public.state_dict()}, path)
    assert run(path, out, capsys)[0] == 0
    ours = Checkpoint.open(out).build("backbone").eval()
    x, steps = torch.randn(2, 1, 3000), torch.tensor([3.0, 150.0])
    with torch.no_grad():
        torch.testing.assert_close(ours(x, steps), public(x, steps), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("final_conv.2.conv.bias"), "lacks final_conv.2.conv.bias"),
        (lambda s: s.update(more=torch.zeros(1)), "has more, which no WaveNet has"),
        (lambda s: s.update({"d_layers.0.norm1.m": torch.zeros(1)}), "is a SaShiMi: .* before"),
        (
            lambda s: s.update(
                {"residual_layer.residual_blocks.0.mel_conv.conv.bias": torch.zeros(1)}
            ),
            "is a vocoder, which hears the mels of another program",
        ),
        (lambda s: s.update({"final_conv.2.conv.bias": "text"}), "must hold tensors by name"),
        (lambda s: s.clear(), "holds no WaveNet of the public DiffWave code"),
        (
            lambda s: s.update({"residual_layer.residual_blocks.30.fc_t.bias": torch.zeros(1)}),
            "has 31 layers; the published models have 30 or 36",
        ),
    ],
)
def test_anything_else_is_refused_in_a_sentence(public, change, words, tmp_path, capsys):
    import re

    state = dict(public.state_dict())
    change(state)
    torch.save({"model_state_dict": state}, tmp_path / "x.pkl")
    status, said = run(tmp_path / "x.pkl", tmp_path / "out", capsys)
    assert status == 2
    assert re.search(words, said), said
    assert not (tmp_path / "out").exists()
