"""Every column of every record, with its unit: those named here, and those that instruments declare.

Accuracy is a fraction from 0 to 1, times are seconds, sizes are bytes, angles are radians. Epochs count from 1; steps
count from 0 over the whole trial. A value that was not measured is null, never zero. What may be changed: docs/compatibility.md.
"""

from __future__ import annotations

import pyarrow as pa

from trainable.config import FIELDS
from trainable.discovery import discover
from trainable.instrument import Column, EpochInstrument, Instrument, TensorInstrument, TrialInstrument

_TEXT = pa.string()
_NAME = pa.dictionary(pa.int32(), pa.string())  # few distinct values, many rows

_INSTRUMENTS = discover("trainable.instruments", Instrument)
TENSOR_INSTRUMENTS = tuple(one for one in _INSTRUMENTS.values() if isinstance(one, TensorInstrument))
EPOCH_INSTRUMENTS = tuple(one for one in _INSTRUMENTS.values() if isinstance(one, EpochInstrument))
TRIAL_INSTRUMENTS = tuple(one for one in _INSTRUMENTS.values() if isinstance(one, TrialInstrument))

EPOCH_COLUMNS = (
    Column("trial_id", _NAME, "", "hash of the trial's complete configuration and data"),
    Column("epoch", pa.int32(), "epochs", "finished epochs, from 1"),
    Column("step", pa.int64(), "steps", "steps taken so far"),
    Column(
        "train_loss", pa.float64(), "nats", "mean over the epoch's steps of the batch loss, in training mode, augmented"
    ),
    Column("train_accuracy", pa.float64(), "fraction", "correct over seen training images during the epoch"),
    Column(
        "test_loss",
        pa.float64(),
        "nats",
        "mean over test batches (of the trial's batch size) of the batch loss; null where test_limit is 0",
    ),
    Column("test_accuracy", pa.float64(), "fraction", "correct over all test images; null where test_limit is 0"),
    Column(
        "test_correct", pa.binary(), "", "in the last epoch: which test images were right, a bit each (numpy.packbits)"
    ),
    Column("val_loss", pa.float64(), "nats", "as test_loss, on the held-out training images; null without them"),
    Column("val_accuracy", pa.float64(), "fraction", "as test_accuracy, on the held-out images; null without them"),
    Column("learning_rate", pa.float64(), "", "after the scheduler's step at the end of the epoch, as published"),
    Column("train_time_s", pa.float64(), "s", "augmentation and steps, instruments included"),
    Column("eval_time_s", pa.float64(), "s", "evaluation on the test and validation images"),
    Column(
        "instrument_time_s", pa.float64(), "s", "host time spent in instruments, part of train_time_s where in the loop"
    ),
    Column("images_per_s", pa.float64(), "images/s", "training images over train_time_s"),
    Column(
        "peak_memory_bytes",
        pa.int64(),
        "bytes",
        "most allocated on the GPU in the epoch's steps; on the CPU peak resident memory since the trial began or went on",
    ),
    *(column for one in EPOCH_INSTRUMENTS for column in one.columns),
)

STEP_COLUMNS = (
    Column("trial_id", _NAME, "", "as in epochs"),
    Column("epoch", pa.int32(), "epochs", "the epoch the step belongs to, from 1"),
    Column("step", pa.int64(), "steps", "from 0 over the whole trial"),
    Column(
        "batch_loss",
        pa.float64(),
        "nats",
        "cross-entropy of the step's batch, with the label smoothing of the configuration",
    ),
    Column("running_accuracy", pa.float64(), "fraction", "correct over seen images of the epoch so far"),
    Column("learning_rate", pa.float64(), "", "used by the step"),
    *(column for one in TENSOR_INSTRUMENTS for column in one.step_columns),
)

# The first columns of layers, in the order that their files have; those that are declared later follow by instrument.
_FIRST_OF_LAYERS = (
    "gradient_mean_abs", "gradient_max_abs", "gradient_min_abs", "gradient_std_abs", "gradient_l2", "weight_mean_abs",
    "weight_max_abs", "weight_std", "weight_l2", "update_l2", "update_ratio", "displacement_mean_abs",
    "displacement_max_abs", "displacement_l2", "angular_update",
)  # fmt: skip
_OF_TENSORS = [column for one in TENSOR_INSTRUMENTS for column in one.columns]
_OF_TENSORS += [column for one in EPOCH_INSTRUMENTS for column in one.layer_columns]
LAYER_COLUMNS = (
    Column("trial_id", _NAME, "", "as in epochs"),
    Column("epoch", pa.int32(), "epochs", "the epoch the step belongs to, from 1"),
    Column("step", pa.int64(), "steps", "from 0 over the whole trial"),
    Column("layer", _NAME, "", "name of the parameter tensor"),
    Column("group", _NAME, "", "stage of the network: stem, layer1, layer2, layer3, layer4 or fc of the published one"),
    Column("kind", _NAME, "", "conv, bn, ln, gn, linear, attention, embedding or other"),
    Column("num_elements", pa.int64(), "", "elements of the tensor"),
    *sorted(
        _OF_TENSORS,
        key=lambda c: _FIRST_OF_LAYERS.index(c.name) if c.name in _FIRST_OF_LAYERS else len(_FIRST_OF_LAYERS),
    ),
)

MODEL_COLUMNS = (
    Column("width", pa.int32(), "channels", "the model's width; a study may hold several models"),
    Column("model", _TEXT, "", "the network: its name, fields and width; null in studies of before there was a choice"),
    Column("position", pa.int32(), "", "order of execution, from 0"),
    Column("layer", _TEXT, "", "name of the module"),
    Column("group", _TEXT, "", "stage of the network: stem, layer1, layer2, layer3, layer4 or fc of the published one"),
    Column("kind", _TEXT, "", "as in layers, or relu, add, pool, else the class of the module in small letters"),
    Column("input_shape", _TEXT, "", "channels x height x width of one image"),
    Column("output_shape", _TEXT, "", "channels x height x width of one image"),
    Column("num_parameters", pa.int64(), "", "trainable elements"),
    Column("macs", pa.int64(), "MAC/image", "multiply-accumulates of the forward pass"),
    Column(
        "flops_worksheet", pa.int64(), "FLOP/image", "published convention, forward pass; null where it is not defined"
    ),
    Column(
        "flops_fvcore",
        pa.int64(),
        "FLOP/image",
        "fvcore's convention, forward pass, evaluation mode; null where it cannot trace",
    ),
    Column("flops_two_per_mac", pa.int64(), "FLOP/image", "torch's FlopCounterMode, forward pass"),
    Column("flops_two_per_mac_training", pa.int64(), "FLOP/image", "the same, forward and backward pass"),
)

_CONFIG_TYPES = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "int | None": pa.int64()}
CONFIG_COLUMNS = (
    *(
        Column(f"config.{name}", _CONFIG_TYPES.get(str(spec.type), _TEXT), "", spec.metadata["doc"])
        for name, spec in FIELDS.items()
    ),
    Column("config.model_fields", _TEXT, "", "the fields of the network, as JSON; null where it has none"),
)
TRIAL_INSTRUMENT_COLUMNS = tuple(column for one in TRIAL_INSTRUMENTS for column in one.columns)
TRIAL_COLUMNS = (
    Column("trial_id", _TEXT, "", "hash of the trial's complete configuration and data"),
    Column("cell_id", _TEXT, "", "hash of the configuration without the seed"),
    Column("status", _TEXT, "", "pending, running, completed, diverged, pruned or failed"),
    Column("reason", _TEXT, "", "why the status is what it is, where that needs saying"),
    Column(
        "role",
        _TEXT,
        "",
        "grid, search (validated, never tested), confirmation (of a search, on the test set) or branch",
    ),
    Column("parent_id", _TEXT, "", "trial that a branch goes on from; its config.* are the parent's but for branch_*"),
    Column("seed", pa.int64(), "", "as config.seed"),
    *CONFIG_COLUMNS,
    Column("data_fingerprint", _TEXT, "", "hash of the images and labels"),
    Column("code_fingerprint", _TEXT, "", "hash of the source of the package trainable"),
    Column(
        "epochs_completed", pa.int32(), "epochs", "epochs with a record; of a branch those of its parent before it too"
    ),
    Column("attempts", pa.int32(), "", "how often the trial was started or resumed"),
    Column("failures", pa.int32(), "", "how often it ended with an error"),
    Column("hardware", _TEXT, "", "device the trial ran on"),
    Column("hostname", _TEXT, "", "node the trial ran on last"),
    Column("num_threads", pa.int32(), "", "CPU threads of the training"),
    Column("gpu_share", pa.float64(), "GPUs", "GPUs the trial had; 0 on the CPU"),
    Column("gpu_ids", pa.string(), "", "which GPUs of its node it could see (CUDA_VISIBLE_DEVICES); null if none"),
    Column(
        "timing_exclusive",
        pa.bool_(),
        "",
        "false if other trials may have shared its device, or if it went on on another: its times are then no results",
    ),
    Column(
        "engine", _TEXT, "", "what ran its steps: eager, compile or graph; null in trials of before there was a choice"
    ),
    Column("preparation_time_s", pa.float64(), "s", "compiling, capturing and warming up, in the time of no epoch"),
    Column("torch_version", _TEXT, "", "torch that trained it"),
    Column("started_at", _TEXT, "", "UTC, ISO 8601"),
    Column("ended_at", _TEXT, "", "UTC, ISO 8601"),
    Column("wall_time_s", pa.float64(), "s", "time in the trial over all its attempts"),
    *TRIAL_INSTRUMENT_COLUMNS,
)
TRIAL_STATUSES = ("pending", "running", "completed", "diverged", "pruned", "failed")
TRIAL_ROLES = ("grid", "search", "confirmation", "branch")

BARRIER_COLUMNS = (
    Column("first", _TEXT, "", "trial whose final weights the line begins with"),
    Column("second", _TEXT, "", "trial whose final weights it ends with: of the same seed and network, in another cell"),
    Column("seed", pa.int64(), "", "of both"),
    Column("barrier", pa.float64(), "nats", "largest rise of the loss above the line between both ends; batch norm's statistics anew at every point"),
    Column("at", pa.float64(), "", "where, from 0 at the first to 1 at the second"),
    Column("loss_first", pa.float64(), "nats", "loss of the first, on these images"),
    Column("loss_second", pa.float64(), "nats", "loss of the second"),
    Column("points", pa.int64(), "", "on the line, its ends included"),
    Column("images", pa.int64(), "images", "training images, not augmented"),
)  # fmt: skip

COLUMNS: dict[str, tuple[Column, ...]] = {
    "trials": TRIAL_COLUMNS,
    "epochs": EPOCH_COLUMNS,
    "steps": STEP_COLUMNS,
    "layers": LAYER_COLUMNS,
    "model": MODEL_COLUMNS,
    "barriers": BARRIER_COLUMNS,
}

# What tables put beside the columns of a record: the cell's label, the network, what its trial is. No column is called so.
_OF_ITS_TRIAL = {"label", "model", *(c.name for c in TRIAL_COLUMNS if c not in TRIAL_INSTRUMENT_COLUMNS)} - {"trial_id"}
RESERVED: dict[str, set[str]] = {"trials": {"label"}, "epochs": _OF_ITS_TRIAL, "steps": _OF_ITS_TRIAL}
