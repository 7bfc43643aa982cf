"""For every test: Ray's workers get their share of the processor, which Ray takes from them with a niceness of 15.

Beside a second test they would hardly get on, and whatever waits for their epochs would wait for minutes.
"""

from __future__ import annotations

import os

os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray looks for this name
