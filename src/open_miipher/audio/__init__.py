"""Read and write audio files; resample, analyse, chunk and level waveforms."""
