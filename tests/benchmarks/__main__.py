"""Runs the benchmarks one after the other and writes what they print into docs/benchmarks.md: `make bench`.

    python -m tests.benchmarks [--only NAME ...] [--write FILE]

Each stands in the page between `<!-- begin NAME -->` and `<!-- end NAME -->`; the text around is written by hand and stays.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "benchmarks.md"
LIMIT_S = 2_400

BENCHMARKS: dict[str, list[str]] = {
    "startup": ["startup"],
    "orchestration": ["orchestration --few 2 --many 32 --rounds 3"],
    "augmentation": ["augmentation"],
    "training": [
        "training --width 8 --images 3200 --rounds 5",
        "training --width 16 --images 1600 --rounds 5",
        "training --width 64 --images 320 --rounds 5",
    ],
    "instruments": ["instruments"],
    "curvature": [
        "curvature --width 8 --rounds 9",
        "curvature --width 16",
        "curvature --width 64 --batch-size 32 --rounds 3",
    ],
    "checkpoints": ["checkpoints"],
    "analysis": ["analysis"],
}


def main() -> int:
    """Run what is asked for; 1 where a benchmark failed, with the page's old figures kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(BENCHMARKS), default=list(BENCHMARKS), metavar="NAME",
                        help=f"{', '.join(BENCHMARKS)} (default: all)")  # fmt: skip
    parser.add_argument(
        "--write", type=Path, default=PAGE, metavar="FILE", help="the page (default: docs/benchmarks.md)"
    )
    options = parser.parse_args()
    failed = []
    for name in options.only:
        outputs = [run_benchmark(command) for command in BENCHMARKS[name]]
        if None in outputs:
            failed.append(name)
            continue
        text = "\n\n".join(output for output in outputs if output)
        options.write.write_text(replace_block(options.write.read_text(), name, text))
        print(f"{text}\n", flush=True)
    if failed:
        print(f"failed, old figures kept: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run_benchmark(command: str) -> str | None:
    """Command, date and output of `python -m tests.benchmarks.COMMAND` as markdown; None where it failed."""
    module, *arguments = command.split()
    print(f"python -m tests.benchmarks.{command}", file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments], cwd=REPOSITORY, stdout=subprocess.PIPE,
        text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    if done.returncode:
        return None
    return f"`python -m tests.benchmarks.{command}`, {datetime.now(UTC):%Y-%m-%d}\n\n{done.stdout.strip()}"


def replace_block(page: str, name: str, text: str) -> str:
    """The page with `text` between the marks of `name`. Errors: ValueError where the page has no such marks."""
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"the page has no marks {begin.strip()} and {end}")
    return f"{before}{begin}\n{text}\n\n{end}{after}"


if __name__ == "__main__":
    sys.exit(main())
