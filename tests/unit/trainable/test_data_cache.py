"""The cache of decoded images: used when it fits, rebuilt when it does not, never in the way."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest

from tests.support.data_folders import write_class_folders, write_shards
from trainable.data.cache import default_cache
from trainable.data.data_set import DataError, check_source, load_data

SHARD = "train-00000-of-00001.parquet"


def spoil_keeping_its_time(path: Path) -> None:
    """Destroy a file's content but not its size and time of change."""
    status = path.stat()
    path.write_bytes(b"\xff" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def find_entry(cache: Path) -> Path:
    (entry,) = (path for path in cache.rglob("*") if path.is_file())  # one, and no temporary file beside it
    return entry


def test_images_are_decoded_once(tmp_path: Path) -> None:
    folder, cache = tmp_path / "images", tmp_path / "cache"
    write_class_folders(folder)
    first = load_data("cifar10", folder, cache)
    spoil_keeping_its_time(folder / "train/cat/00003.png")

    second = load_data("cifar10", folder, cache)  # would fail if it decoded again

    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        np.testing.assert_array_equal(getattr(second, name), getattr(first, name))
    assert (second.fingerprint, second.class_names, second.source) == (
        first.fingerprint,
        first.class_names,
        first.source,
    )


@pytest.mark.parametrize("change", ["written", "removed", "added"])
def test_changed_sources_are_decoded_again(tmp_path: Path, change: str) -> None:
    folder, cache = tmp_path / "images", tmp_path / "cache"
    write_class_folders(folder)
    image = folder / "train/cat/00003.png"
    before = load_data("cifar10", folder, cache)
    if change == "written":
        image.write_bytes((folder / "train/cat/00013.png").read_bytes())
    elif change == "removed":
        image.unlink()
    else:
        (folder / "train/cat/new.png").write_bytes(image.read_bytes())
    after = load_data("cifar10", folder, cache)
    assert after.fingerprint != before.fingerprint
    assert len(after.train_labels) == {"written": 40, "removed": 39, "added": 41}[change]


@pytest.mark.parametrize("damage", ["truncated", "one byte", "empty", "another file"])
def test_damaged_entries_are_said_and_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    folder, cache = tmp_path / "data", tmp_path / "cache"
    write_shards(folder)
    good = load_data("cifar10", folder, cache)
    entry = find_entry(cache)
    content = entry.read_bytes()
    middle = len(content) // 2
    altered = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    damaged = {"truncated": content[:-500], "one byte": altered, "empty": b"", "another file": b"PK\3\4" * 100}
    entry.write_bytes(damaged[damage])

    with caplog.at_level(logging.WARNING):
        again = load_data("cifar10", folder, cache)

    assert again.fingerprint == good.fingerprint
    assert [record.getMessage().startswith(f"{entry}: damaged cache entry") for record in caplog.records] == [True]
    spoil_keeping_its_time(folder / SHARD)
    with pytest.raises(DataError):
        check_source("cifar10", folder)
    assert load_data("cifar10", None, cache).fingerprint == good.fingerprint  # the entry is whole again


def test_consistent_content_that_is_not_what_was_written_is_damage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_shards(tmp_path / "data")
    good = load_data("cifar10", tmp_path / "data", tmp_path / "cache")
    entry = find_entry(tmp_path / "cache")
    with np.load(entry) as content:
        values = dict(content)
    np.savez(entry, **{**values, "train_labels": values["train_labels"][::-1]})
    assert load_data("cifar10", tmp_path / "data", tmp_path / "cache").fingerprint == good.fingerprint
    assert "its content has changed" in caplog.text


def test_a_cache_that_cannot_be_written_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_shards(tmp_path / "data")
    (tmp_path / "cache").write_text("a file where the folder should be")
    data = load_data("cifar10", tmp_path / "data", tmp_path / "cache")
    assert len(data.train_labels) == 40
    assert "decoded images not kept" in caplog.text


def test_without_a_folder_the_data_set_used_last_comes_from_the_cache(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    fingerprints = {}
    for name, num_train in (("a", 40), ("b", 50)):
        write_shards(tmp_path / name, num_train)
        fingerprints[name] = load_data("cifar10", tmp_path / name, cache).fingerprint
    for name in ("a", "b", "a"):
        load_data("cifar10", tmp_path / name, cache)
        assert check_source("cifar10", None, cache) == f"Parquet shards in {tmp_path / name}, decoded in the cache"
        assert load_data("cifar10", None, cache).fingerprint == fingerprints[name]


def test_the_cache_is_in_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "training-dynamics-study"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache() == tmp_path / "home/.cache/training-dynamics-study"
    write_shards(tmp_path / "data")
    load_data("cifar10", tmp_path / "data")
    assert find_entry(default_cache())
