"""Recipes: what one training step is, one file each."""

from open_miipher.recipes.adversarial_vocoder import AdversarialVocoder
from open_miipher.recipes.feature_cleaner import FeatureCleaner
from open_miipher.recipes.parts import PARTS, differing_keys, fill_parts, is_open, overlaid
from open_miipher.recipes.recipe import Batch, Pass, Recipe

RECIPES: dict[str, type[Recipe]] = {
    "feature_cleaner": FeatureCleaner,
    "adversarial_vocoder": AdversarialVocoder,
}

__all__ = [
    "PARTS",
    "RECIPES",
    "Batch",
    "Pass",
    "Recipe",
    "differing_keys",
    "fill_parts",
    "is_open",
    "overlaid",
]
