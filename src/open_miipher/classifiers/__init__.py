"""Classifiers: clips of one length -> labels. One is chosen by its name in `CLASSIFIERS`."""

from open_miipher.base.registry import Registry
from open_miipher.classifiers.convolutional import Convolutional

__all__ = ["CLASSIFIERS", "Convolutional"]

CLASSIFIERS = Registry[Convolutional]("classifier", {"convolutional": Convolutional})
