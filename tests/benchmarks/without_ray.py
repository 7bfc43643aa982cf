"""The trials of a grid one after the other in this process, where Ray is not installed: `--grid paper --device cuda ...`.

Takes the options of `study.run` and leaves a study folder of the same kind: the same command to `study.run`, on a machine with Ray
and the same torch, finds nothing to run and makes the report. Needs torch, pyarrow and pandas alone. For machines that are lent
for minutes; a second call goes on from the last checkpoint of each trial. Prints the seconds of each trial and the comparison.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from analysis.records.study_folder import StudyFolder
from analysis.results.formats import to_text
from analysis.tables import build_tables
from study.command_line.options import build_parser, read_study
from study.driver.study_data import load_study_data
from study.folder.ledger import consolidate, open_ledger, register_trials
from study.folder.model_and_samples import write_samples
from study.folder.repair import write_study
from study.folder.study_record import build_study, describe_invocation, extend_study, with_invocation
from study.plan.resources import TrialResources, default_precision, inspect_machine
from study.storage.folder_lock import FolderLock
from trainable.trial import Placement, run_trial


def main(arguments: list[str]) -> int:
    """Train what is missing, then gather the records and print the comparison."""
    parser = build_parser()
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    options = parser.parse_args(arguments)
    on_gpu = torch.device(options.device).type == "cuda"
    options.gpus_per_trial = 1.0 if on_gpu else None
    machine = inspect_machine()
    resources = TrialResources(machine.num_cpus, 1.0 if on_gpu else 0.0, max_concurrent=1)
    asked = read_study(options)
    precision = default_precision(machine, resources, asked().gpu_precision)  # as study.run has it
    spec = asked(defaults={"precision": precision})
    data = load_study_data(spec, options.data)
    placement = Placement(options.device, machine.num_cpus, resources.gpus_per_trial)
    folder = StudyFolder(Path(options.results) / spec.name)
    study = build_study(spec, data, machine, resources)
    with FolderLock(folder.path):
        if folder.exists():
            study = extend_study(folder.read_study(), study, accept_changes=options.accept_changes)
        ledger = open_ledger(folder, spec.trial_configs(), data.fingerprint)
        write_study(folder, with_invocation(study, describe_invocation(arguments, len(ledger.to_run))))
        register_trials(folder, ledger.to_run)
        write_samples(folder, data)
        for state in ledger.to_run:
            started = time.monotonic()
            ended = run_trial(state.config, data, folder.trial(state.trial_id), placement)
            print(
                f"batch {state.config.batch_size}  lr {state.config.learning_rate:g}  seed {state.config.seed}  "
                f"{ended.status}  {time.monotonic() - started:.1f} s", flush=True,
            )  # fmt: skip
        consolidate(folder)
    print(to_text(build_tables(folder, ["comparison"])["comparison"], width=160))
    print(folder.path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
