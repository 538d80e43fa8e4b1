"""What a configuration file asks of the workflow: settings, runs, and the pages of the book."""

from pathlib import Path

from hsc_utils.run import check_parameters, declared_parameters, find_notebook, read_config
from hsc_utils.study import SLICES, Run, Study, model_name, parse_model_name

PREPARATION, DETECTION, IMAGE_LEVEL, CELL_LEVEL, COMPARISON, EXPLANATION = NOTEBOOKS = (
    "01_data_preparation",
    "02_blob_tuning",
    "03_image_level_training",
    "04_cell_level_training",
    "05_comparison_wang_et_al",
    "06_grad_cam",
)


def settings_of(config: str, notebook: str) -> dict:
    """Return every parameter of a notebook, checked: the file's, and otherwise its default."""
    declared = declared_parameters(find_notebook(notebook))
    given = check_parameters(declared, read_config(config, notebook), f"{config} for {notebook}")
    return {name: default for name, (_, default) in declared.items()} | given


def runs_of(config: str, level: str) -> list[Run]:
    """Return the runs of the sweep at one level, the one that the book prefers first."""
    sweep = read_config(config, "workflow")
    models = list(sweep[f"{level}_models"])
    if level == "cell" and "slices" in sweep:
        subsets = [parse_model_name(f"x-slice{subset}")[1] for subset in SLICES]
        models += [model_name(sweep["slices"], subset) for subset in subsets]
    study = Study(sweep["study"])
    return [
        study.run(level, model, seed) for model in dict.fromkeys(models) for seed in sweep["seeds"]
    ]


def chapters(config: str) -> list[Path]:
    """List the executed notebooks of the book; of a level, the first run that did not fail."""
    study = Study(read_config(config, "workflow")["study"])
    shown = []
    for level in ("image", "cell"):
        runs = runs_of(config, level)
        shown.append(next((run for run in runs if run.failure is None), runs[0]).directory)
    folders = [study.prepared, study.cells, *shown, study.comparison, study.grad_cam]
    return [folder / f"{name}.ipynb" for folder, name in zip(folders, NOTEBOOKS, strict=True)]
