"""How a `TokenTTS` speaks: code by code, by draws or beams, each item by itself."""

from dataclasses import dataclass

import torch
from torch import Tensor

from open_miipher.base.errors import report
from open_miipher.base.noise import gumbel_noise, stream_keys
from open_miipher.synthesis.token_tts import Cache, TokenTTS


@dataclass(frozen=True)
class SamplingConfig:
    """How codes are chosen.

    Attributes:
        num_beams: beginnings that are followed at once; the likeliest whole one is taken, by the
            mean of its codes.
        do_sample: draw codes at random; else the likeliest are taken, and `temperature` and
            `top_k` count for nothing.
        temperature: above 1 for more varied draws, below for surer ones.
        top_k: draw among so many codes only; None: among all.
        max_new_tokens: the most codes, cut to whole frames; None: as many as the model can say.
        seed: of the draws.
    """

    num_beams: int = 1
    do_sample: bool = True
    temperature: float = 1.0
    top_k: int | None = None
    max_new_tokens: int | None = None
    seed: int = 0

    def check(self, network: TokenTTS) -> None:
        """Check that the numbers are in range.

        Raises:
            UserError: some are not.
        """
        most, asked = network.num_frames * network.codebooks, self.max_new_tokens
        rules = {
            f"num_beams must lie within 1 … {network.codebook_size}": (
                1 <= self.num_beams <= network.codebook_size
            ),
            "temperature must be above 0": 0 < self.temperature < float("inf"),
            "top_k must be at least 1, or None": self.top_k is None or self.top_k >= 1,
            f"max_new_tokens must lie within {network.codebooks} … {most}, or be None": (
                asked is None or network.codebooks <= asked <= most
            ),
            "seed must lie within 0 … 2^63 - 1": 0 <= self.seed < 2**63,
        }
        report([rule for rule, kept in rules.items() if not kept])


@torch.no_grad()
def sample(
    network: TokenTTS, text: Tensor, text_lengths: Tensor, items: Tensor, config: SamplingConfig
) -> list[Tensor]:
    """Say texts.

    With beams, `num_beams` beginnings of each text go on at every step with the codes that make
    them the likeliest, or, by draws, with as many drawn without replacement (their log-probability
    plus Gumbel noise; Kool et al. 2019, arXiv 1903.06059). One beam is thus plain sampling, or
    greedy search. A text is done when `num_beams` of its speeches have ended.

    Args:
        network: in evaluation mode.
        text: (batch, bytes) int64, ids.
        text_lengths: (batch,) int64.
        items: (batch,) int64, numbers: draws depend on the seed and these alone.
        config: how.

    Returns:
        For each text, (frames, codebooks) int64 on the CPU, at least one frame.
    """
    config.check(network)
    books, beams, device = network.codebooks, config.num_beams, text.device
    most = config.max_new_tokens or network.num_frames * books
    most -= most % books
    batch = len(text)
    cache = Cache(network, text, text_lengths, most, beams)
    first_rows = torch.arange(batch, device=device)[:, None] * beams
    said = torch.zeros(batch, beams, most, dtype=torch.int64, device=device)
    scores = torch.full((batch, beams), float("-inf"), device=device)
    scores[:, 0] = 0.0  # all beams begin alike: one counts
    ends = _Ends(batch, beams, device)
    codes = None
    for place in range(most):
        logits = network.step(codes, cache).view(batch, beams, -1)
        if place == 0:
            logits[..., -1] = float("-inf")  # at least one frame
        keys = stream_keys(config.seed, items.to(device), place)
        totals, ranks = _totals(logits, scores, keys, config)
        count = min(2 * beams, ranks.shape[1])
        chosen = ranks.topk(count).indices
        kind = chosen % logits.shape[-1]
        is_end = (kind == network.codebook_size) & (place % books == 0)
        values = totals.gather(1, chosen)
        parents = chosen // logits.shape[-1]
        first = torch.arange(count, device=device) < beams
        ends.add(is_end & first & values.isfinite(), values, said, parents, place)
        if place % books == 0 and bool(ends.is_done.all()):
            break
        # The first that go on; those that end stand behind them.
        order = torch.arange(count, device=device) + count * is_end
        going = order.topk(beams, largest=False, sorted=True).indices
        scores = values.gather(1, going).masked_fill(is_end.gather(1, going), float("-inf"))
        parents = parents.gather(1, going)
        next_codes = kind.gather(1, going).clamp(max=network.codebook_size - 1)
        if beams > 1:
            cache.choose((first_rows + parents).flatten())
            said = said.gather(1, parents[..., None].expand_as(said))
        said[:, :, place] = next_codes
        codes = next_codes.flatten()
    ends.add(
        scores.isfinite() & ~ends.is_done[:, None],
        scores,
        said,
        torch.arange(beams, device=device).expand(batch, -1),
        most,
    )
    return [
        row[:length].view(-1, books)
        for row, length in zip(ends.best.cpu(), ends.lengths.tolist(), strict=True)
    ]


class _Ends:
    """The best whole speech of each text so far.

    Attributes:
        best: (batch, places) int64, its codes.
        lengths: (batch,) int64, how many there are.
        is_done: (batch,) bool, whether enough speeches have ended.
    """

    def __init__(self, batch: int, beams: int, device: torch.device) -> None:
        self._beams = beams
        self._means = torch.full((batch,), float("-inf"), device=device)
        self._counts = torch.zeros(batch, dtype=torch.int64, device=device)
        self.lengths = torch.zeros(batch, dtype=torch.int64, device=device)
        self.best = torch.zeros(batch, 0, dtype=torch.int64, device=device)

    @property
    def is_done(self) -> Tensor:
        return self._counts >= self._beams

    def add(
        self, is_end: Tensor, totals: Tensor, said: Tensor, parents: Tensor, length: int
    ) -> None:
        """Take speeches that end.

        Args:
            is_end: (batch, candidates) bool.
            totals: (batch, candidates), their log-probabilities.
            said: (batch, beams, places), all codes.
            parents: (batch, candidates), the beams that end.
            length: codes of each.
        """
        if not self.best.shape[1]:
            self.best = torch.zeros_like(said[:, 0])
        is_end = is_end & ~self.is_done[:, None]
        means = (totals / max(1, length)).masked_fill(~is_end, float("-inf"))
        mean, candidate = means.max(1)
        beam = parents.gather(1, candidate[:, None])
        speech = said.gather(1, beam[..., None].expand(-1, 1, said.shape[2]))[:, 0]
        is_better = mean > self._means
        self.best = torch.where(is_better[:, None], speech, self.best)
        self.lengths = torch.where(is_better, length, self.lengths)
        self._means = torch.where(is_better, mean, self._means)
        self._counts += is_end.sum(1)


def _totals(
    logits: Tensor, scores: Tensor, keys: Tensor, config: SamplingConfig
) -> tuple[Tensor, Tensor]:
    """Return log-probabilities of beginnings that are one code longer, and what ranks them.

    Args:
        logits: (batch, beams, codes) of the next code.
        scores: (batch, beams) log-probabilities so far.
        keys: (batch,) of this step's draws.
        config: how codes are chosen.

    Returns:
        Two of (batch, beams · codes).
    """
    if config.do_sample:
        logits = logits / config.temperature
        if config.top_k is not None and config.top_k < logits.shape[-1]:
            least = logits.topk(config.top_k).values[..., -1:]
            logits = logits.masked_fill(logits < least, float("-inf"))
    totals = (scores[..., None] + logits.log_softmax(-1)).flatten(1)
    if not config.do_sample:
        return totals, totals
    return totals, totals + gumbel_noise(keys, totals.shape[1])
