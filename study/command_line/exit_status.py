"""How the commands of study end."""

from __future__ import annotations

from study.folder.progress_file import StudyState

OK = 0  # of study.run: every trial has ended, diverged ones too
BAD_INPUT = 2  # or storage that cannot be written; one line says what
SOME_FAILED = 3  # or a search is not over
INTERRUPTED = 130
# The state in which a driver that ended so leaves its study.
STATES = {
    OK: StudyState.DONE,
    BAD_INPUT: StudyState.ERROR,
    SOME_FAILED: StudyState.SOME_FAILED,
    INTERRUPTED: StudyState.INTERRUPTED,
}
