"""Raw collections of clean speech to shards of degraded pairs."""
