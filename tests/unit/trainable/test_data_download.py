"""torchvision's download, from a server in this process: kept in the cache, checked, and repeated when it was damaged."""

from __future__ import annotations

import hashlib
import http.server
import logging
import socket
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from torchvision.datasets import CIFAR10, CIFAR100, SVHN, FashionMNIST

from tests.support.data_folders import make_images, write_batch_files, write_idx
from trainable.data import batch_files, sources
from trainable.data.data_set import DataError, check_source, load_data


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of these files."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join(10)


class Archive:
    """A small original archive on a server of its own."""

    def __init__(self, url: str, file: Path) -> None:
        self.url = url
        self.file = file


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    """A small archive in the published form, served where torchvision looks for the real one."""
    folder = tmp_path / "server"
    train, test = write_batch_files(folder / "cifar-10-batches-py")
    meta = folder / "cifar-10-batches-py/batches.meta"
    meta.write_bytes(b"\x80\x02}(U\x0blabel_names](U\x03cateu.")
    file = folder / CIFAR10.filename
    with tarfile.open(file, "w:gz") as tar:
        tar.add(folder / "cifar-10-batches-py", "cifar-10-batches-py")

    with served(folder) as address:
        for name, value in {
            "url": f"{address}{file.name}",
            "tgz_md5": hashlib.md5(file.read_bytes()).hexdigest(),
            "train_list": [list(item) for item in train.items()],
            "test_list": [list(item) for item in test.items()],
            "meta": {**CIFAR10.meta, "md5": hashlib.md5(meta.read_bytes()).hexdigest()},
        }.items():
            monkeypatch.setattr(CIFAR10, name, value)
        monkeypatch.setattr(batch_files, "TRAIN_MD5", train)
        monkeypatch.setattr(batch_files, "TEST_MD5", test)
        yield Archive(CIFAR10.url, file)


def test_download_is_kept_in_the_cache(tmp_path: Path, archive: Archive) -> None:
    cache = tmp_path / "cache"
    assert check_source("cifar10", None, cache) == f"download by torchvision into {cache}"

    data = load_data("cifar10", None, cache)

    np.testing.assert_array_equal(data.train_images, make_images(40, 1))
    np.testing.assert_array_equal(data.test_images, make_images(20, 2))
    archive.file.unlink()  # a second download would fail
    assert load_data("cifar10", None, cache).fingerprint == data.fingerprint
    assert data.source == check_source("cifar10", None, cache) == f"original batch files in {cache}/cifar-10-batches-py"


@pytest.mark.parametrize("damage", ["altered", "missing"])
def test_a_damaged_download_is_said_and_repeated(
    tmp_path: Path, archive: Archive, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    cache = tmp_path / "cache"
    good = load_data("cifar10", None, cache)
    file = cache / "cifar-10-batches-py/data_batch_2"
    if damage == "altered":
        file.write_bytes(b"\xff" * file.stat().st_size)
    else:
        file.unlink()
    with caplog.at_level(logging.WARNING):
        assert load_data("cifar10", None, cache).fingerprint == good.fingerprint
    assert "data_batch_2" in caplog.text
    assert "downloading it again" in caplog.text


@pytest.mark.parametrize("failure", ["no server", "not found", "wrong archive", "cache not writable"])
def test_a_failed_download_says_what_to_do(
    tmp_path: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    cache, timeout = tmp_path / "cache", socket.getdefaulttimeout()
    if failure == "no server":
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{unused.getsockname()[1]}/x.tar.gz")
    elif failure == "not found":
        archive.file.unlink()
    elif failure == "wrong archive":
        archive.file.write_bytes(archive.file.read_bytes()[:-100])
    else:
        cache.write_text("a file where the folder should be")
    with pytest.raises(DataError) as error:
        load_data("cifar10", None, cache)
    message = str(error.value)
    assert message.startswith(f"CIFAR-10 cannot be downloaded from {CIFAR10.url} to {cache} (")
    assert "--data DIR" in message
    assert "\n" not in message
    assert socket.getdefaulttimeout() == timeout


def test_a_silent_server_is_given_up(tmp_path: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_DOWNLOAD_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{silent.getsockname()[1]}/x.tar.gz")
        with pytest.raises(DataError, match="timed out"):
            load_data("cifar10", None, tmp_path / "cache")


def test_fashion_mnist_is_downloaded_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx(tmp_path / "server", compressed=True)
    files = [(file.name, hashlib.md5(file.read_bytes()).hexdigest()) for file in (tmp_path / "server").iterdir()]
    with served(tmp_path / "server") as address:
        monkeypatch.setattr(FashionMNIST, "mirrors", [address])
        monkeypatch.setattr(FashionMNIST, "resources", files)
        data = load_data("fashion_mnist", None, tmp_path / "cache")
    assert data.train_images.shape == (40, 28, 28, 1)
    assert load_data("fashion_mnist", None, tmp_path / "cache").fingerprint == data.fingerprint, "the server has gone"


def test_svhn_is_downloaded_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(tmp_path) as address:
        found = {}
        for part in ("train", "test"):
            name = f"{part}_32x32.mat"
            savemat(tmp_path / name, {"X": make_images(10).transpose(1, 2, 3, 0), "y": np.arange(1, 11)[:, None]})
            found[part] = [f"{address}{name}", name, hashlib.md5((tmp_path / name).read_bytes()).hexdigest()]
        monkeypatch.setattr(SVHN, "split_list", found)
        data = load_data("svhn", None, tmp_path / "cache")
    assert data.test_labels.tolist() == [*range(1, 10), 0]
    assert data.source == f"original .mat files in {tmp_path}/cache/svhn"


def test_a_download_that_fails_names_the_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr(CIFAR100, "url", f"http://127.0.0.1:{unused.getsockname()[1]}/x.tar.gz")
        with pytest.raises(DataError, match=r"CIFAR-100 cannot be downloaded from http://127\.0\.0\.1:.* --data DIR"):
            load_data("cifar100", None, tmp_path / "cache")
