"""The resumable map over a corpus; what it is used for has a package each."""

from open_miipher.corpus.run import on_main, run
from open_miipher.corpus.shard import Shard

__all__ = ["Shard", "on_main", "run"]
