"""The resumable map over a corpus, and what it is used for: restoring and preprocessing."""
