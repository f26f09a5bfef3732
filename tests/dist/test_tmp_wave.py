import importlib.util, pytest
from pathlib import Path
spec = importlib.util.spec_from_file_location("g", Path(__file__).parent / "test_gradients.py")
g = importlib.util.module_from_spec(spec); spec.loader.exec_module(g)
pytestmark = pytest.mark.dist
def test_it(torchrun, tiny_stages, tmp_path):
    for precision, relative in (("single", 1e-5), ("double", 1e-10)):
        (tmp_path / precision).mkdir()
        g.run(torchrun, tmp_path / precision, {"waveform": [*tiny_stages["waveform"], g.SIX]}, precision)
        for ranks in (2, 3):
            g.check(tmp_path / precision, "waveform", ranks, relative=relative, zeros=precision == "single")
