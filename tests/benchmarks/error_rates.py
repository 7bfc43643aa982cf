"""How often verdicts are wrong, by simulation: `python -m tests.benchmarks.error_rates [--studies N]` prints the tables of docs/verdicts.md.

Studies of three cells (tests/support/simulated_seeds.py): different is false where all cells are alike, equivalent is false where
all differ by the margin or twice that. Then the same for studies that add seeds until they are settled, and what these save.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from analysis import statistics
from tests.support.simulated_seeds import KINDS, SD, draw_seeds

Array = npt.NDArray[np.float64]
ALIKE, APART = np.full(3, 0.93), np.array([0.930, 0.930 + SD, 0.930 + 2 * SD])
PAIRS = list(itertools.combinations(range(3), 2))
FIRST, MOST = 3, 20


def judge(values: Array, margin: float, *, looks: bool = False) -> npt.NDArray[np.str_]:
    """The verdicts on all pairs of the cells of one study."""
    spent = statistics.spend(values.shape[1], FIRST, MOST, len(PAIRS)) if looks else 1.0
    return statistics.decide(
        statistics.compare_paired(np.array([values[a] - values[b] for a, b in PAIRS]), len(PAIRS), spent), margin
    )


def fixed_rates(kind: str, seeds: int, studies: int) -> tuple[float, float, float]:
    """The shares of studies with a false different, a false equivalent, and without the best cell among those that may be it."""
    random = np.random.default_rng([KINDS.index(kind), seeds])
    different = sum("different" in judge(draw_seeds(kind, ALIKE, seeds, random), 1e-9) for _ in range(studies))
    equivalent = sum("equivalent" in judge(draw_seeds(kind, APART, seeds, random), SD) for _ in range(studies))
    lost = sum(
        not statistics.compare_with_best(draw_seeds(kind, APART, seeds, random)).may_be_best[2] for _ in range(studies)
    )
    return different / studies, equivalent / studies, lost / studies


def run_until_decided(values: Array, margin: float) -> tuple[int, set[str]]:
    """The seeds that a study takes (cells x seeds that it could have), and the verdicts that it ends with."""
    for number in range(FIRST, MOST + 1):
        verdicts, best = judge(values[:, :number], margin, looks=True), int(values[:, :number].mean(axis=1).argmax())
        with_best = [verdict for pair, verdict in zip(PAIRS, verdicts, strict=True) if best in pair]
        if "undecided" not in with_best:
            return number, set(with_best)
    return MOST, set(with_best)


def sequential_rates(
    kind: str, means: Array, margin: float, false: str, studies: int
) -> tuple[float, float, float, int]:
    """The share of false verdicts, the share that is settled, the mean seeds, and the seeds that a fixed design needs to settle as many."""
    random = np.random.default_rng([KINDS.index(kind), MOST])
    drawn = [draw_seeds(kind, means, MOST, random) for _ in range(studies)]
    ended = [run_until_decided(values, margin) for values in drawn]
    settled = float(np.mean(["undecided" not in verdicts for _, verdicts in ended]))
    fixed = next((n for n in range(FIRST, MOST + 1) if _settled_at(drawn, n, margin) >= settled), MOST)
    return (
        sum(false in verdicts for _, verdicts in ended) / studies,
        settled,
        float(np.mean([n for n, _ in ended])),
        fixed,
    )


def _settled_at(drawn: list[Array], seeds: int, margin: float) -> float:
    count = 0
    for values in drawn:
        verdicts, best = judge(values[:, :seeds], margin), int(values[:, :seeds].mean(axis=1).argmax())
        count += all(v != "undecided" for pair, v in zip(PAIRS, verdicts, strict=True) if best in pair)
    return count / len(drawn)


def tables(studies: int) -> Iterator[str]:
    """The lines of both tables, in Markdown."""
    yield f"{studies:,} simulated studies for each row."
    yield ""
    yield "| seeds are | seeds per cell | false different | false equivalent | best cell missed |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for kind, seeds in itertools.product(KINDS, (3, 5, 10, 20)):
        yield (
            f"| {kind} | {seeds} | "
            + " | ".join(f"{100 * rate:.1f} %" for rate in fixed_rates(kind, seeds, studies))
            + " |"
        )
    yield ""
    yield f"`--until-decided`, {FIRST} to {MOST} seeds, margin of {100 * SD:g} points, the sd of a cell's own luck:"
    yield ""
    yield "| seeds are | cells | false verdicts | settled | seeds, mean | fixed design that settles as many |"
    yield "| --- | --- | ---: | ---: | ---: | ---: |"
    cases = (
        ("alike", ALIKE, 2 * SD, "different"), ("a margin apart", APART, SD, "equivalent"),
        ("5 margins apart", 0.93 + 5 * SD * np.arange(3), SD, "equivalent"),
    )  # fmt: skip
    for kind, (name, means, margin, false) in itertools.product(KINDS, cases):
        wrong, settled, mean, fixed = sequential_rates(kind, means, margin, false, studies)
        yield f"| {kind} | {name} | {100 * wrong:.1f} % | {100 * settled:.0f} % | {mean:.1f} | {fixed} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1000)
    for line in tables(parser.parse_args().studies):
        print(line)
