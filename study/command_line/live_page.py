"""`study run --serve`: the live page of the study that runs, as long as it runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

PAGE_PORT = 8790  # or the next free one
_MOST_END_S = 10


@contextmanager
def live_page(results: str) -> Iterator[None]:
    """Serve the studies in `results` from a process of its own, and say where; it ends with the block, or with this process."""
    page = subprocess.Popen(
        [sys.executable, "-m", "study.serve", results, "--end-with-stdin"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    assert page.stdin is not None
    assert page.stdout is not None
    try:
        print(
            page.stdout.readline().rstrip() or "the live page could not be started: `study serve` says why", flush=True
        )
        yield
    finally:
        page.stdin.close()
        try:
            page.wait(_MOST_END_S)
        except subprocess.TimeoutExpired:
            page.kill()
            page.wait()
