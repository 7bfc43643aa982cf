"""Images that this program draws."""

from __future__ import annotations

from trainable.data.image_data import IMAGE_SHAPE
from trainable.data.kinds import DataSetKind
from trainable.data.synthetic import CLASS_NAMES, NUM_TEST, NUM_TRAIN, draw_images

DATA_SET = DataSetKind(
    name="synthetic", title="synthetic images", class_names=CLASS_NAMES, shape=IMAGE_SHAPE, num_train=NUM_TRAIN,
    num_test=NUM_TEST, draw=draw_images,
)  # fmt: skip
