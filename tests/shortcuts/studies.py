"""Tables of a study for tests, without meaning beyond class and split."""

import numpy as np
import pandas as pd

from hsc_utils import manifest
from hsc_utils.study import RunConfig

CLASSES = ("LT-HSC", "ST-HSC", "MPP")
SPLITS = ("train", "train", "train", "validation", "test", "test")
BLANK = {str: "", int: 1, float: 1.0, bool: False}


def config(level, class_names, **changes):
    return RunConfig(
        **{
            "architecture": "resnet18",
            "weights": "none",
            "input_size": 16,
            "batch_size": 8,
            "max_epochs": 1,
            "patience": 1,
            "learning_rate": 1e-3,
            "level": level,
            "class_names": class_names,
            "weights_used": "none",
            "mean": (0.5, 0.5, 0.5),
            "std": (0.2, 0.2, 0.2),
            "samples_sha256": "",
            "code_sha256": "",
            **changes,
        }
    )


def image_table(class_names=CLASSES, per_class=36, splits=SPLITS):
    """Return ``images.csv`` of a study, without meaning beyond class and split."""
    count = per_class * len(class_names)
    names = [f"i{k:03d}" for k in range(count)]
    return pd.DataFrame(
        {column: [BLANK[kind]] * count for column, kind in manifest.IMAGE_COLUMNS.items()}
    ).assign(
        image_id=names,
        path=[f"images/{name}.png" for name in names],
        source=[f"{name}.oir" for name in names],
        split=[splits[k % len(splits)] for k in range(count)],
        **{"class": np.repeat(class_names, per_class)},
    )


def cell_table(images, counts, **columns):
    """Return ``cells.csv`` with so many cells in each image."""
    rows = images.index.repeat(counts)
    cells = images.loc[rows, ["image_id", "class", "split", "group", "simulated"]]
    cells = cells.reset_index(drop=True)
    number = np.arange(len(cells))
    places = {"y": 100.0 * cells.groupby("image_id").cumcount(), "x": 50.0, "sigma": 8.0}
    return cells.assign(
        cell_id=[f"c{k}" for k in number], row=number, touches=False, **{**places, **columns}
    )[list(manifest.CELL_COLUMNS)]


def noise(count, side=16):
    return np.random.default_rng(0).integers(90, 110, (count, side, side, 3)).astype(np.uint8)
