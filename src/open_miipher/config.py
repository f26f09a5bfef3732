"""Configuration: the one module that knows Hydra."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from open_miipher.base.errors import UserError
from open_miipher.base.registry import build, from_mapping
from open_miipher.checkpoint import Checkpoint, complete_checkpoints
from open_miipher.corpus.preprocessing import (
    Preprocessing,
    PreprocessingData,
    PreprocessingOptions,
)
from open_miipher.data import DATA
from open_miipher.recipes import PARTS, differing_keys, is_open, overlaid
from open_miipher.training import AUTO, OptimizerConfig, Run, TrainerConfig

CONFIG_DIR = Path(__file__).resolve().parents[2] / "config"
# Says how to go on and does not describe the run: a resume neither keeps nor compares it.
_RESUME_KEY = "trainer.ckpt_dir"
# Where a run's first weights came from: a resume takes none from there any more.
_SOURCE_KEYS = ("trainer.init_from", "model.cleaner_ckpt_dir", "model.vocoder_ckpt_dir")


def compose_run(overrides: Sequence[str]) -> Run:
    """Compose a run from command-line overrides, and from a checkpoint's if one is resumed.

    On resume the saved overrides are composed first and then the new ones, so that groups may be
    overridden too. What was empty (null) and was filled when the run started, stays filled. With
    `trainer.ckpt_dir=auto` the run in `trainer.output_dir` goes on, or starts if there is none.

    Raises:
        UserError: an unknown group, key or value; or the configuration files changed since the
            checkpoint in keys that the command line does not set.
    """
    ckpt_dir = dict(map(_parse, overrides)).get(_RESUME_KEY)
    kept = [o for o in overrides if _parse(o)[0] != _RESUME_KEY]
    checkpoint = _resumed(ckpt_dir, kept)
    if checkpoint is None:
        plain = compose_plain(kept)
    else:
        plain, kept = _compose_resumed(checkpoint, kept)
    plain["trainer"]["ckpt_dir"] = ckpt_dir
    return Run(
        name=plain["name"],
        data=build(DATA, plain["data"], key="data"),
        model=plain["model"],
        optimizers={
            network: from_mapping(OptimizerConfig, values, f"optimizer.{network}")
            for network, values in plain["optimizer"].items()
        },
        trainer=from_mapping(TrainerConfig, plain["trainer"], "trainer"),
        plain=plain,
        overrides=kept,
        resumed=checkpoint,
    )


def _resumed(ckpt_dir: Any, kept: Sequence[str]) -> Checkpoint | None:
    """Open the checkpoint to go on from; for `auto` the newest complete one of the run itself."""
    if ckpt_dir is None:
        return None
    if ckpt_dir != AUTO:
        return Checkpoint.open(str(ckpt_dir))
    output_dir = compose_plain(kept)["trainer"]["output_dir"]
    if output_dir is None:
        raise UserError(
            "trainer.ckpt_dir=auto goes on with the run in trainer.output_dir, which must be given"
        )
    complete = complete_checkpoints(Path(output_dir) / "ckpt")
    return Checkpoint.open(complete[-1]) if complete else None


def compose_preprocessing(overrides: Sequence[str]) -> Preprocessing:
    """Compose `config/preprocess.yaml` with overrides.

    Raises:
        UserError: an unknown group, key or value.
    """
    plain = compose_plain(overrides, "preprocess")
    return Preprocessing(
        from_mapping(PreprocessingData, plain["data"], "data"),
        from_mapping(PreprocessingOptions, plain["preprocess"], "preprocess"),
        plain,
    )


def compose_plain(overrides: Sequence[str], root: str = "train") -> dict[str, Any]:
    """Compose `config/train.yaml`, or another root, with overrides into resolved plain data.

    Raises:
        UserError: an unknown group, key or value.
    """
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_DIR)):
            config = compose(root, overrides=list(overrides))
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        message = " ".join(str(error).split()).split(" Config search path:")[0]
        raise UserError(f"the configuration does not compose: {message}") from error
    return cast(dict[str, Any], plain)


def _compose_resumed(
    checkpoint: Checkpoint, new: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    saved_overrides = checkpoint.state["overrides"]
    merged = merge_overrides(saved_overrides, new)
    saved = checkpoint.config
    before, now = (
        _with_parts(compose_plain(overrides), saved) for overrides in (saved_overrides, merged)
    )
    given = {key for key, _ in map(_parse, new) if key in _SOURCE_KEYS}
    other = given.intersection(differing_keys(saved, now))  # the same command again is welcome
    if other:
        raise UserError(
            f"{', '.join(sorted(other))} has no use on resume: the checkpoint holds the networks "
            "that the run started from; start another run with trainer.init_from=… to change them"
        )
    own = (_RESUME_KEY, *_SOURCE_KEYS)
    asked = [*own, *(_parse(o)[0] for o in new), *differing_keys(before, now)]
    changed = [
        key
        for key in differing_keys(saved, before)
        if not _is_filled(before, key)
        and not any(key == a or key.startswith(f"{a}.") for a in asked)
    ]
    if changed:
        raise UserError(
            f"{', '.join(changed)} differ between {checkpoint.path} and the configuration files; "
            "give each on the command line with the value to go on with"
        )
    return _fill(now, before, saved), merged


def _with_parts(plain: dict[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """Fill the parts of the model that the configuration leaves open with those of the run."""
    model = plain["model"]
    parts = {
        part: overlaid(saved["model"][part], model[part])
        for part in PARTS
        if part in model and is_open(part, model[part]) and saved["model"].get(part)
    }
    return {**plain, "model": {**model, **parts}}


def merge_overrides(saved: Sequence[str], new: Sequence[str]) -> list[str]:
    """Return the saved overrides, less those that a new one replaces, and the new ones."""
    replaced = {_parse(override)[0] for override in new}
    return [o for o in saved if _parse(o)[0] not in replaced] + list(new)


def _parse(override: str) -> tuple[str, Any]:
    """Return what an override sets (`key`, or `group@package`) and its value."""
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException as error:
        message = " ".join(str(error).split())
        raise UserError(f"{override!r} is not an override (key=value): {message}") from error
    key = f"{parsed.key_or_group}@{parsed.package}" if parsed.package else parsed.key_or_group
    return key, parsed.value()


def _is_filled(composed: Any, key: str) -> bool:
    """Whether the composed configuration leaves this key, or one above it, empty (null)."""
    node = composed
    for name in key.split("."):
        if not isinstance(node, Mapping) or name not in node:
            return False
        node = node[name]
        if node is None:
            return True
    return False


def _fill(now: Any, before: Any, saved: Any) -> Any:
    """Fill what both the old and the new overrides leave empty with what the run had."""
    if now is None and before is None:
        return saved
    if not isinstance(now, Mapping):
        return now
    before, saved = (x if isinstance(x, Mapping) else {} for x in (before, saved))
    return {
        name: _fill(value, before.get(name, value), saved.get(name, value))
        for name, value in now.items()
    }
