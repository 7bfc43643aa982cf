"""The classes of the test images, and the test images on which cells differ most: what a study folder keeps of its test set.

Both are in the order of the bits of `test_correct`. Older folders have neither.
"""

from __future__ import annotations

import zipfile

import numpy as np

from analysis.records.study_folder import StudyFolder, StudyFolderError, read_arrays


def read_test_labels(folder: StudyFolder) -> np.ndarray | None:
    """The class of every test image (N,) uint8; None where it was not kept. Errors: StudyFolderError."""
    kept = folder.read_samples()
    if kept is None or not _has(folder, "test_labels.npy"):
        return None
    (labels,) = read_arrays(folder.samples, "test_labels")
    if labels.ndim != 1 or labels.dtype != np.uint8 or (len(labels) and labels.max() >= len(kept[1])):
        raise StudyFolderError(f"{folder.samples}: test_labels are not the numbers of {len(kept[1])} classes")
    return labels


def read_telling_images(folder: StudyFolder) -> tuple[np.ndarray, np.ndarray] | None:
    """Places in the test set (n,), and the images there (n, height, width, 3 or 1) uint8; None where none were kept.

    Errors: StudyFolderError.
    """
    path = folder.telling_images
    if not path.exists():
        return None
    indices, images = read_arrays(path, "indices", "images")
    if (
        images.ndim != 4
        or images.shape[3] not in (1, 3)
        or images.dtype != np.uint8
        or indices.shape != images.shape[:1]
    ):
        raise StudyFolderError(f"{path}: {indices.shape} places for images of shape {images.shape}, {images.dtype}")
    if indices.dtype.kind not in "iu" or (indices < 0).any():
        raise StudyFolderError(f"{path}: places are no numbers from 0")
    return indices, images


def _has(folder: StudyFolder, name: str) -> bool:
    with zipfile.ZipFile(folder.samples) as content:
        return name in content.namelist()
