"""The part that runs on the cluster's head: `python -m study.service.remote run|send`, started as a job by the clients.

`run` is `study.run` attached to the cluster, with its data and results in folders of the cluster. `send` prints a study folder,
waits until its client has it, and then empties its own log, so that nothing of it stays on the head's disk.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from analysis.records.study_folder import StudyFolderError
from analysis.sources.pull import pull
from study.service.study_jobs import progress_log
from study.service.transfer import ERROR_MARK, send_folder

RESULTS_VARIABLE = "STUDY_RESULTS"
SIGN_OF_LIFE_S = 10.0  # the client gives up on a longer silence
_COLLECTED_WITHIN_S = 900.0


def resolve_results(given: str) -> str:
    """The results folder on this machine, or a URL: as given, else $STUDY_RESULTS, else results in the home folder."""
    text = given or os.environ.get(RESULTS_VARIABLE) or "~/results"
    return os.path.expandvars(text).rstrip("/") if "://" in text else expand(text)


def expand(path: str) -> str:
    """A path with the home folder and the variables of this machine in it."""
    return str(Path(os.path.expandvars(path)).expanduser().absolute())


def find_progress_copy() -> Path | None:
    """The file beside this job's log in which clients look for its progress; None where this is no job."""
    log = Path("/proc/self/fd/1").resolve()
    return log.with_name(progress_log(log.stem.removeprefix("job-driver-"))) if log.is_file() else None


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    action, results, *rest = sys.argv[1:] if arguments is None else arguments
    if action == "run":
        from study import run
        from study.command_line.options import build_parser

        data = build_parser().parse_args(rest).data
        given = [] if data is None else ["--data", expand(str(data))]
        complete = [*rest, *given, "--results", resolve_results(results), "--address", "auto"]
        return run.main(complete, progress_copy=find_progress_copy())
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
                folder = _fetch(source, Path(fetched) / "study") if "://" in source else Path(source)
            except StudyFolderError as error:
                print(f"{ERROR_MARK}{error}")
            else:
                send_folder(folder, print)
        sys.stdout.flush()
        time.sleep(_COLLECTED_WITHIN_S)
    finally:
        os.ftruncate(sys.stdout.fileno(), 0)
    return 0


def _fetch(source: str, to: Path) -> Path:
    """Bring here what lies at a URL, which may take long. Errors: StudyFolderError."""
    with _signs_of_life():
        return pull(source, to).path


@contextmanager
def _signs_of_life() -> Iterator[None]:
    """Print a line every now and then, of the kind that the client passes over."""
    ended = threading.Event()

    def print_signs() -> None:
        while not ended.wait(SIGN_OF_LIFE_S):
            print("fetching the study", flush=True)

    thread = threading.Thread(target=print_signs, name="signs-of-life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


if __name__ == "__main__":
    sys.exit(main())
