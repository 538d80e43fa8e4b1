"""What a model is trained on, refused if unfit, and everything that decides the run."""

import hashlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from hsc_utils import manifest, paper
from hsc_utils.files import from_root
from hsc_utils.provenance import code_digest
from hsc_utils.study import RunConfig, TrainingSettings
from hsc_utils.training import batches
from hsc_utils.training.models import starting_weights


def check_samples(
    table: pd.DataFrame, prepared_dir: str | Path | None = None, missing_classes: str = "error"
) -> None:
    """Refuse samples that no model can be trained on, and say what a reader should know of them.

    Parameters
    ----------
    table : DataFrame
        ``images.csv`` or ``cells.csv``, as for `train`.
    prepared_dir : path, optional
        Folder of the ``images.csv`` that the cells come from, where there is one.
    missing_classes : {"error", "allow"}
        What to do with a class of the images that has no cell: stop, or say so and go on.

    Raises
    ------
    ValueError
        If columns or labels are missing, there is one class only, a class has no training
        sample, nothing is for validation, or a class of the images has no cell.
    """
    level = "cell" if "cell_id" in table else "image"
    columns = [f"{level}_id", "image_id", "class", "split", "simulated"] + ["row"] * (
        level == "cell"
    )
    if absent := [column for column in columns if column not in table]:
        raise ValueError(f"The table of {level}s lacks the columns {', '.join(absent)}.")
    unlabelled = table["class"].isna() | (table["class"].astype(str).str.strip() == "")
    if unlabelled.any() or table.empty:
        raise ValueError(
            f"{unlabelled.sum()} of {len(table)} {level}s have a class missing: training needs "
            "labelled ones. Put the files into one folder per class, and run notebook 01 (02 for "
            "ready cells) again."
        )
    if odd := sorted(set(table["split"].map(str)) - set(manifest.SUBSETS)):
        raise ValueError(
            f"split: {odd[0]!r} is not one of {', '.join(manifest.SUBSETS)}. Make the table again."
        )
    classes, again = set(table["class"]), "Change the folders or the shares, and run 01 again."
    if len(classes) < 2:
        raise ValueError(
            f"There is only one class, {classes.pop()}: nothing to tell apart. Add images of "
            "another class in a folder of its own beside it, and run notebook 01 again."
        )
    if untrained := sorted(classes - set(table.loc[table["split"] == "train", "class"])):
        raise ValueError(
            f"No training sample of {', '.join(untrained)}: every class of the table needs one. "
            f"{again}"
        )
    if not (table["split"] == "validation").any():
        raise ValueError(
            f"No validation sample: the split needs one, to know when to stop. {again}"
        )
    if missing_classes not in ("error", "allow"):
        raise ValueError(f"missing_classes: {missing_classes!r} is not one of error, allow.")
    if prepared_dir is None or not (from_root(prepared_dir) / "images.csv").exists():
        return
    if lost := sorted(set(manifest.read_images(prepared_dir)["class"]) - classes):
        sentence = f"No cell was found in any image of {', '.join(lost)}"
        if missing_classes == "error":
            raise ValueError(
                f"{sentence}: a model of these cells would not know that class. Set other "
                "detection settings in notebook 02, or missing_classes to 'allow'."
            )
        print(f"{sentence}: the model does not know that class.")


def tidy_samples(table: pd.DataFrame, arrays: np.ndarray) -> pd.DataFrame:
    """Bring images or cells to one form: id, image_id, class, split, group, simulated, row."""
    batches.check_pictures(arrays)
    level = "cell" if "cell_id" in table else "image"
    columns = {"id": table[f"{level}_id"]}
    columns |= {name: table[name] for name in ("image_id", "class", "split", "simulated")}
    columns["group"] = table.get("group", "")
    columns["row"] = table["row"] if level == "cell" else np.arange(len(table))
    rows = np.asarray(columns["row"])
    if not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(f"row: {rows.dtype} was given, but whole numbers are expected.")
    counts_agree = level == "cell" or len(table) == len(arrays)
    if rows.min() < 0 or rows.max() >= len(arrays) or not counts_agree:
        raise ValueError(
            f"{len(arrays)} pictures do not fit a table of {len(table)} {level}s (rows "
            f"{rows.min()} to {rows.max()}): they were made at different times. Run notebook "
            f"{'02' if level == 'cell' else '03'} again."
        )
    return pd.DataFrame(columns).reset_index(drop=True)


def settle_config(
    level: str, samples: pd.DataFrame, arrays: np.ndarray, settings: TrainingSettings
) -> RunConfig:
    """Say everything that decides a run, and what its model needs to be used."""
    if settings.batch_size < 2:
        raise ValueError(
            "batch_size: 1 leaves batch normalisation nothing to average: give 2 or more."
        )
    identity = hashlib.sha256(samples.to_csv(index=False).encode())
    identity.update(np.ascontiguousarray(arrays))
    mean, std = batches.IMAGENET_MEAN, batches.IMAGENET_STD
    if settings.normalisation == "training":
        rows = samples.loc[samples["split"] == "train", "row"].to_numpy()
        mean, std = batches.channel_statistics(arrays, rows)
    return RunConfig(
        **asdict(settings),
        level=level,
        class_names=paper.class_order(samples["class"]),
        weights_used=starting_weights(settings.weights, settings.architecture),
        mean=[mean[channel] for channel in settings.channels],
        std=[std[channel] for channel in settings.channels],
        samples_sha256=identity.hexdigest(),
        code_sha256=code_digest(
            "training.batches", "training.models", "training.fit", "training.device"
        ),
    )
