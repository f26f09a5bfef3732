"""Samples of codec tokens in shards: KEY.npy, uint16 (frames, codebooks), and what is known of it.

KEY.json says which codec made the tokens (`codec`, its fingerprint, and `bandwidth`), of what
(`file`, `seconds`, `sample_rate`, `num_samples`), and whatever the index of the audio says besides
(`text`, …).
"""

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable
from open_miipher.shards.archive import ShardError, read_samples


@dataclass(frozen=True)
class Tokens:
    """The tokens of a recording.

    Attributes:
        name: KEY and the rest of the member's name but its extension.
        codes: (frames, codebooks) uint16; row by row, that is the order in time.
        about: what KEY.json says.
    """

    name: str
    codes: np.ndarray
    about: Mapping[str, Any]


def encode_codes(codes: np.ndarray) -> bytes:
    """Return the content of a .npy of (frames, codebooks) tokens, as uint16."""
    data = io.BytesIO()
    np.save(data, codes.astype(np.uint16), allow_pickle=False)
    return data.getvalue()


def read_tokens(file: BinaryIO, name: str, codec: str | None = None) -> Iterator[Tokens]:
    """Read the tokens of a shard, in order.

    Args:
        file: the shard, open for reading.
        name: of the shard, for messages.
        codec: the fingerprint that the tokens must be of; None: any.

    Raises:
        ShardError: the shard is damaged, or a sample holds no tokens.
        UserError: tokens are of another codec.
    """
    for sample in read_samples(file, name):
        stems = [m.removesuffix("npy") for m in sample.members if m.rpartition(".")[2] == "npy"]
        place = printable(f"{name}/{sample.key}")
        if not stems:
            raise ShardError(f"{place} holds no tokens (npy)")
        for stem in stems:
            try:
                codes = np.load(io.BytesIO(sample.members[f"{stem}npy"]), allow_pickle=False)
                about = json.loads(sample.members[f"{stem}json"])
            except (KeyError, ValueError, EOFError) as error:
                raise ShardError(f"{place}: {stem}npy and {stem}json are no tokens") from error
            if codes.ndim != 2 or codes.dtype != np.uint16 or "codec" not in about:
                raise ShardError(f"{place}.{stem}npy holds no tokens of a codec")
            if codec not in (None, about["codec"]):
                raise UserError(
                    f"{place} has tokens of the codec {about['codec']}, and those of {codec} are "
                    "needed; tokenise again with this codec and bandwidth"
                )
            yield Tokens(f"{sample.key}.{stem}".rstrip("."), codes, about)
