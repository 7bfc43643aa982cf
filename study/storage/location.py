"""The store that a name below a results folder or URL means. Imports neither torch nor Ray."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from analysis.records.study_folder import StudyFolder, StudyFolderError
from analysis.sources.pull import is_url
from study.storage.study_store import FolderStore, StudyStore
from study.storage.url_store import UrlStore


def find_store(results: str, name: str) -> StudyStore:
    """The store of the study `name` below `results`, a folder or a URL. Errors: StudyFolderError for a URL with a secret."""
    check_plain_url(results)
    if is_url(results):
        return UrlStore(f"{results.rstrip('/')}/{name}")
    return FolderStore(StudyFolder(Path(results) / name))


def check_plain_url(results: str) -> None:
    """Refuse a URL that holds more than a location: it is printed and written down. Errors: StudyFolderError."""
    parts = urlsplit(results) if is_url(results) else None
    if parts and ("@" in parts.netloc or parts.query or parts.fragment):
        raise StudyFolderError(
            "--results: give a plain URL; credentials and endpoints belong into the environment of the nodes, e.g. "
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL"
        )
