"""How good a restoration is: distances, plain tables, spectrogram pictures."""
