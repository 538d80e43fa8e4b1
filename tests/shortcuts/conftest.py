import numpy as np
import pandas as pd
import pytest
from studies import CLASSES, config

from hsc_utils.files import write_csv, write_json
from hsc_utils.study import Study


@pytest.fixture
def paths(tmp_path):
    return Study(tmp_path / "study")


@pytest.fixture
def trained(paths):
    """Return a function that writes what `score_baselines` reads of a run: a network that guesses.

    Its probability of the true class is raised by `skill`.
    """

    def write(table, class_names=CLASSES, skill=0.0, **changes):
        level = "cell" if "cell_id" in table else "image"
        run = paths.run(level, "resnet18", 0)
        config(level, class_names, **changes).write(run.config_file)
        truth = pd.Index(class_names).get_indexer(table["class"])
        chances = np.random.default_rng(1).uniform(size=(len(table), len(class_names)))
        chances[np.arange(len(table)), truth] += skill
        chances /= chances.sum(axis=1, keepdims=True)
        predictions = table[["image_id", "class", "split", "group"]].assign(
            id=table[f"{level}_id"],
            **{f"p_{name}": chances[:, k] for k, name in enumerate(class_names)},
        )
        predictions.to_parquet(run.predictions_file)
        write_json(run.scores_file, {split: {"": 0} for split in table["split"].unique()})
        return run

    return write


@pytest.fixture
def prepared(paths):
    """Return a function that writes ``images.csv``, and cells if there are any."""

    def write(images, cells=None, empty=()):
        for name in images["path"]:
            path = paths.prepared / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        write_csv(paths.prepared / "images.csv", images)
        if cells is not None:
            write_csv(paths.cells / "cells.csv", cells)
            write_json(paths.cells / "provenance.json", {"images_without_cells": list(empty)})

    return write
