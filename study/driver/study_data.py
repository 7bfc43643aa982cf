"""The data set of a study: one for all its trials, large enough for each of them, and of images that their networks take."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from study.spec.errors import SpecError
from study.spec.search_space import list_corners
from study.spec.study_spec import StudySpec
from trainable.config import PUBLISHED_MODEL, TrialConfig, model_name
from trainable.data.data_set import check_source, load_data, split_data
from trainable.data.image_data import DataError, ImageData
from trainable.data.kinds import sizes_of
from trainable.errors import first_line
from trainable.user_code import user_lines_told


def check_study_source(spec: StudySpec, folder: Path | None) -> str:
    """Where the data would come from, in words; nothing is read. Errors: SpecError, DataError."""
    datasets = {(cell.config["dataset"], cell.config["image_size"]) for cell in spec.cells}
    if len(datasets) > 1:
        raise SpecError("a study has one data set; make one study for each of them")
    return check_source(datasets.pop()[0], folder)


def is_size_known(spec: StudySpec) -> bool:
    """Whether a plan knows the number of images without reading them."""
    return sizes_of(spec.cells[0].config["dataset"]) is not None


def load_study_data(spec: StudySpec, folder: Path | None) -> ImageData:
    """The data set, from `folder`, else the cache, else a download. Errors: SpecError where a trial needs more of it, DataError."""
    first = spec.cells[0].config
    try:
        data = load_data(first["dataset"], folder, image_size=first["image_size"])
        corners = list_corners(spec.search.space, spec.search_base) if spec.search else []
        parents = spec.trial_configs()[: len(spec.cells)]
        for config in (*parents, *spec.branches_of(parents), *corners):
            split_data(data, config)
    except DataError:
        raise
    except ValueError as error:  # of a function of the user's too
        raise SpecError(str(error)) from error
    _check_networks([*spec.trial_configs()[: len(spec.cells)], *corners], data)
    return data


def _check_networks(configs: Iterable[TrialConfig], data: ImageData) -> None:
    """Build each network that is not the published one, once, for the images that it will get. Errors: SpecError."""
    others = {model_name(config.to_dict()): config for config in configs if config.model != PUBLISHED_MODEL}
    if not others:
        return
    from trainable.model import build_network  # torch, which such a network has imported already

    for name, config in others.items():
        try:
            with user_lines_told():
                build_network(config, len(data.class_names), data.input_shape)
        except Exception as error:
            raise SpecError(f"{name} cannot be built for this data: {first_line(error, 400)}") from error
