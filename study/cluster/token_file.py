"""The file that holds a cluster's token: whoever can read it can run what they like on the cluster. Imports no Ray."""

from __future__ import annotations

import os
import sys
from pathlib import Path

VARIABLE = "RAY_AUTH_TOKEN_PATH"
IN_HOME = Path(".ray") / "auth_token"


def find_token_file() -> Path:
    """Where Ray looks for it, whether it is there or not."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else Path.home() / IN_HOME


def warn_if_others_can_read(path: Path) -> None:
    """Print a line to stderr where other users of this machine, in its group or not, may read the file."""
    try:
        mode = path.stat().st_mode
        folders = [folder.stat().st_mode for folder in path.resolve().parents]
    except OSError:
        return
    if any(
        mode & read and all(folder & enter for folder in folders) for read, enter in ((0o040, 0o010), (0o004, 0o001))
    ):
        print(f"warning: other users of this machine can read the cluster's token; chmod 600 {path}", file=sys.stderr)
