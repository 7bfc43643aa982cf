"""A data set that a function of the user's makes."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainable.data.image_data import DataError, ImageData, Images, build_image_data
from trainable.user_code import resolve, user_lines_told

_RETURNS = "(train_images, train_labels), (test_images, test_labels), class_names"


def call_function(dataset: str, folder: Path | None, source: str) -> ImageData:
    """What the function returns: (images, labels) for training and for test, and the names of the classes.

    Images are uint8 (n, height, width, channels) with 1 or 3 channels, labels whole numbers. One that has a parameter `folder` gets
    the folder of --data, or None. Errors: DataError, UserCodeError with the line of the user's.
    """
    function = resolve(dataset)
    with user_lines_told():
        returned = function(folder) if "folder" in inspect.signature(function).parameters else function()
    try:
        train, test, names = returned
        train, test = _as_images(*train), _as_images(*test)
    except (TypeError, ValueError) as error:
        raise DataError(f"{dataset}: does not return {_RETURNS} ({error})") from error
    if isinstance(names, str) or not isinstance(names, Sequence | np.ndarray):
        raise DataError(f"{dataset}: class names are a {type(names).__name__}, a list of names is needed")
    return build_image_data(dataset, train, test, [str(name) for name in names], source)


def _as_images(images: Any, labels: Any) -> Images:
    """Arrays of the right types where that changes no value; what is wrong with them `build_image_data` says."""
    numbers = np.asarray(labels)
    if numbers.dtype.kind not in "iu":
        raise ValueError(f"labels are {numbers.dtype}, whole numbers are needed")
    return np.array(images), numbers.astype(np.int64)
