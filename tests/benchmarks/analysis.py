"""Time and memory of all tables for a large study: python -m tests.benchmarks.analysis [--trials 1000] [--folder DIR]

Writes a study of that many trials of 25 epochs with 8 measurements of 62 tensors each (12,400 layer rows a trial), builds
and writes every table in a process of its own, and says seconds and peak memory beside the limits: 30 s and 2 GiB at a
thousand trials. A second study of a quarter of the size shows how the cost grows.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.studies import build_cell, write_synthetic_study

SEEDS_PER_CELL = 20
LIMIT_S, LIMIT_BYTES = 30, 2 * 2**30


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="where to write the studies; a temporary folder if left out")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        return _measure(arguments.measure)
    print("```")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        for num_trials in (arguments.trials // 4, arguments.trials):
            path = folder / f"study-{num_trials}"
            if not (path / "study.json").exists():
                _write(path, num_trials)
            print(f"\n{num_trials:,} trials", flush=True)
            subprocess.run(
                [sys.executable, "-m", "tests.benchmarks.analysis", "--measure", path], check=True, timeout=900
            )
    print("```")
    return 0


def _write(path: Path, num_trials: int) -> None:
    """Cells of batch size 64, so that an epoch has 781 steps and 8 measurements; the first is the published experiment 1."""
    rates = [0.15 + 0.001 * number for number in range(max(num_trials // SEEDS_PER_CELL, 1))]
    cells = [build_cell(f"lr {rate:g}", learning_rate=rate) for rate in rates]
    start = time.perf_counter()
    data = {"source": "original batch files in a made-up place"}
    write_synthetic_study(path, cells=cells, seeds=range(SEEDS_PER_CELL), data=data)
    print(f"wrote {path.name} in {time.perf_counter() - start:.1f} s", flush=True)


def _measure(path: Path) -> int:
    start = time.perf_counter()
    from analysis.records.frames import load_study
    from analysis.results.formats import write_tables
    from analysis.results.result_table import ResultTable
    from analysis.tables import build_tables, table_kinds

    study = load_study(path)
    print(f"{'import':24}{time.perf_counter() - start:8.2f} s")
    tables: dict[str, ResultTable] = {}
    for name in table_kinds():
        began = time.perf_counter()
        tables |= build_tables(study, [name])
        print(
            f"{name:24}{time.perf_counter() - began:8.2f} s {len(tables[name].frame):8,} rows {_peak_gib():8.2f} GiB peak"
        )
    began = time.perf_counter()
    write_tables(tables, study.folder)
    print(f"{'writing':24}{time.perf_counter() - began:8.2f} s")
    total = time.perf_counter() - start
    print(
        f"{'all':24}{total:8.2f} s (limit {LIMIT_S} s), peak {_peak_gib():.2f} GiB (limit {LIMIT_BYTES / 2**30:.0f} GiB)"
    )
    return 0


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 2**30


if __name__ == "__main__":
    sys.exit(main())
