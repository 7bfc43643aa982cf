"""The part that runs on the cluster's head: `python -m study.service.remote run|send`, started as a job by the clients.

`run` is `study.run` attached to the cluster, with its results in a folder of the cluster. `send` prints a study folder, waits
until its client has it, and then empties its own log, so that nothing of it stays on the head's disk.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from analysis.pull import pull
from analysis.study_folder import StudyFolderError
from study.service.transfer import ERROR_MARK, send_folder

RESULTS_VARIABLE = "STUDY_RESULTS"
_COLLECTED_WITHIN_S = 900.0


def resolve_results(given: str) -> str:
    """The results folder on this machine, or a URL: as given, else $STUDY_RESULTS, else results in the home folder."""
    text = os.path.expandvars(given or os.environ.get(RESULTS_VARIABLE) or "~/results")
    return text.rstrip("/") if "://" in text else str(Path(text).expanduser().absolute())


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    action, results, *rest = sys.argv[1:] if arguments is None else arguments
    if action == "run":
        from study.run import main as run_study

        return run_study([*rest, "--results", resolve_results(results), "--address", "auto"])
    if action == "send":
        return _send(f"{resolve_results(results)}/{rest[0]}")
    print(f"error: unknown action {action!r}", file=sys.stderr)
    return 2


def _send(source: str) -> int:
    def end(number: int, frame: object) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, end)
    try:
        with TemporaryDirectory() as fetched:
            try:
                folder = pull(source, Path(fetched) / "study").path if "://" in source else Path(source)
            except StudyFolderError as error:
                print(f"{ERROR_MARK}{error}")
            else:
                send_folder(folder, print)
        sys.stdout.flush()
        time.sleep(_COLLECTED_WITHIN_S)
    finally:
        os.ftruncate(sys.stdout.fileno(), 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
