"""What the report draws besides measurements: the layers of the models, and sample images; written once per study."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from analysis.records.study_folder import StudyFolder
from trainable.data.image_data import ImageData
from trainable.files import write_atomically

SAMPLES_PER_CLASS = 10
_ROOT = Path(__file__).parents[2]


@contextmanager
def model_tables(folder: StudyFolder, widths: Iterable[int]) -> Iterator[None]:
    """Meanwhile, add the layer tables of models that the study does not know yet to model.parquet.

    A process of its own does it: torch takes seconds to import, in which Ray starts, and 600 MB, which the driver does without.
    """
    missing = _missing_widths(folder, widths)
    if not missing:
        yield
        return
    counting = subprocess.Popen(
        [sys.executable, "-m", "study.folder.model_and_samples", str(folder.path), *map(str, missing)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])},
        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True, text=True,
    )  # fmt: skip
    try:
        yield
    finally:
        _, said = counting.communicate()
        if counting.returncode:
            reason = (said.strip().splitlines() or [f"status {counting.returncode}"])[-1]
            print(f"note: the model's layers were not counted ({reason}); the same command does it")


def write_model_tables(folder: StudyFolder, widths: Iterable[int]) -> None:
    """Add the layer tables of models that the study does not know yet to model.parquet."""
    from trainable.flops import model_table
    from trainable.records import joined

    tables = {width: model_table(width) for width in _missing_widths(folder, widths)}
    # Asked again: the counting process of a driver that was killed may have written some of them meanwhile.
    added = [tables[width] for width in _missing_widths(folder, tables)]
    if added:
        folder.write_records("model", joined([*added, folder.read_records("model")]))


def _missing_widths(folder: StudyFolder, widths: Iterable[int]) -> list[int]:
    """Those of `widths` whose layers model.parquet does not hold."""
    return sorted(set(widths) - set(folder.read_records("model", ["width"]).column("width").to_pylist()))


def write_samples(folder: StudyFolder, data: ImageData) -> None:
    """Keep the first images of every class for the sample figure: (classes, n, 32, 32, 3) uint8."""
    if folder.samples.exists():
        return
    rows = [np.flatnonzero(data.train_labels == label)[:SAMPLES_PER_CLASS] for label in range(len(data.class_names))]
    count = min(len(row) for row in rows)
    images = np.stack([data.train_images[row[:count]] for row in rows])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=images, class_names=np.array(data.class_names))
    write_atomically(folder.samples, buffer.getvalue())


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # they are the driver's, which waits for this
        signal.signal(number, signal.SIG_IGN)
    write_model_tables(StudyFolder(Path(sys.argv[1])), map(int, sys.argv[2:]))
