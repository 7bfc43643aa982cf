"""Whether runs are mirrored to W&B, and how: off, offline or online. Looks for a key without importing wandb."""

from __future__ import annotations

import configparser
import netrc
import os
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from analysis.records.study_folder import StudyFolder
from analysis.sources.pull import is_url
from study.spec.errors import SpecError
from trainable.files import write_atomically

Mode = Literal["off", "offline", "online"]
CHOICES = ("off", "offline", "online", "auto")
DEFAULT_PROJECT = "training-dynamics-study"
PROJECT_FILE = "wandb_project.txt"  # not in wandb/, which stays behind where a study is put to a URL
_BY_VARIABLE: dict[str, Mode] = {
    "disabled": "off", "offline": "offline", "dryrun": "offline", "online": "online", "run": "online",
}  # fmt: skip


def choose_mode(asked: str | None) -> Mode:
    """What --wandb (or its absence) comes to here.

    `auto` is online where a key is configured, else offline. Without the option WANDB_MODE decides, else a key: online
    with one, off without, because runs that nobody asked for cost time and `sync` can make them later.
    """
    match asked:
        case "off" | "offline" | "online":
            return asked
        case "auto":
            return "online" if is_key_configured() else "offline"
        case None:
            by_key: Mode = "online" if is_key_configured() else "off"
            return _BY_VARIABLE.get(os.environ.get("WANDB_MODE", ""), by_key)
    raise ValueError(f"--wandb {asked}: one of {', '.join(CHOICES)}")


def check_offline(mode: Mode, results: str) -> None:
    """Refuse offline runs of a study at a URL: they would be lost with the driver's copy of it. Errors: SpecError."""
    if mode == "offline" and is_url(results):
        raise SpecError(
            f"W&B offline: its runs are files of the study folder, which are not put to {results}; give --wandb off, and "
            "study sync makes the runs from the records later"
        )


def is_key_configured() -> bool:
    """Whether wandb would find credentials: in the environment, its settings file, or netrc."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    settings = _read_settings()
    if settings.get("api_key"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or settings.get("base_url") or "https://api.wandb.ai").netloc
    candidates = [os.environ["NETRC"]] if "NETRC" in os.environ else ["~/.netrc", "~/_netrc"]
    for path in candidates:
        try:
            found = netrc.netrc(Path(path).expanduser()).authenticators(host)
        except (OSError, netrc.NetrcParseError):
            continue
        if found and found[2]:
            return True
    return False


def choose_project(folder: StudyFolder, asked: str | None) -> str:
    """The W&B project of a study: the asked one, else the one that its runs went to before; kept in PROJECT_FILE."""
    note = folder.path / PROJECT_FILE
    before = _read_note(note) or _read_note(folder.path / "wandb" / "project.txt")  # where versions before kept it
    project = asked or before or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT
    if project != _read_note(note):
        write_atomically(note, f"{project}\n".encode())
    return project


def _read_note(path: Path) -> str:
    """Its text. Not of a link, which could lead to what nobody wants to send to W&B."""
    return path.read_text(errors="replace").strip() if path.is_file() and not path.is_symlink() else ""


def _read_settings() -> dict[str, str]:
    """The [default] section of wandb's settings file."""
    folder = Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser()
    parser = configparser.ConfigParser()
    try:
        parser.read(folder / "settings")
    except (configparser.Error, UnicodeDecodeError):
        return {}
    return dict(parser["default"]) if parser.has_section("default") else {}
