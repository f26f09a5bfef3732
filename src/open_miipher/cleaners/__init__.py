"""Cleaners: the features of damaged audio in, those of clean audio out."""

from open_miipher.base.registry import Registry
from open_miipher.cleaners.band_convolution import BandConvolution
from open_miipher.cleaners.base import Cleaner
from open_miipher.cleaners.conformer import ConformerCleaner
from open_miipher.cleaners.lora import Lora
from open_miipher.cleaners.parallel_adapters import ParallelAdapters

CLEANERS = Registry[Cleaner](
    "cleaner",
    {
        "band_convolution": BandConvolution,
        "conformer": ConformerCleaner,
        "lora": Lora,
        "parallel_adapters": ParallelAdapters,
    },
)

__all__ = ["CLEANERS", "Cleaner"]
