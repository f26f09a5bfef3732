"""Texts with the tokens of speech that says them, made once by a codec (see `token_store`)."""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from open_miipher.base.amounts import counted, duration
from open_miipher.base.errors import UserError, notice
from open_miipher.base.paths import printable
from open_miipher.codec import AudioTokenizer
from open_miipher.data.batch import TokenBatch, TokenSample
from open_miipher.data.config import TokensConfig
from open_miipher.data.files import File, Files, open_files, warn_of_shared
from open_miipher.data.order import Order
from open_miipher.data.source import FailureLimit, broken_limit
from open_miipher.data.token_store import TEXT, TokenJob, TokenStore, make_tokens
from open_miipher.distributed import World, is_first_here
from open_miipher.synthesis.text import check_language, text_ids


class TokenDataset:
    """Utterances with their tokens; which one a place of an epoch has depends on nothing else.

    Args:
        store: of the tokens.
        order: of its items in the endless stream.
        max_broken: share of broken samples that is allowed; there are none.
    """

    def __init__(self, store: TokenStore, order: Order, max_broken: float) -> None:
        self.store, self.order, self.fingerprint = store, order, store.folder.name
        self.failure_limits: Sequence[FailureLimit] = (broken_limit(max_broken),)

    @property
    def num_items(self) -> int:
        """Samples per epoch."""
        return len(self.store)

    @property
    def described(self) -> str:
        """See `Dataset.described`."""
        store = self.store
        copies = "" if store.num_copies == 1 else f", each {store.num_copies} times"
        return f"{counted(store.num_utterances, 'utterances')}, {duration(store.seconds)}{copies}"

    def __getitem__(self, position: int) -> TokenSample:
        """Read the sample at a position of the endless stream."""
        epoch, item = self.order.at(position)
        number = self.store.utterance(item)
        name = self.store.names[number].decode("utf-8", "surrogateescape")
        text = text_ids(self.store.texts[number])
        return TokenSample(text, self.store.codes(item), f"{name} epoch {epoch} index {item}")

    def collate(self, samples: Sequence[tuple[int, TokenSample]]) -> TokenBatch:
        """Join samples; see `Dataset.collate`."""
        return TokenBatch.join(samples)


class Tokens:
    """`data.name=tokens`: indexed directories whose metadata.csv has a column `text`.

    Args:
        config: all of `data`.
    """

    Config: ClassVar[type] = TokensConfig
    batch_type = TokenBatch
    validation_key = "data.test.dir_list"

    def __init__(self, config: TokensConfig) -> None:
        self.config = config
        self._device = torch.device("cpu")
        self._stores: dict[str, TokenStore] = {}

    @cached_property
    def tokenizer(self) -> AudioTokenizer:
        """The codec, on the device of `make`."""
        return AudioTokenizer.from_config(self.config.codec, self._device)

    @property
    def num_frames(self) -> int:
        """The most frames of an utterance."""
        return round(self.config.seconds * self.tokenizer.frame_rate)

    @property
    def longest_text(self) -> int:
        """Bytes of the longest text that is trained on; known after `make`."""
        return self._stores["train"].longest_text

    def make(self, output_dir: Path, world: World, say: Callable[[str], None]) -> None:
        """Make the tokens that are not there yet; see `MadeFirst`."""
        config, self._device = self.config, world.device
        world.agree(config.check)
        world.agree(lambda: check_language(config.normalize_text, "data.normalize_text"))
        world.agree(lambda: self.tokenizer)
        folder = output_dir / "tokens" if config.tokens_dir is None else Path(config.tokens_dir)
        for part in ("train", "test") if config.test.dir_list else ("train",):
            job = world.agree(partial(self._job, part, folder))
            self._stores[part] = make_tokens(job, world, say)
            _tell_left_out(self._stores[part], f"data.{part}.dir_list")

    def train(self, seed: int) -> TokenDataset:
        """Return the training data; see `DataSource.train`. `make` comes first."""
        store = self._stores["train"]
        return TokenDataset(store, Order(len(store), seed), self.config.max_broken_samples)

    def validation(self, seed: int) -> TokenDataset | None:
        """Return utterances evenly spaced in the index; None without directories."""
        store = self._stores.get("test")
        if store is None:
            return None
        order = Order(len(store), seed, shuffle=False)
        return TokenDataset(store, order, self.config.max_broken_samples)

    def chosen(self, part: str) -> tuple[Files, np.ndarray]:
        """Return the files of a part, `train` or `test`, and the numbers of those that may be used.

        Those have a text, and are not dropped for their length.

        Raises:
            UserError: a directory or its index is missing or wrong, or there are none.
        """
        dir_list = (self.config.train if part == "train" else self.config.test).dir_list
        key, seconds = f"data.{part}.dir_list", self.config.seconds
        if not dir_list:
            raise UserError(f"{key} is empty; give it directories of speech with texts")
        files = open_files(dir_list, key, self.tokenizer.sample_rate)
        if TEXT not in files[0].entry.extra:
            root = printable(files[0].root)
            raise UserError(
                f"{root} ({key}) has no column text in its metadata.csv: add one, or take over "
                "that of another table: python dataset/script/make_metadata_csv.py --root-dir "
                f"{root} --ljspeech-texts, or --merge-columns"
            )
        numbers, without, long = [], 0, 0
        for number in range(len(files)):
            file = files[number]
            if not file.entry.extra.get(TEXT, "").strip():
                without += 1
            elif self.config.long_text == "drop" and self._is_long(file):
                long += 1
            else:
                numbers.append(number)
        if not numbers:
            raise UserError(
                f"no file of {key} can be used: {without} of {len(files)} have no text, and {long} "
                f"are longer than data.seconds={seconds:g}; raise data.seconds, or set "
                "data.long_text=cut_at_pause"
            )
        problems = {"have no text": without, f"are longer than data.seconds={seconds:g}": long}
        for what, count in problems.items() if is_first_here() else ():
            if count:
                notice(
                    f"{count} of {len(files)} files of {key} {what}: they are left out",
                )
        return files, np.array(numbers)

    def _is_long(self, file: File) -> bool:
        """Whether a file is longer than the model can say."""
        tokenizer = self.tokenizer
        return file.num_samples(tokenizer.sample_rate) > self.num_frames * tokenizer.hop

    def _job(self, part: str, folder: Path) -> TokenJob:
        """Say what tokens are to be made, and where.

        Raises:
            UserError: there are no utterances.
        """
        config, copies = self.config, self.config.augmentation_factor
        files, numbers = self.chosen(part)
        if part == "test":
            copies, count = 1, min(config.test.num_clips, len(numbers))
            numbers = numbers[[k * len(numbers) // count for k in range(count)]]
            if config.train.dir_list and is_first_here():
                warn_of_shared([files[int(n)] for n in numbers], Files(config.train.dir_list))
        return TokenJob(files, numbers, copies, self.tokenizer, config, self.num_frames, folder)


def _tell_left_out(store: TokenStore, key: str) -> None:
    """Warn of what got no tokens."""
    for what, count in store.left_out.items() if is_first_here() else ():
        notice(f"{count} files of {key} {what}: they are left out")
