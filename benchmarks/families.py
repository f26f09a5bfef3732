"""The three stages that belong together, by the names of their configurations."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from open_miipher.base.errors import UserError
from open_miipher.config import CONFIG_DIR


def first_stages(model: str) -> tuple[str, str]:
    """Return the models of stages 1 and 2 of the family (demo, miipher2, sidon) of a model.

    Of two vocoders in the family, stage 2 has the model's own; of a stage 1, the first by name.
    """
    family = model.partition("_")[0]
    names = {path.stem for path in (CONFIG_DIR / "model").glob(f"{family}_*.yaml")}
    if model not in names:
        known = sorted(path.stem for path in (CONFIG_DIR / "model").glob("*.yaml"))
        raise UserError(f"--model {model}: choose one of {', '.join(known)}")
    cleaner = next(name for name in names if name.startswith(f"{family}_feature_"))
    own = re.sub("_(pretrain|finetune)$", "", model) + "_pretrain"
    first = min(name for name in names if name.endswith("_pretrain"))
    return cleaner, own if own in names else first
