"""The loss that branches are compared by: of a fixed set of training images, in the same batches whatever the batch size.

The loss of an epoch's own steps will not do: it is a mean over the epoch, and batch norm makes it depend on the batch size. Neither
will evaluation mode: batch norm's running statistics lag behind the weights by a number of steps, which are fewer with larger batches.
So batch norm normalises over each of the fixed batches, as in training. In fp32 whatever the steps are in. The model is left as it was.
"""

from __future__ import annotations

import pyarrow as pa

from trainable.instrument import Column, EpochEnd, EpochInstrument

BATCH_SIZE = 256
NUM_IMAGES = 2_048


def measure_epoch(end: EpochEnd) -> dict[str, float | None]:
    """The mean cross-entropy over training images drawn once for the seed, not augmented; as many as fill batches."""
    import torch
    from torch.func import functional_call

    from trainable.data.augmentation import draw_order, normalise
    from trainable.measuring.curvature import set_aside

    split = end.training_images
    size = min(BATCH_SIZE, len(split.labels))
    num_batches = min(NUM_IMAGES, len(split.labels)) // size
    chosen = draw_order(len(split.labels), end.config, 0)[: num_batches * size].numpy()  # the same after every epoch
    images, labels = (torch.from_numpy(part[chosen]).to(end.device) for part in (split.images, split.labels))
    total = torch.zeros((), dtype=torch.float64, device=end.device)
    with set_aside(end.model, end.device) as buffers, torch.no_grad():
        for batch, targets in zip(torch.split(images, size), torch.split(labels, size), strict=True):
            logits = functional_call(end.model, buffers, (normalise(batch, split.normalisation),)).float()
            total += torch.nn.functional.cross_entropy(logits, targets).double()
    return {"training_set_loss": float(total / num_batches)}


TRAINING_SET_LOSS = EpochInstrument(
    name="training_set_loss",
    columns=(
        Column(
            "training_set_loss", pa.float64(), "nats",
            "of branches: mean cross-entropy of up to 2,048 fixed training images, not augmented, batch norm over 256 of them",
        ),
    ),
    every=lambda config: int(config.branch_epoch > 0),
    measure=measure_epoch,
    num_images=NUM_IMAGES,
)  # fmt: skip
