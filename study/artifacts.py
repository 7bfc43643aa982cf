"""What the report draws besides measurements: the layers of the models, and sample images; written once per study."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from analysis.study_folder import StudyFolder
from trainable.files import write_atomically

if TYPE_CHECKING:
    from trainable.image_data import ImageData

SAMPLES_PER_CLASS = 10


def write_model_tables(folder: StudyFolder, widths: Iterable[int]) -> None:
    """Add the layer tables of models that the study does not know yet to model.parquet."""
    import pyarrow as pa

    known = folder.read_records("model")
    missing = sorted(set(widths) - set(known.column("width").to_pylist()))
    if missing:
        from trainable.instruments.flops import model_table

        tables = [model_table(width) for width in missing]
        folder.write_records("model", pa.concat_tables([*tables, known]))


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
