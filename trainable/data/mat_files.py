"""SVHN as first published: a MATLAB file a part, with images X (32, 32, 3, n) and labels y, in which 10 is the digit 0."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainable.data.image_data import DataError, Images
from trainable.errors import first_line


def read_mat_file(paths: tuple[Path, ...]) -> Images:
    """Images (n, 32, 32, 3) and labels (n,) of one file. Errors: DataError naming it."""
    from scipy.io import loadmat  # slow to import, and rarely needed

    (path,) = paths
    try:
        content = loadmat(path, variable_names=("X", "y"))
        planes, digits = np.asarray(content["X"]), np.asarray(content["y"]).ravel()
    except KeyError as error:
        raise DataError(f"{path}: holds no {first_line(error)}; X and y are needed") from error
    except Exception as error:  # scipy raises what its parsing happens to meet
        raise DataError(f"{path}: not a readable MATLAB file ({first_line(error)})") from error
    if planes.dtype != np.uint8 or planes.ndim != 4 or planes.shape[:3] != (32, 32, 3):
        raise DataError(f"{path}: X is {planes.dtype} of shape {planes.shape}, uint8 (32, 32, 3, n) is needed")
    if digits.dtype.kind not in "iu" or len(digits) != planes.shape[3] or not ((digits >= 0) & (digits <= 10)).all():
        raise DataError(f"{path}: y is not a digit, 1 to 10, for each of the {planes.shape[3]} images")
    return np.ascontiguousarray(planes.transpose(3, 0, 1, 2)), (digits % 10).astype(np.int64)
