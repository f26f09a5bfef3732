"""Cleaners: the features of damaged audio in, those of clean audio out."""

from open_miipher.cleaners.base import Cleaner
from open_miipher.cleaners.conformer import ConformerCleaner
from open_miipher.cleaners.lora import Lora
from open_miipher.cleaners.parallel_adapters import ParallelAdapters

CLEANERS: dict[str, type[Cleaner]] = {
    "conformer": ConformerCleaner,
    "lora": Lora,
    "parallel_adapters": ParallelAdapters,
}

__all__ = ["CLEANERS", "Cleaner"]
