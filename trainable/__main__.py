"""`python -m trainable`: one trial in this process, without Ray, one line per epoch."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trainable.config import FIELDS, TrialConfig, model_name, parse_overrides, trial_id
from trainable.models import complete_config

if TYPE_CHECKING:
    from trainable.training.loop import EpochResult


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m trainable",
        description="Train one configuration in this process and print one line per epoch.",
        epilog="fields and defaults: " + ", ".join(f"{name}={spec.default}" for name, spec in FIELDS.items()),
    )
    parser.add_argument("--epochs", metavar="N", help="as --set epochs=N")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="a field of the trial; repeatable"
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="folder with the data set; default: cache, else download"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="keep checkpoints and records in DIR/<trial id>; go on from there"
    )
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads (default: all)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one trial; 0 completed, 1 diverged, 2 bad input, 130 interrupted."""
    options = build_parser().parse_args(arguments)
    try:
        default = {"precision": "bf16" if options.device.startswith("cuda") else "fp32"}  # as study.run has it
        config = TrialConfig.from_dict({**default, **parse_overrides(options.set, options.epochs)})
        config = complete_config(config, [Path()])
        return _run(config, options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        where = f"; the same command goes on from {options.out}" if options.out else ""
        print(f"interrupted{where}", file=sys.stderr)
        return 130


def _run(config: TrialConfig, options: argparse.Namespace) -> int:
    import torch

    from trainable.data.data_set import load_data
    from trainable.data.kinds import check_dataset
    from trainable.device.engine_check import choose_engine
    from trainable.training.loop import TrainingDiverged, train
    from trainable.trial import Placement, run_trial

    if options.threads < 1:
        raise ValueError(f"--threads {options.threads} is not a number of threads")
    _check_device(options.device)
    check_dataset(config.dataset, (Path(),))
    data = load_data(config.dataset, options.data, image_size=config.image_size)
    print(f"{data.dataset}  {len(data.train_labels):,}/{len(data.test_labels):,} images from {data.source}")
    print(f"trial {trial_id(config, data.fingerprint)}  {model_name(config.to_dict())}  batch {config.batch_size}  "
          f"lr {config.learning_rate:g}  seed {config.seed}  {config.precision} on {options.device}")  # fmt: skip
    for line in config.without_effect.values():
        print(line)
    if options.out is not None:
        folder = options.out.absolute() / trial_id(config, data.fingerprint)
        on_gpu = torch.device(options.device).type == "cuda"
        placement = Placement(
            device=options.device,
            num_threads=options.threads,
            gpu_share=1.0 if on_gpu else 0.0,
            gpu_ids=os.environ.get("CUDA_VISIBLE_DEVICES") if on_gpu else None,
        )
        state = run_trial(config, data, folder, placement, on_epoch=_print_epoch)
        print(f"{state.status}{': ' + state.reason if state.reason else ''}  {folder}")
        return 1 if state.status == "diverged" else 0
    torch.set_num_threads(options.threads)
    try:
        engine = choose_engine(config, options.device, len(data.class_names), data.input_shape)
        if engine.reason:
            print(f"engine {engine.name}, not a faster one: {engine.reason}")
        for result in train(config, data, device=options.device, engine=engine.name):
            _print_epoch(result)
    except TrainingDiverged as diverged:
        print(f"diverged: {diverged}")
        return 1
    return 0


def _check_device(name: str) -> None:
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device {name}: no such kind of device; cpu and cuda are known") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"--device {name}: only cpu and cuda are supported")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: torch sees no CUDA device here")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {name}: the last that torch sees here is cuda:{torch.cuda.device_count() - 1}")


def _print_epoch(result: EpochResult) -> None:
    row = result.metrics
    scores = "".join(
        f"{kind} {row[f'{kind}_loss']:.3f} {row[f'{kind}_accuracy']:.2%}  "
        for kind in ("test", "val")
        if row[f"{kind}_accuracy"] is not None
    )
    print(
        f"epoch {row['epoch']:>3}  train {row['train_loss']:.3f} {row['train_accuracy']:.2%}  "
        f"{scores}lr {row['learning_rate']:.4f}  "
        f"{row['images_per_s']:,.0f} images/s  {row['train_time_s']:.1f} s",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
