"""The corpus run that speaks a set of texts, and turns what is said into tokens."""
