"""Scores of clips that were generated from nothing, by a classifier that knows the real ones.

FID: Heusel et al. 2017, on the classifier's features. IS: Salimans et al. 2016. mIS: Gurumurthy et
al. 2017. AM: Zhou et al. 2018. NDB: Richardson and Weiss 2018, with bins of the features. As for
SC09 in DiffWave (Kong et al. 2021) and SaShiMi (Goel et al. 2022).
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable
from open_miipher.checkpoint import Checkpoint
from open_miipher.classifiers import Convolutional
from open_miipher.evaluation.metrics import read_mono
from open_miipher.evaluation.results import Summary, summarise
from open_miipher.evaluation.tables import format_table
from open_miipher.index import read_index

SCORES = ("fid", "is", "mis", "am", "ndb")
TEST = "test_"
"""Before the name of a score: of the held-out real clips instead of the generated ones."""

_LEAST = {"fid": 0.0, "is": 1.0, "mis": 1.0, "am": 0.0, "ndb": 0.0}

LEAST_ACCURACY = 0.9
"""Of the classifier; the scores of a worse one say little."""

_BATCH = 64
_RESAMPLES = 500  # of the bootstrap
_BINS, _CLIPS_PER_BIN = 50, 20  # of real clips, at least, for NDB
_SIGNIFICANT = 1.959964  # |z| whose two-sided p is 5 %


@dataclass
class Judged:
    """What the classifier says of clips.

    Attributes:
        log_probabilities: (clips, labels) float64, natural logarithms.
        features: (clips, features) float64.
    """

    log_probabilities: np.ndarray
    features: np.ndarray

    def __len__(self) -> int:
        return len(self.features)

    def take(self, rows: np.ndarray) -> "Judged":
        """Return some of the clips."""
        return Judged(self.log_probabilities[rows], self.features[rows])


def judge(classifier: Convolutional, paths: Sequence[Path]) -> Judged:
    """Classify clips, each cut to the classifier's length or padded with zeros.

    Raises:
        UserError: a file cannot be read.
    """
    logits, features = [], []
    for start in range(0, len(paths), _BATCH):
        clips = [_clip(path, classifier) for path in paths[start : start + _BATCH]]
        with torch.inference_mode():
            hidden = classifier.features(torch.from_numpy(np.stack(clips)))
            logits.append(classifier.head(hidden).double())
            features.append(hidden.double())
    log_probabilities = nn.functional.log_softmax(torch.cat(logits), 1)
    return Judged(log_probabilities.numpy(), torch.cat(features).numpy())


def _clip(path: Path, classifier: Convolutional) -> np.ndarray:
    waveform = read_mono(path, classifier.sample_rate)[0][: classifier.num_samples]
    return np.pad(waveform, (0, classifier.num_samples - len(waveform))).astype(np.float32)


@dataclass
class Moments:
    """Mean and covariance of samples.

    Attributes:
        mean: (features,).
        covariance: (features, features).
    """

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, samples: np.ndarray) -> "Moments":
        """Measure samples (samples, features), at least two."""
        return cls(samples.mean(0), np.atleast_2d(np.cov(samples, rowvar=False)))

    @cached_property
    def root(self) -> np.ndarray:
        """Σ^½."""
        values, vectors = np.linalg.eigh(self.covariance)
        return vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T


def frechet_distance(one: Moments, other: Moments) -> float:
    """Return the Fréchet distance of two Gaussians: ‖μ₁ - μ₂‖² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½)."""
    # Σ₁ Σ₂ has the eigenvalues of the symmetric Σ₁^½ Σ₂ Σ₁^½.
    crossed = np.linalg.eigvalsh(one.root @ other.covariance @ one.root)
    traces = np.trace(one.covariance) + np.trace(other.covariance)
    apart = np.square(one.mean - other.mean).sum()
    return float(apart + traces - 2 * np.sqrt(np.maximum(crossed, 0)).sum())


def inception_score(log_probabilities: np.ndarray) -> float:
    """Return exp E KL(p(y|x) ‖ p(y)): sure labels, all of them; 1 … number of labels."""
    probabilities = np.exp(log_probabilities)
    mean = np.log(probabilities.mean(0))
    return float(np.exp((probabilities * (log_probabilities - mean)).sum(1).mean()))


def modified_inception_score(log_probabilities: np.ndarray) -> float:
    """Return exp E KL(p(y|x) ‖ p(y|x')) over all pairs: sure and different."""
    probabilities = np.exp(log_probabilities)
    own = (probabilities * log_probabilities).sum(1).mean()
    return float(np.exp(own - probabilities.mean(0) @ log_probabilities.mean(0)))


def am_score(log_probabilities: np.ndarray, label_shares: np.ndarray) -> float:
    """Return KL(p*(y) ‖ E p(y|x)) + E H(y|x): lower is better.

    Args:
        log_probabilities: (clips, labels).
        label_shares: (labels,) p*, the share of each label among the real clips.
    """
    probabilities = np.exp(log_probabilities)
    there = label_shares > 0
    wanted, given = label_shares[there], probabilities.mean(0)[there]
    entropy = -(probabilities * log_probabilities).sum(1).mean()
    return float((wanted * np.log(wanted / given)).sum() + entropy)


class Reference:
    """The real clips that others are compared with.

    Args:
        judged: the classifier's words on them.
        labels: (clips,) their labels.
    """

    def __init__(self, judged: Judged, labels: np.ndarray) -> None:
        from scipy.cluster.vq import kmeans2  # slow to import

        self.moments = Moments.of(judged.features)
        num_labels = judged.log_probabilities.shape[1]
        self.label_shares = np.bincount(labels, minlength=num_labels) / len(labels)
        self.num_bins = max(2, min(_BINS, len(judged) // _CLIPS_PER_BIN))
        with warnings.catch_warnings():  # a bin that stays empty differs from none
            warnings.simplefilter("ignore", UserWarning)
            self.centres, own = kmeans2(judged.features, self.num_bins, 50, minit="++", rng=0)
        self.counts = np.bincount(own, minlength=self.num_bins)

    def bins(self, features: np.ndarray) -> np.ndarray:
        """Return the nearest bin of each clip: (clips, features) -> (clips,)."""
        from scipy.cluster.vq import vq

        return np.asarray(vq(features, self.centres)[0])


def different_bins(counts: np.ndarray, other: np.ndarray) -> float:
    """Return the share of bins that hold significantly more of one set than of the other.

    Args:
        counts: (bins,) clips of one set in each bin.
        other: (bins,) of the other set.
    """
    total, other_total = counts.sum(), other.sum()
    pooled = (counts + other) / (total + other_total)
    error = np.sqrt(pooled * (1 - pooled) * (1 / total + 1 / other_total))
    difference = np.abs(counts / total - other / other_total)
    return float((difference > _SIGNIFICANT * error).mean())


def scores_of(judged: Judged, bins: np.ndarray, reference: Reference) -> dict[str, float]:
    """Return all scores of clips.

    Args:
        judged: the clips.
        bins: (clips,) the bin of each (`Reference.bins`).
        reference: the real clips.
    """
    counts = np.bincount(bins, minlength=reference.num_bins)
    return {
        "fid": frechet_distance(reference.moments, Moments.of(judged.features)),
        "is": inception_score(judged.log_probabilities),
        "mis": modified_inception_score(judged.log_probabilities),
        "am": am_score(judged.log_probabilities, reference.label_shares),
        "ndb": different_bins(counts, reference.counts),
    }


def score(judged: Judged, reference: Reference) -> Summary:
    """Return each score of clips with its 95 % bootstrap interval and the number of clips.

    Drawing clips again makes a set look less varied, which shifts these scores as such: the
    interval is the spread of the resampled scores about their mean, laid around the score, and no
    wider than what a score can be.

    Args:
        judged: the clips, more than they have features.
        reference: the real clips.
    """
    bins = reference.bins(judged.features)
    whole = scores_of(judged, bins, reference)
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(_RESAMPLES):
        rows = rng.integers(len(judged), size=len(judged))
        drawn.append(list(scores_of(judged.take(rows), bins[rows], reference).values()))
    spread = np.array(drawn) - np.mean(drawn, axis=0)
    low, high = np.percentile(spread, [2.5, 97.5], axis=0)
    low, high = np.minimum(low, 0), np.maximum(high, 0)  # a few outliers move the mean that far
    most = {"is": float(judged.log_probabilities.shape[1]), "ndb": 1.0}
    summary: Summary = {}
    for place, (name, value) in enumerate(whole.items()):
        bounds = np.array([value, value + low[place], value + high[place]])
        mean, *ends = np.clip(bounds, _LEAST[name], most.get(name)).tolist()
        summary[name] = {"mean": mean, "low": ends[0], "high": ends[1], "n": len(judged)}
    return summary


class Judge:
    """A classifier, the real clips that it learned from, and others that it did not hear.

    Args:
        checkpoint_dir: of the classifier, or its run's folder.
        reference_dir: the training clips, an indexed directory; None: those of the checkpoint.
        test_dir: the held-out clips, likewise.

    Raises:
        UserError: there is no classifier, a directory or its index is missing, its folders are not
            the classifier's labels, or held-out clips are training clips.
    """

    def __init__(
        self, checkpoint_dir: Path, reference_dir: Path | None, test_dir: Path | None
    ) -> None:
        checkpoint = Checkpoint.open(checkpoint_dir)
        if "classifier" not in checkpoint.networks:
            raise UserError(
                f"--classifier {checkpoint.path} holds no classifier but "
                f"{', '.join(checkpoint.networks)}: train one with src/train.py "
                "model=digit_classifier"
            )
        network = checkpoint.build("classifier")
        assert isinstance(network, Convolutional)
        self.classifier = network.eval()
        sets = {}
        for option, own, part in (
            ("--reference-dir", reference_dir, "train"),
            ("--test-dir", test_dir, "test"),
        ):
            dir_list = [own] if own else checkpoint.config["data"][part]["dir_list"]
            if not dir_list:
                raise UserError(f"the classifier had no data.{part}.dir_list: give {option}")
            sets[part] = _labelled(dir_list, self.classifier.labels, option)
        self._train, self._test = sets["train"], sets["test"]
        shared = {path.resolve() for path in self._train} & {path.resolve() for path in self._test}
        if shared:
            raise UserError(
                f"{len(shared)} held-out clips are among the training clips (the first: "
                f"{printable(min(shared))}): give another --test-dir"
            )

    def compare(self, generated: Sequence[Path]) -> tuple[Summary, str]:
        """Score generated clips, and the held-out ones beside them, against the training clips.

        Args:
            generated: their files.

        Returns:
            The classifier's accuracy on the held-out clips and the scores, each with its interval;
            and why there are no scores, if there are none.

        Raises:
            UserError: a file cannot be read.
        """
        held_out = judge(self.classifier, list(self._test))
        labels = np.array(list(self._test.values()))
        right = (held_out.log_probabilities.argmax(1) == labels).astype(float).tolist()
        summary = summarise([{"accuracy": value} for value in right], ["accuracy"])
        accuracy, least = summary["accuracy"]["mean"], held_out.features.shape[1] + 1
        if accuracy < LEAST_ACCURACY:
            return summary, (
                f"the classifier labels {accuracy:.1%} of the held-out clips right, and its scores "
                f"count from {LEAST_ACCURACY:.0%} on: train it longer or on more"
            )
        if min(len(generated), len(held_out)) < least:
            return summary, (
                f"there are {len(generated)} generated and {len(held_out)} held-out clips, and "
                f"the scores take at least {least} of each"
            )
        reference = Reference(
            judge(self.classifier, list(self._train)), np.array(list(self._train.values()))
        )
        summary |= score(judge(self.classifier, generated), reference)
        return summary | {f"{TEST}{k}": v for k, v in score(held_out, reference).items()}, ""


def _labelled(dir_list: Sequence[str | Path], names: Sequence[str], option: str) -> dict[Path, int]:
    """Return the clips of indexed directories and the numbers of their labels.

    Raises:
        UserError: an index is missing, or the folders are not the labels.
    """
    try:
        indexes = [read_index(directory) for directory in dir_list]
    except UserError as error:
        raise UserError(f"{option}: {error}") from error
    clips = {index.root / entry.file_path: entry.file_path for index in indexes for entry in index}
    found = {path.partition("/")[0] for path in clips.values()}
    if found != set(names):
        raise UserError(
            f"{option} {', '.join(map(str, dir_list))} has the folders "
            f"{', '.join(sorted(found)[:12])}, but the classifier's labels are "
            f"{', '.join(names)}: give directories with these"
        )
    numbers = {name: number for number, name in enumerate(names)}
    return {path: numbers[file_path.partition("/")[0]] for path, file_path in clips.items()}


def score_table(summary: Summary) -> str:
    """Format the scores of the generated and of the held-out clips."""

    def cell(name: str) -> str:
        if name not in summary:
            return "-"
        value = summary[name]
        return f"{value['mean']:.3f} ± {(value['high'] - value['low']) / 2:.3f}"

    rows = [[name, cell(name), cell(TEST + name)] for name in SCORES if name in summary]
    return format_table(
        ["score", "generated", "held-out"], [*rows, ["accuracy", "-", cell("accuracy")]]
    )
