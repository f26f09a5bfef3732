"""Waveforms in and out of files, their rates, spectra, chunks and levels."""
