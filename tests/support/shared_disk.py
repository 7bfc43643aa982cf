"""A disk for tests that can go away and become read-only, as storage that a cluster shares does. Needs root.

Away: the file system is frozen; whoever writes waits in the kernel, as on a hard-mounted NFS whose server is away. Read-only: the
folder is covered by a read-only view of itself; whoever opens a file to write gets EROFS.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


def why_not() -> str | None:
    """Why there can be no such disk here; None where there can."""
    if os.geteuid() != 0:
        return "mounting needs root"
    missing = [name for name in ("mkfs.ext4", "fsfreeze", "mount") if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed"
    return None if Path("/dev/loop-control").exists() else "no loop devices"


@dataclass(frozen=True)
class SharedDisk:
    """The mounted disk; `folder` is where."""

    folder: Path

    @contextmanager
    def away(self) -> Iterator[None]:
        """Nothing can be written in the block; afterwards all that waited goes on."""
        _run("fsfreeze", "--freeze", str(self.folder))
        try:
            yield
        finally:
            _run("fsfreeze", "--unfreeze", str(self.folder))

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Nothing can be opened for writing in the block, in no namespace that was made from this one."""
        view = self.folder.with_name(f"{self.folder.name}-read-only")
        view.mkdir(exist_ok=True)
        _run("mount", "--bind", str(self.folder), str(view))
        _run("mount", "-o", "remount,bind,ro", str(view))
        _run("mount", "--bind", str(view), str(self.folder))  # a mount reaches other namespaces, a remount does not
        try:
            yield
        finally:
            _run("umount", "--lazy", str(self.folder))
            _run("umount", "--lazy", str(view))


@contextmanager
def start_disk(folder: Path, size_mb: int = 128) -> Iterator[SharedDisk]:
    """A disk of this size, mounted at `folder`; nothing of it is left afterwards."""
    folder.mkdir(parents=True)
    image = folder.with_name(f"{folder.name}.img")
    with image.open("wb") as file:
        file.truncate(size_mb * 2**20)
    _run("mkfs.ext4", "-q", str(image))
    _run("mount", "-o", "loop", str(image), str(folder))
    _run("mount", "--make-shared", str(folder))
    try:
        yield SharedDisk(folder)
    finally:
        _run("umount", "--lazy", str(folder))
        image.unlink()


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
