"""Which test images every training got right, and what that says about the spread between seeds and between cells.

The spread of test accuracy between seeds is split, after Jordan, "On the Variance of Neural Network Training with respect to
Test Sets and Distributions" (arXiv 2304.01910), into what a finite test set causes, and what trainings would differ in on an
endless one. Only trainings that were tested on the same images are looked at; what is left out is said in `gaps`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from analysis.comparison.best import rank_cells
from analysis.comparison.pairs import list_pairs
from analysis.records.frames import FINISHED, Study
from analysis.statistics import ALPHA, mean_interval

Bits = npt.NDArray[np.bool_]
MOST_TELLING = 24
NOT_RECORDED = (
    "No completed trial says which test images it got right: this is an older study, or one that is not tested."
)


@dataclass(frozen=True)
class CorrectImages:
    """`correct` holds of every cell with completed trainings whether each got each image right: (trainings, images)."""

    num_images: int
    correct: Mapping[str, Bits]
    seeds: Mapping[str, tuple[int, ...]]  # of the trainings
    gaps: tuple[str, ...]  # in words


@dataclass(frozen=True)
class VarianceSplit:
    """Variances of test accuracy between seeds, as fractions squared: `total` = `test_set` + `trainings` [low, high].

    `trainings` is an unbiased estimate of what the variance would be on an endless test set, and may be negative. All NaN
    for fewer than two trainings or images.
    """

    total: float = math.nan
    test_set: float = math.nan
    trainings: float = math.nan
    low: float = math.nan
    high: float = math.nan


def read_correct_images(study: Study) -> CorrectImages:
    """The completed trials of the test set that most of them have."""
    trials = study.trials[study.trials["status"] == FINISHED]
    known = study.epochs[study.epochs["test_correct"].notna()].drop_duplicates("trial_id", keep="last")
    bits: dict[str, bytes] = dict(zip(known["trial_id"], known["test_correct"], strict=True))
    sizes = {
        trial["trial_id"]: _count_images(study, trial, bits[trial["trial_id"]])
        for trial in trials.to_dict("records") if trial["trial_id"] in bits
    }  # fmt: skip
    counts = Counter(size for size in sizes.values() if size)
    num_images = max(counts, key=lambda size: (counts[size], size), default=0)
    used = trials[trials["trial_id"].map(sizes) == num_images] if num_images else trials.iloc[:0]
    correct, seeds = {}, {}
    for cell_id, own in used.groupby("cell_id"):
        packed = [np.frombuffer(bits[trial_id], np.uint8) for trial_id in own["trial_id"]]
        correct[str(cell_id)] = np.unpackbits(np.stack(packed), axis=1, count=num_images).astype(bool)
        seeds[str(cell_id)] = tuple(int(seed) for seed in own["seed"])
    return CorrectImages(num_images, correct, seeds, _describe_gaps(len(trials), len(sizes), len(used), num_images))


def describe_images(study: Study, notes: Sequence[str]) -> tuple[str, ...]:
    """The notes of a table about test images, with what was left out behind them; or that nothing was recorded, instead of them."""
    return (*notes, *study.derive(read_correct_images).gaps) if is_recorded(study) else (NOT_RECORDED,)


def is_recorded(study: Study) -> bool:
    """Whether any completed trial says which test images it got right."""
    return study.derive(read_correct_images).num_images > 0


def split_variance(correct: Bits) -> VarianceSplit:
    """What the test accuracies of these trainings (trainings, images) vary by, and why.

    trainings = N / (N - 1) * (total - sum over images of the variance of their correctness / N^2), all variances unbiased:
    the mean covariance of two images. Its interval is that of the total (chi-squared; the sum over images hardly varies).
    """
    num, images = correct.shape
    if num < 2 or images < 2:
        return VarianceSplit()
    total = float(correct.mean(axis=1).var(ddof=1))
    flips = float(correct.var(axis=0, ddof=1).sum()) / images**2
    ends = [total * (num - 1) / float(special.chdtri(num - 1, tail)) for tail in (ALPHA / 2, 1 - ALPHA / 2)]
    trainings, low, high = (images / (images - 1) * (part - flips) for part in (total, *ends))
    return VarianceSplit(total, total - trainings, trainings, low, high)


def agreement_within(correct: Bits) -> float:
    """Share of images on which two trainings agree in being right or wrong, mean over pairs; NaN for one training."""
    num = len(correct)
    if num < 2:
        return math.nan
    right = correct.sum(axis=0, dtype=np.int64)
    wrong = num - right
    return float((right * (right - 1) + wrong * (wrong - 1)).mean() / (num * (num - 1)))


def agreement_between(first: Bits, second: Bits) -> float:
    """The same, mean over all pairs of a training of the one cell and one of the other."""
    p, q = first.mean(axis=0), second.mean(axis=0)
    return float((p * q + (1 - p) * (1 - q)).mean())


def measure_cells(study: Study) -> pd.DataFrame:
    """One row per cell: cell_id, seeds, images, accuracy, sd, variance, test_set, trainings [low, high], agreement, agreement_others.

    agreement_others: with the trainings of each other cell, mean over those.
    """
    tested = study.derive(read_correct_images)
    rows = []
    for cell_id in study.cells:
        correct = tested.correct.get(cell_id, np.empty((0, tested.num_images), dtype=bool))
        split = split_variance(correct)
        compared = [other for name, other in tested.correct.items() if name != cell_id] if len(correct) else []
        others = [agreement_between(correct, other) for other in compared]
        rows.append(
            {
                "cell_id": cell_id, "seeds": len(correct), "images": tested.num_images,
                "accuracy": correct.mean() if len(correct) else math.nan, "sd": math.sqrt(split.total), "variance": split.total,
                "test_set": split.test_set, "trainings": split.trainings, "low": split.low, "high": split.high,
                "agreement": agreement_within(correct),
                "agreement_others": np.mean(others) if others else math.nan,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def measure_pairs(study: Study) -> pd.DataFrame:
    """One row per pair of cells: cell_a, cell_b, seeds, difference, error_images, error_seeds, agreement.

    The difference is that of mean test accuracy over the seeds that both completed; its standard errors are over images (the
    trainings as they are) and over seeds (the images as they are), each paired.
    """
    tested = study.derive(read_correct_images)
    rows = []
    for a, b in list_pairs(list(study.cells)):
        if a not in tested.correct or b not in tested.correct:
            continue
        common = sorted(set(tested.seeds[a]) & set(tested.seeds[b]))
        first, second = (tested.correct[cell][[tested.seeds[cell].index(s) for s in common]] for cell in (a, b))
        differences = first.astype(np.int8) - second
        by_image, by_seed = (differences.mean(axis=axis) if len(common) else np.empty(0) for axis in (0, 1))
        rows.append(
            {
                "cell_a": a, "cell_b": b, "label_a": study.cells[a].label, "label_b": study.cells[b].label, "seeds": len(common),
                "difference": differences.mean() if len(common) else math.nan, "error_images": _standard_error(by_image),
                "error_seeds": _standard_error(by_seed), "agreement": agreement_between(tested.correct[a], tested.correct[b]),
            }
        )  # fmt: skip
    return pd.DataFrame(rows, columns=[
        "cell_a", "cell_b", "label_a", "label_b", "seeds", "difference", "error_images", "error_seeds", "agreement",
    ])  # fmt: skip


def measure_classes(study: Study, labels: np.ndarray, class_names: list[str]) -> pd.DataFrame:
    """One row per cell and class that has images: cell_id, class_name, images, seeds, accuracy [low, high, over seeds].

    The interval is Student's t, as far as an accuracy can be.
    """
    tested = study.derive(read_correct_images)
    rows = []
    for cell_id in (cell for cell in study.cells if cell in tested.correct):
        correct = tested.correct[cell_id]
        for number, name in enumerate(class_names):
            own = correct[:, labels == number]
            if own.shape[1]:
                mean, low, high = mean_interval(own.mean(axis=1))
                rows.append((cell_id, name, own.shape[1], len(own), mean, *np.clip((low, high), 0, 1)))
    return pd.DataFrame(rows, columns=["cell_id", "class_name", "images", "seeds", "accuracy", "low", "high"])


@dataclass(frozen=True)
class ComparedImages:
    """Two cells, and the share of each one's trainings that got each image right: (images,)."""

    cells: tuple[str, str]
    shares: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]

    def most_telling(self) -> npt.NDArray[np.int64]:
        """The images on which the two differ most, of equal ones the first; none on which they do not differ."""
        difference = np.abs(self.shares[0] - self.shares[1])
        order = np.argsort(-difference, kind="stable")[:MOST_TELLING]
        return order[difference[order] > 0]


def compare_images(study: Study) -> ComparedImages | None:
    """The two cells of a study, or the best and the worst of more; None where not both were tested on the same images."""
    tested = study.derive(read_correct_images)
    cells = (
        list(study.cells)
        if len(study.cells) == 2
        else study.derive(rank_cells).dropna(subset="mean")["cell_id"].tolist()
    )
    known = [cell for cell in cells if cell in tested.correct]
    if len(known) < 2:
        return None
    a, b = known[0], known[-1]
    return ComparedImages((a, b), (tested.correct[a].mean(axis=0), tested.correct[b].mean(axis=0)))


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def _count_images(study: Study, trial: Mapping[Any, Any], bits: bytes) -> int:
    """Test images of a trial; 0 where it was not tested on the study's data, or its record is not of that many images."""
    limit, available = trial["config.test_limit"], study.info.data.get("num_test")
    size = int(limit) if limit is not None and not math.isnan(limit) else available
    if not isinstance(size, int) or trial["data_fingerprint"] != study.info.data.get("fingerprint"):
        return 0
    return size if len(bits) == (size + 7) // 8 else 0


def _describe_gaps(completed: int, recorded: int, used: int, num_images: int) -> tuple[str, ...]:
    gaps = []
    if recorded < completed:
        gaps.append(
            f"{completed - recorded} of {completed} completed trials do not say which test images they got right "
            "(trained before that was recorded, or never tested), and are left out."
        )
    if used < recorded:
        gaps.append(
            f"{recorded - used} of {completed} completed trials were tested on other images than these {num_images:,}, or their "
            "record does not fit, and are left out."
        )
    return tuple(gaps)
