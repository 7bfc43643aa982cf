"""What the report shows besides measurements: the layers of the models, sample images and classes, telling test images."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from analysis.records.image_files import read_test_labels
from analysis.records.study_folder import StudyFolder
from analysis.records.study_json import StudyInfo
from trainable.config import TrialConfig, model_name
from trainable.data.data_set import Split, split_data
from trainable.data.image_data import ImageData
from trainable.files import write_atomically
from trainable.user_code import Source, provide, provided

SAMPLES_PER_CLASS = 10
_ROOT = Path(__file__).parents[2]


@contextmanager
def model_tables(folder: StudyFolder, configs: Iterable[TrialConfig], data: ImageData) -> Iterator[None]:
    """Meanwhile, add the layer tables of networks that the study does not know yet to model.parquet.

    A process of its own does it: torch takes seconds to import, in which Ray starts, and 600 MB, which the driver does without.
    """
    missing = _missing_networks(folder, configs)
    if not missing:
        yield
        return
    asked = {
        "configs": [config.to_dict() for config in missing.values()], "code": [asdict(source) for source in provided()],
        "num_classes": len(data.class_names), "input_shape": data.input_shape,
    }  # fmt: skip
    counting = subprocess.Popen(
        [sys.executable, "-m", "study.folder.model_and_samples", str(folder.path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])},
        stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, text=True,
    )  # fmt: skip
    assert counting.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # why it has ended already, it says below
        counting.stdin.write(json.dumps(asked))
        counting.stdin.close()
    try:
        yield
    finally:
        counting.stdin = None
        _, said = counting.communicate()
        if counting.returncode:
            reason = (said.strip().splitlines() or [f"status {counting.returncode}"])[-1]
            print(f"note: the model's layers were not counted ({reason}); the same command does it")


def write_model_tables(
    folder: StudyFolder, configs: Iterable[TrialConfig], num_classes: int, input_shape: tuple[int, int, int]
) -> None:
    """Add the layer tables of networks that the study does not know yet to model.parquet."""
    from trainable.measuring.flops import model_table
    from trainable.records.tables import joined

    missing = _missing_networks(folder, configs)
    tables = {name: model_table(config, num_classes, input_shape) for name, config in missing.items()}
    # Asked again: the counting process of a driver that was killed may have written some of them meanwhile.
    added = [tables[name] for name in _missing_networks(folder, missing.values())]
    if added:
        folder.write_records("model", joined([*added, folder.read_records("model")]))


def _missing_networks(folder: StudyFolder, configs: Iterable[TrialConfig]) -> dict[str, TrialConfig]:
    """By the name of the network, a configuration of each whose layers model.parquet does not hold."""
    known = folder.read_records("model", ["width", "model"]).to_pylist()
    names = {row["model"] or model_name({"width": row["width"]}) for row in known}
    asked = {model_name(config.to_dict()): config for config in configs}
    return {name: asked[name] for name in sorted(asked) if name not in names}


def write_samples(folder: StudyFolder, data: ImageData, study: StudyInfo | None = None) -> None:
    """Keep the first images of every class for the sample figure, (classes, n, height, width, channels) uint8, and the classes of the images
    that the cells of `study` are tested on, (N,) uint8; of no study, or one without cells yet, none."""
    tested = None if study is None else tested_part(data, study)
    labels = np.empty(0, np.uint8) if tested is None else tested.labels.astype(np.uint8)
    if folder.samples.exists():
        kept = read_test_labels(folder)
        if not len(labels) or (kept is not None and np.array_equal(kept, labels)):
            return
    rows = [np.flatnonzero(data.train_labels == label)[:SAMPLES_PER_CLASS] for label in range(len(data.class_names))]
    count = min(len(row) for row in rows)
    images = np.stack([data.train_images[row[:count]] for row in rows])
    buffer = io.BytesIO()
    known: dict[str, Any] = {"test_labels": labels} if len(labels) else {}
    np.savez_compressed(buffer, images=images, class_names=np.array(data.class_names), **known)
    write_atomically(folder.samples, buffer.getvalue())


def tested_part(data: ImageData, study: StudyInfo) -> Split | None:
    """The largest test set of the study's cells, in the order of the bits of `test_correct`; None without cells."""
    available = len(data.test_labels)
    limits = [cell.config["test_limit"] for cell in study.cells]
    if not limits:
        return None
    limit = max(available if limit is None else min(limit, available) for limit in limits)
    return split_data(data, TrialConfig(batch_size=1, test_limit=limit)).test


def write_telling_images(folder: StudyFolder, data: ImageData) -> None:
    """Keep the test images on which the compared cells differ most: their places in the test set and (n, height, width, channels) uint8.

    An earlier file is replaced, or removed where there is nothing to tell.
    """
    from analysis.comparison.tested_images import compare_images  # pandas and SciPy take a second to import
    from analysis.records.frames import load_study

    study = load_study(folder)
    compared, tested = compare_images(study), tested_part(data, study.info)
    if compared is None or tested is None or len(tested.labels) != len(compared.shares[0]):
        folder.telling_images.unlink(missing_ok=True)
        return
    indices = compared.most_telling()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, indices=indices, images=tested.images[indices])
    write_atomically(folder.telling_images, buffer.getvalue())


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # they are the driver's, which waits for this
        signal.signal(number, signal.SIG_IGN)
    _asked = json.load(sys.stdin)
    provide(Source(**source) for source in _asked["code"])
    write_model_tables(
        StudyFolder(Path(sys.argv[1])), map(TrialConfig.from_dict, _asked["configs"]), _asked["num_classes"],
        tuple(_asked["input_shape"]),
    )  # fmt: skip
