"""`study barriers STUDY`: loss barriers between the final weights of trials that began alike, for a figure of the report. See `--help`.

Pairs are the completed trials of one seed and one network in different cells: they share their initialisation and the order of their
images. Final weights are those of the last checkpoints, so a study that was fetched without them has none. Writes barriers.parquet into
the study's folder. A network or data set of the user's is read from the working folder, as it was when the study was trained. Exit status: 0, 2 bad input.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from analysis.records.frames import Study, load_study
from analysis.records.study_folder import StudyFolderError
from study.command_line.exit_status import BAD_INPUT, OK
from study.command_line.program import program_name
from trainable.config import model_name
from trainable.data.image_data import DataError, ImageData
from trainable.files import write_atomically
from trainable.records.tables import build_table
from trainable.user_code import is_reference, provide, read_sources

if TYPE_CHECKING:
    from trainable.records.checkpoint import Checkpoint

Pair = tuple[str, str]
_BATCH = 256


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=program_name("barriers"),
        description="Measure loss barriers between the final weights of a study's trials of the same seed.",
        epilog="Then `study report STUDY` shows them. Batch norm's statistics are computed anew at every point of a line.",
    )
    parser.add_argument("study", type=Path, metavar="STUDY", help="the study's folder, with its checkpoints")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="the images it was trained on (default: as `study run`)"
    )
    parser.add_argument(
        "--points", type=int, default=9, metavar="N", help="on each line, its ends included (default: 9)"
    )
    parser.add_argument(
        "--images", type=int, default=1024, metavar="N", help="training images, not augmented (default: 1024)"
    )
    return parser  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = build_parser().parse_args(arguments)
    try:
        return _measure(options)
    except (StudyFolderError, DataError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT


def _measure(options: argparse.Namespace) -> int:
    from trainable.data.data_set import load_data

    if options.points < 3 or options.images < 2:
        raise ValueError("--points is at least 3, --images at least 2")
    study = load_study(options.study)
    pairs = list_pairs(study)
    if not pairs:
        raise ValueError(
            f"{options.study}: no two completed trials share seed and network, so there is no pair to measure"
        )
    first = study.info.cells[0].config
    for code in {str(cell.config[name]) for cell in study.info.cells for name in ("model", "dataset")}:
        if is_reference(code):
            provide(read_sources(code, [Path()]))
    data = load_data(first["dataset"], options.data, image_size=first["image_size"])
    if data.fingerprint != study.info.data["fingerprint"]:
        raise ValueError(
            f"the study was trained on other images ({study.info.data['fingerprint'][:12]}): name them with --data"
        )
    rows = measure_pairs(study, pairs, data, options.points, options.images)
    sink = pa.BufferOutputStream()
    pq.write_table(build_table("barriers", rows), sink, compression="zstd")
    write_atomically(study.folder.records("barriers"), sink.getvalue())
    heights = sorted(row["barrier"] for row in rows)
    print(
        f"{len(rows)} pairs: barriers from {heights[0]:.3f} to {heights[-1]:.3f} nats, in {study.folder.records('barriers')}"
    )
    return OK


def list_pairs(study: Study) -> list[Pair]:
    """The ids of completed trials of the same seed and network in different cells, in the study's order."""
    places = {cell_id: place for place, cell_id in enumerate(study.cells)}
    trials = study.trials[study.trials["trial_id"].isin(study.completed_ids)]
    trials = trials.assign(place=trials["cell_id"].map(places)).sort_values(["seed", "place"])
    networks = {cell_id: model_name(cell.config) for cell_id, cell in study.cells.items()}
    found: list[Pair] = []
    for _, own in trials.groupby(["seed", trials["cell_id"].map(networks)]):
        found += itertools.combinations(own["trial_id"], 2)
    return found


def measure_pairs(
    study: Study, pairs: list[Pair], data: ImageData, num_points: int, num_images: int
) -> list[dict[str, Any]]:
    """A row of barriers for every pair. Errors: ValueError where a checkpoint is missing or damaged."""
    import torch

    from trainable.data.augmentation import fixed_images
    from trainable.data.data_set import split_data
    from trainable.measuring.barriers import measure_barrier
    from trainable.model import build_network

    seeds = study.trials.set_index("trial_id")["seed"]
    states: dict[str, Checkpoint] = {name: _last_checkpoint(study, name) for name in dict.fromkeys(sum(pairs, ()))}
    rows = []
    for first, second in pairs:
        config = states[first].config
        images, labels = fixed_images(split_data(data, config).train, num_images, torch.device("cpu"))
        batches = list(zip(torch.split(images, _BATCH), torch.split(labels, _BATCH), strict=True))
        model = build_network(config, len(data.class_names), (images.shape[1], images.shape[2], images.shape[3])).to(
            memory_format=torch.channels_last
        )
        found = measure_barrier(model, states[first].model, states[second].model, batches, num_points)
        rows.append({
            "first": first, "second": second, "seed": int(seeds[first]), "barrier": found.height, "at": found.at,
            "loss_first": found.losses[0], "loss_second": found.losses[-1], "points": num_points, "images": len(labels),
        })  # fmt: skip
    return rows


def _last_checkpoint(study: Study, trial_id: str) -> Checkpoint:
    from trainable.records.checkpoint import list_checkpoints, read_checkpoint

    folder = study.folder.trial(trial_id)
    paths = list_checkpoints(folder)
    if not paths:
        raise ValueError(
            f"{folder}: no checkpoint; barriers are between the final weights, which only the place that trained them has"
        )
    return read_checkpoint(paths[0])


if __name__ == "__main__":
    sys.exit(main())
