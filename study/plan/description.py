"""The plan of a study in words, line by line, as `--plan` prints it. Imports neither torch nor Ray."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from analysis.design.confounds import find_confounds
from analysis.design.grid_text import write_grid
from study.plan.calibration import Speed, SpeedKey
from study.plan.estimate import (
    describe_cost,
    describe_search,
    describe_trials,
    estimate_cost,
    gpu_notes,
    nominal_train_images,
)
from study.plan.resources import Machine, TrialResources
from study.spec.study_spec import StudySpec


def describe_plan(
    spec: StudySpec, resources: TrialResources, machine: Machine, speeds: Mapping[SpeedKey, Speed] | None
) -> Iterator[str]:
    """What would run and what it costs; of a grid also what it cannot tell, and a grid that can."""
    if spec.search is not None:
        yield from describe_search(spec, resources)
        return
    configs = spec.trial_configs()
    yield from describe_cost(estimate_cost(configs, resources, speeds), resources, len(configs))
    yield from (f"note      {line}" for line in [*gpu_notes(machine, resources), *spec.reductions])
    yield from ("", *describe_trials(spec))
    confounds = find_confounds(spec.cells, spec.factors, nominal_train_images(configs[0]))
    if confounds:
        yield from ("", *confounds.sentences)
    if confounds.extra_cells:
        yield "\nA grid that tells them apart, to save as a FILE.toml for --grid:\n"
        yield write_grid(confounds, spec.cells, name=spec.name, title=spec.title, seeds=spec.seeds,
                         margin=spec.equivalence_margin)  # fmt: skip
