"""Open-Miipher-2: train, resume and run speech-restoration models."""

__version__ = "0.2.0"
