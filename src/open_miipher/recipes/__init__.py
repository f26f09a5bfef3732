"""Recipes: each one defines what a training step is, in a file of its own."""

from collections.abc import Mapping
from typing import Any

from open_miipher.base.errors import UserError
from open_miipher.recipes.adversarial_vocoder import AdversarialVocoder
from open_miipher.recipes.classifier import Classifier
from open_miipher.recipes.codec import Codec
from open_miipher.recipes.diffusion import Diffusion
from open_miipher.recipes.feature_cleaner import FeatureCleaner
from open_miipher.recipes.parts import fill_parts
from open_miipher.recipes.recipe import ParameterGroup, Pass, Recipe, Sound
from open_miipher.recipes.token_tts import TokenTTSRecipe
from open_miipher.recipes.waveform_cleaner import WaveformCleaner

RECIPES: dict[str, type[Recipe[Any]]] = {
    "feature_cleaner": FeatureCleaner,
    "adversarial_vocoder": AdversarialVocoder,
    "waveform_cleaner": WaveformCleaner,
    "classifier": Classifier,
    "diffusion": Diffusion,
    "codec": Codec,
    "token_tts": TokenTTSRecipe,
}


def recipe_class(model: Mapping[str, Any]) -> type[Recipe[Any]]:
    """Return the recipe that `model.recipe` names.

    Args:
        model: the `model` part of a configuration.

    Raises:
        UserError: no recipe has that name.
    """
    name = model.get("recipe")
    if name not in RECIPES:
        raise UserError(f"model.recipe={name} is unknown; choose one of {', '.join(RECIPES)}")
    return RECIPES[name]


def named_output_dir(model: Mapping[str, Any]) -> str | None:
    """Return where a run goes that the recipe names and `trainer.output_dir` does not; or None."""
    name = recipe_class(model).run_name(model)
    return None if name is None else f"output/{name}"


__all__ = [
    "RECIPES",
    "ParameterGroup",
    "Pass",
    "Recipe",
    "Sound",
    "fill_parts",
    "named_output_dir",
    "recipe_class",
]
