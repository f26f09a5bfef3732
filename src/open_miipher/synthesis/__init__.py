"""Text in, speech out: whatever speaks, by name, and whether it said the text."""
