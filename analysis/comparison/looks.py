"""The looks at its verdicts that a study plans: which seeds are in at each, and those of several studies as one.

Intervals hold at all looks of a plan at once (analysis.statistics.spend) if each look adds seeds to those of the look before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, islice, pairwise

from analysis.records.study_json import StudyInfo


def order_seeds(seeds: Sequence[int]) -> Iterator[int]:
    """The seeds in the order in which cells get them: those of the study, then 0, 1, 2, ... without them."""
    yield from seeds
    yield from (seed for seed in count() if seed not in seeds)


def merge_looks(infos: Sequence[StudyInfo]) -> dict[str, int] | None:
    """The plan that holds every look of these studies; None where each of them has looked once.

    From the fewest to the most seeds at which one of them was looked at: intervals that hold at all of these hold wherever a study
    has stopped. Example: 3 to 20 and 5 to 30 seeds make 3 to 30; a study of 25 seeds, looked at once, beside 3 to 20 makes 3 to 25.
    Errors: ValueError where the studies added seeds in different orders, for which no such plan exists.
    """
    if all(info.stopping is None for info in infos):
        return None
    looks = [_list_looks(info) for info in infos]
    in_order = sorted((seeds for study in looks for seeds in study), key=len)
    if not all(fewer <= more for fewer, more in pairwise(in_order)):
        orders = (f"{info.name}: " + ", ".join(map(str, islice(order_seeds(info.seeds), 5))) for info in infos)
        raise ValueError(
            "seeds were added until the verdicts were settled, which needs the same seeds in the same order in all studies "
            f"({'; '.join(orders)}, ...): leave out the studies of other seeds"
        )
    return {"first": max(len(in_order[0]), 2), "most": len(in_order[-1])}  # one seed alone has no interval


def _list_looks(info: StudyInfo) -> list[frozenset[int]]:
    """The seeds that are in at each look: all at once, or from the first seeds on one by one."""
    planned = info.stopping or {"first": len(info.seeds), "most": len(info.seeds)}
    numbers = range(planned["first"], planned["most"] + 1)
    return [frozenset(islice(order_seeds(info.seeds), number)) for number in numbers]
