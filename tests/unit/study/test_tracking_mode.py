"""Whether and where runs are mirrored: options, environment and keys as wandb keeps them."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.records.study_folder import StudyFolder
from study.spec.errors import SpecError
from study.storage.location import find_store
from study.tracking.mode import (
    DEFAULT_PROJECT,
    PROJECT_FILE,
    check_offline,
    choose_mode,
    choose_project,
    is_key_configured,
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without any key."""
    for name in ("API_KEY", "IDENTITY_TOKEN_FILE", "MODE", "BASE_URL", "CONFIG_DIR", "PROJECT"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def write_netrc(path: Path, host: str) -> None:
    path.write_text(f"machine {host}\n  login user\n  password {'k' * 40}\n")
    path.chmod(0o600)


def test_without_a_key_nothing_happens_unasked_and_auto_is_offline() -> None:
    assert not is_key_configured()
    assert choose_mode(None) == "off"
    assert choose_mode("auto") == "offline"
    assert choose_mode("online") == "online"


def test_with_a_key_the_default_is_online_and_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert choose_mode(None) == choose_mode("auto") == "online"
    assert choose_mode("off") == "off"
    assert choose_mode("offline") == "offline"


@pytest.mark.parametrize(("value", "mode"), [("disabled", "off"), ("offline", "offline"), ("online", "online")])
def test_wandb_mode_decides_where_nothing_is_asked(monkeypatch: pytest.MonkeyPatch, value: str, mode: str) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_MODE", value)
    assert choose_mode(None) == mode
    assert choose_mode("online") == "online"


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="off, offline, online, auto"):
        choose_mode("sometimes")


def test_a_key_in_netrc_counts_for_its_own_server(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_netrc(home / ".netrc", "api.wandb.ai")
    assert is_key_configured()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not is_key_configured()
    write_netrc(home / "other", "wandb.example.org")
    monkeypatch.setenv("NETRC", str(home / "other"))
    assert is_key_configured()


def test_a_key_or_a_server_in_the_settings_file_counts(home: Path) -> None:
    settings = home / ".config/wandb/settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(f"[default]\napi_key = {'k' * 40}\n")
    assert is_key_configured()
    settings.write_text("[default]\nbase_url = https://wandb.example.org\n")
    write_netrc(home / ".netrc", "api.wandb.ai")
    assert not is_key_configured()


@pytest.mark.parametrize("content", ["machine", "\x00\xff nonsense", ""])
def test_a_damaged_netrc_is_no_key(home: Path, content: str) -> None:
    (home / ".netrc").write_text(content)
    (home / ".netrc").chmod(0o600)
    assert not is_key_configured()


def test_a_study_stays_in_its_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = StudyFolder(tmp_path / "study")
    assert choose_project(folder, None) == DEFAULT_PROJECT
    monkeypatch.setenv("WANDB_PROJECT", "elsewhere")
    assert choose_project(folder, None) == DEFAULT_PROJECT, "as before"
    assert choose_project(folder, "asked") == choose_project(folder, None) == "asked"
    assert choose_project(StudyFolder(tmp_path / "new"), None) == "elsewhere"


def test_a_study_that_a_version_before_made_stays_in_its_project(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "study")
    (folder.path / "wandb").mkdir(parents=True)
    (folder.path / "wandb/project.txt").write_text("of old\n")
    assert choose_project(folder, None) == "of old"
    assert choose_project(folder, "asked") == choose_project(folder, None) == "asked"


def test_a_link_in_the_place_of_the_project_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "private").write_text("secret")
    folder = StudyFolder(tmp_path / "study")
    folder.path.mkdir()
    (folder.path / PROJECT_FILE).symlink_to(tmp_path / "private")
    assert choose_project(folder, None) == DEFAULT_PROJECT
    assert (tmp_path / "private").read_text() == "secret"


def test_the_project_of_a_study_at_a_url_outlives_the_copy_of_its_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    results = f"file://{tmp_path}/store"
    with (store := find_store(results, "paper")).open():
        choose_project(store.folder, "asked")
    with (store := find_store(results, "paper")).open():
        assert choose_project(store.folder, None) == "asked"


def test_offline_runs_of_a_study_at_a_url_are_refused() -> None:
    with pytest.raises(SpecError, match=r"not put to s3://bucket/results; .*study sync"):
        check_offline("offline", "s3://bucket/results")
    check_offline("offline", "/mnt/results")
    check_offline("online", "s3://bucket/results")
    check_offline("off", "s3://bucket/results")
