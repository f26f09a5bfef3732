"""Recipes: what one training step is, one file each."""

from typing import Any

from open_miipher.recipes.adversarial_vocoder import AdversarialVocoder
from open_miipher.recipes.feature_cleaner import FeatureCleaner
from open_miipher.recipes.parts import fill_parts
from open_miipher.recipes.recipe import ParameterGroup, Pass, Recipe, Sound
from open_miipher.recipes.waveform_cleaner import WaveformCleaner

RECIPES: dict[str, type[Recipe[Any]]] = {
    "feature_cleaner": FeatureCleaner,
    "adversarial_vocoder": AdversarialVocoder,
    "waveform_cleaner": WaveformCleaner,
}

__all__ = ["RECIPES", "ParameterGroup", "Pass", "Recipe", "Sound", "fill_parts"]
