"""For every test: what Ray and OpenMP do so that the user's other programs, or their own threads, come first, and that
processes which tests start find torch and Ray compiled.

Ray gives its workers a niceness of 15: beside a second test they hardly get on. Threads of OpenMP wait for each other by
spinning: that takes minutes where other programs want the cores too. Tests make much garbage and live shortly: Python
looks for it less often than usual.
"""

from __future__ import annotations

import gc
import os

os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray looks for this name
os.environ["OMP_WAIT_POLICY"] = "passive"
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
gc.set_threshold(50_000, 20, 20)
