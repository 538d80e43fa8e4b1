"""What a configuration file asks of the workflow: settings, runs, faults, and the book's pages.

What that takes, `preview.py` says. ``plan.py CONFIG`` says where the book lies.
"""

import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from hsc_utils import manifest, paper, preparation
from hsc_utils.files import from_caller, from_root, shown_path
from hsc_utils.run import (
    INPUTS,
    WORKFLOW,
    ParameterError,
    check_inputs,
    check_simulation,
    declared_parameters,
    find_notebook,
    output_directory,
    read_sections,
)
from hsc_utils.study import (
    SLICES,
    Run,
    Study,
    TrainingSettings,
    model_name,
    parse_model_name,
)

NOTEBOOKS = (
    "01_data_preparation",
    "02_blob_tuning",
    "03_image_level_training",
    "04_cell_level_training",
    "05_comparison_wang_et_al",
    "06_grad_cam",
    "07_shortcuts",
    "08_new_images",
)
PREPARATION, DETECTION, IMAGE_LEVEL, CELL_LEVEL = NOTEBOOKS[:4]
COMPARISON, EXPLANATION, AUDIT, NEW_IMAGES = NOTEBOOKS[4:]
LEVELS = ("image", "cell")
RAW_INPUTS = ("raw_dir", "ready_cells_dir")
TRAINING = dict(zip(LEVELS, (IMAGE_LEVEL, CELL_LEVEL), strict=True))

sections_of = cache(read_sections)


def study_of(config: str) -> Study:
    """Return the study that a configuration file names."""
    if "study" not in sections_of(config):
        raise ParameterError(
            f"{shown_path(config)} names no study, the folder for all results: add a first line "
            "such as `study: results/mine`."
        )
    return Study(sections_of(config)["study"])


def settings_of(config: str, notebook: str) -> dict:
    """Return every parameter of a notebook: the file's, and otherwise its default."""
    declared = declared_parameters(find_notebook(notebook))
    sections = sections_of(config)
    given = {"study": sections["study"]} | sections.get(notebook, {})
    return {name: default for name, (_, default) in declared.items()} | given


def sweep_of(config: str) -> dict:
    """Return the section ``workflow``, defaults included."""
    return {name: usual for name, (_, usual) in WORKFLOW.items()} | sections_of(config).get(
        "workflow", {}
    )


def takes_ready_cells(config: str) -> bool:
    """Tell whether cells come ready, so that there are no images to prepare or to train on."""
    return settings_of(config, DETECTION)["ready_cells_dir"] is not None


def is_simulated(config: str) -> bool:
    """Tell whether the demo's acquisitions are made first."""
    return not takes_ready_cells(config) and settings_of(config, PREPARATION)["simulate_demo"]


def notebooks_of(config: str) -> tuple[str, ...]:
    """List the notebooks that a study goes through.

    Ready cells need neither 01 nor 03, and 08 needs new images, which the demo simulates.
    """
    left_out = {PREPARATION, IMAGE_LEVEL} if takes_ready_cells(config) else set()
    if not (is_simulated(config) or settings_of(config, NEW_IMAGES)["new_images_dir"]):
        left_out.add(NEW_IMAGES)
    return tuple(name for name in NOTEBOOKS if name not in left_out)


def models_of(config: str, level: str) -> list[str]:
    """Return the models of the sweep at one level, the one that the book prefers first."""
    sweep = sweep_of(config)
    models = list(sweep[f"{level}_models"])
    if level == "cell" and sweep["slices"]:
        subsets = [parse_model_name(f"x-slice{subset}")[1] for subset in SLICES]
        models += [model_name(sweep["slices"], subset) for subset in subsets]
    return list(dict.fromkeys(models))


def runs_of(config: str, level: str) -> list[Run]:
    """Return the runs of the sweep at one level, the one that the book prefers first."""
    study, seeds = study_of(config), dict.fromkeys(sweep_of(config)["seeds"])
    return [study.run(level, model, seed) for model in models_of(config, level) for seed in seeds]


def chapters(config: str) -> list[Path]:
    """List the executed notebooks of the book; of a level, the first run that did not fail."""
    listed = []
    for name in notebooks_of(config):
        folder = output_directory(name, settings_of(config, name))
        if name in TRAINING.values():
            runs = runs_of(config, LEVELS[name == CELL_LEVEL])
            folder = next((run for run in runs if run.failure is None), runs[0]).directory
        listed.append(folder / f"{name}.ipynb")
    return listed


def runs_read_by(config: str, notebook: str) -> list[Run]:
    """List the runs that notebook 06 explains, 07 audits, or 08 predicts with."""
    study, chosen = study_of(config), settings_of(config, notebook)
    models = {level: chosen[f"{level}_model"] for level in LEVELS}
    return [
        study.run(level, model, seed)
        for level, model in models.items()
        if model is not None
        for seed in seeds_read_by(config, notebook)
    ]


def seeds_read_by(config: str, notebook: str) -> list[int]:
    """List the seeds of these runs: one, or in 08 several."""
    chosen = settings_of(config, notebook)
    return list(
        dict.fromkeys(chosen["run_seeds"] if notebook == NEW_IMAGES else [chosen["run_seed"]])
    )


def carded_runs(config: str) -> list[Run]:
    """List the runs whose model cards stand in the book: those audited, and those of 08."""
    known = notebooks_of(config)
    runs = [
        run for name in (AUDIT, NEW_IMAGES) if name in known for run in runs_read_by(config, name)
    ]
    return list({run.directory: run for run in runs}.values())


def unreadable(notebook: Path) -> bool:
    """Tell whether an executed notebook is there, but cut short or damaged."""
    try:
        return notebook.exists() and not json.loads(notebook.read_text())["cells"]
    except (ValueError, LookupError, TypeError):
        return True


def state_of_inputs(settings: dict) -> dict[str, str]:
    """Hash the state of each file or folder that a notebook reads, so that a change is noticed."""
    return {name: state_of(from_root(settings[name])) for name in INPUTS if settings.get(name)}


def state_of(place: Path) -> str:
    """Hash names, sizes and times of a file or all below a folder, whatever their names hold."""
    state = hashlib.sha256()
    for path in [place] if place.is_file() else sorted(preparation.files_below(place)):
        if path.is_file():
            found = path.stat()
            state.update(os.fsencode(path.relative_to(place)) + b"\0")
            state.update(f"{found.st_size} {found.st_mtime_ns}\0".encode())
    return state.hexdigest()


def check(config: str) -> None:
    """Refuse a configuration that would fail after hours.

    Raises
    ------
    ParameterError
        With a line per fault: what `read_sections` finds, models that nobody can or does train,
        settings out of range, and data that are not where they should be.
    """
    study_of(config)
    refuse(config, [*faults_of_settings(config), *faults_of_data(config)])


def refuse(config: str, faults: Sequence[str]) -> None:
    """Raise the faults of a configuration, a line each, if there are any."""
    if faults:
        raise ParameterError("\n".join(f"{shown_path(config)}: {fault}" for fault in faults))


def faults_of_settings(config: str) -> Iterator[str]:
    """Say what is wrong in a file, whatever data there are."""
    yield from _faults_of_sweep(config)
    yield from _faults_of_ready_cells(config)
    yield from _faults_of_models(config)
    for notebook in notebooks_of(config):
        settings = settings_of(config, notebook)
        try:
            check_simulation(settings)
            output_directory(notebook, settings)
        except ParameterError as error:
            yield f"{notebook}: {error}"
    for level, notebook in TRAINING.items():
        if notebook not in notebooks_of(config):
            continue
        try:
            weights = training_settings(config, level).weights
        except ValueError as error:
            yield f"{notebook}: {error}"
            continue
        folds = settings_of(config, notebook)["folds"]
        if folds and folds < manifest.MIN_FOLDS:
            yield f"{notebook}: folds is {folds}; 0 (none) or at least {manifest.MIN_FOLDS}."
        if weights not in ("imagenet", "none", "auto") and not from_root(weights).is_file():
            yield (
                f"{notebook}: weights: there is no file {shown_path(weights)}. Give 'imagenet', "
                "'none', 'auto', or the path of a state dict."
            )


def training_settings(config: str, level: str, **of_run: object) -> TrainingSettings:
    """Return the settings of a level's notebook; of one run with what is its own."""
    settings = settings_of(config, TRAINING[level])
    settings |= settings["augmentation"] | of_run
    names = [field.name for field in dataclasses.fields(TrainingSettings)]
    return TrainingSettings(**{name: settings[name] for name in names})


def faults_of_data(config: str) -> Iterator[str]:
    """Say where data were looked for and not found."""
    raw = raw_folder(config)
    if not is_simulated(config) and not any(preparation.files_below(raw)):
        if takes_ready_cells(config):
            yield (
                f"{DETECTION}: there are no cells in {shown_path(raw)} (parameter "
                "ready_cells_dir), where a folder per class with an image per cell was expected."
            )
        else:
            yield (
                f"{PREPARATION}: there are no data in {shown_path(raw)} (parameter raw_dir). "
                "data/README.md, the data card, says where the paper's are and where to put them."
            )
    for notebook in notebooks_of(config):
        settings = settings_of(config, notebook)
        try:
            check_inputs({name: settings.get(name) for name in INPUTS if name not in RAW_INPUTS})
        except ParameterError as error:
            yield f"{notebook}: {error}"


def raw_folder(config: str) -> Path:
    """Return the folder that acquisitions, or ready cells, are read from."""
    ready = settings_of(config, DETECTION)["ready_cells_dir"]
    return from_root(ready or settings_of(config, PREPARATION)["raw_dir"] or study_of(config).raw)


def _faults_of_sweep(config: str) -> list[str]:
    """Say what is wrong in the section ``workflow`` itself."""
    sweep = sweep_of(config)
    faults = [
        f"workflow: {name} is empty; name at least one."
        for name in ("seeds", "image_models", "cell_models")
        if not sweep[name] and not (name == "image_models" and takes_ready_cells(config))
    ]
    numbers = {"seeds": min(sweep["seeds"], default=0), "gpus_per_run": sweep["gpus_per_run"]}
    faults += [f"workflow: {name} holds {n}, below 0." for name, n in numbers.items() if n < 0]
    if min(sweep["cores_per_run"].values()) < 1:
        faults.append(f"workflow: cores_per_run is {sweep['cores_per_run']}; at least 1 each.")
    for model in dict.fromkeys([*models_of(config, "image"), *models_of(config, "cell")]):
        architecture, _, subset = model.partition("-slice")
        if subset not in ("", *SLICES[:-1]) or model.endswith("-slice"):
            faults.append(
                f"workflow: {model!r} is no model. Of slices it may name {', '.join(SLICES[:-1])}, "
                "as in resnet18-slice0+2; without -slice it sees all."
            )
        elif not _is_backbone(architecture):
            faults.append(f"workflow: {architecture!r} is no model that torchvision builds.")
    return faults


def _faults_of_ready_cells(config: str) -> Iterator[str]:
    """Say what asks for images in a study whose cells come ready, each without its image."""
    if not takes_ready_cells(config):
        return
    why = f"cells come ready ({DETECTION}: ready_cells_dir), without the images they lay in"
    for notebook in (PREPARATION, IMAGE_LEVEL):
        if notebook in sections_of(config):
            yield f"{notebook}: {why}, so this notebook is left out; take its section out too."
    if sweep_of(config)["image_models"]:
        yield f"workflow: image_models must be [], since {why}."
    if settings_of(config, COMPARISON)["level"] == "image":
        yield f"{COMPARISON}: level must be cell, since {why}."
    for notebook in notebooks_of(config):
        model = settings_of(config, notebook).get("image_model")
        if model is not None:
            yield f"{notebook}: image_model is {model} and must be null, since {why}."


def _is_backbone(name: str) -> bool:
    """Ask torchvision, which takes seconds to import, for what the paper did not use."""
    if name in paper.backbones().index:
        return True
    from torchvision import models

    return name in models.list_models(module=models)


def _faults_of_models(config: str) -> list[str]:
    """Name the models that a notebook reads and the workflow does not train."""
    trained = {level: models_of(config, level) for level in LEVELS}
    compared, known = settings_of(config, COMPARISON), notebooks_of(config)
    needed = [
        (CELL_LEVEL, "image_model", "image", [settings_of(config, CELL_LEVEL)["image_model"]]),
        (COMPARISON, "models", compared["level"], compared["models"]),
        (COMPARISON, "ablation", compared["level"], [compared["ablation"]]),
    ]
    of_runs = {
        name: settings_of(config, name)
        for name in (EXPLANATION, AUDIT, NEW_IMAGES)
        if name in known
    }
    needed += [
        (notebook, f"{level}_model", level, [settings[f"{level}_model"]])
        for notebook, settings in of_runs.items()
        for level in LEVELS
    ]
    faults = [
        f"{notebook}: {name} names {model}, which is not among workflow's {level}_models "
        f"({', '.join(trained[level])})."
        for notebook, name, level, models in needed
        if trained[level]  # said already where there are none
        for model in models
        if model is not None and model not in trained[level]
    ]
    seeds = {name: seeds_read_by(config, name) for name in of_runs}
    faults += [
        f"{notebook}: run_seed {seed} is none of workflow's seeds."
        for notebook, named in seeds.items()
        for seed in named
        if seed not in sweep_of(config)["seeds"]
    ]
    if NEW_IMAGES in known:
        chosen = of_runs[NEW_IMAGES]
        if not chosen["run_seeds"]:
            faults.append(f"{NEW_IMAGES}: run_seeds is empty; name at least one.")
        if chosen["cell_model"] is None and chosen["image_model"] is None:
            faults.append(f"{NEW_IMAGES}: cell_model and image_model are both null; name one.")
    return faults


if __name__ == "__main__":
    print("The book:", from_caller(study_of(from_caller(sys.argv[1])).book / "index.html"))
