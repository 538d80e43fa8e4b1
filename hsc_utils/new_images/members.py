"""Trained models that speak together: several seeds, on cells and on whole images."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor, nn

from hsc_utils import metrics, training
from hsc_utils.files import shown_path
from hsc_utils.new_images import familiar, passport
from hsc_utils.study import Run, RunConfig


class Member(NamedTuple):
    """One trained model with all that it needs to be used."""

    run: Run
    model: nn.Module
    config: RunConfig
    passport: dict
    familiar: dict[str, Tensor]


def load_members(runs: Sequence[str | Path]) -> list[Member]:
    """Load runs that are to speak together; a sentence where they cannot.

    Parameters
    ----------
    runs : sequence of path
        Run directories of one study: of cells, of images, or both, of one or more seeds.

    Raises
    ------
    FileNotFoundError, ValueError
        If a run is missing, unfinished, damaged or without a passport, or if two of them know
        other classes or take other pictures.
    """
    if not runs:
        raise ValueError("runs: name at least one run directory.")
    members = []
    named = sorted({str(run.directory): run for run in map(passport.run_at, runs)}.items())
    if len(named) < len(runs):
        raise ValueError("runs: the same run is named twice, and would count twice.")
    for _, run in named:
        known = passport.read_passport(run)
        features = passport.read_features(run)
        if features is None:
            raise FileNotFoundError(
                f"{shown_path(run.features_file)} is missing or damaged. Run notebook 03 (images) "
                "or 04 (cells) again: the training is found finished, and the file is added."
            )
        members.append(Member(run, *training.load_run(run.directory), known, features))
    of_cells = [member for member in members if member.passport["level"] == "cell"]
    for name in ("class_names", "kind", "preparation", "detection", "side", "border"):
        group = members if name in ("class_names", "kind", "preparation") else of_cells
        for member in group[1:]:
            if member.passport[name] != group[0].passport[name]:
                raise ValueError(
                    f"{group[0].run} and {member.run} cannot speak together: {name} is "
                    f"{group[0].passport[name]} and {member.passport[name]}. Name runs of one "
                    "study."
                )
    return members


def own_predictions(members: Sequence[Member], split: str) -> pd.DataFrame:
    """Predict the study's own images of a subset in the way that new images are predicted.

    One row per image that any of the runs predicted: ``image_id``, ``class``, ``group``, ``split``
    and ``p_…``, calibrated and averaged over runs and levels, but not calibrated together yet.
    """
    names = members[0].passport["class_names"]
    columns, levels, labels = [f"p_{name}" for name in names], {}, []
    for member in members:
        known, predictions = member.passport, member.run.predictions
        chosen = predictions[predictions["split"] == split]
        votes = passport.votes_of(chosen, names, known["temperature"]).set_index("image_id")
        votes[columns] = metrics.tempered(votes[columns].to_numpy(), known["vote_temperature"])
        labels.append(votes[["class", "group", "split"]])
        levels.setdefault(known["level"], []).append(votes[columns])
    images = pd.concat(labels)
    images = images[~images.index.duplicated()].sort_index()
    means = [np.mean([t.reindex(images.index) for t in level], axis=0) for level in levels.values()]
    together = pd.DataFrame(together_of(means), images.index, columns)
    return images.join(together).rename_axis("image_id").reset_index()


def common_temperature(members: Sequence[Member]) -> float:
    """Fit the temperature of several runs' average, which is too timid, on validation images."""
    if len(members) == 1:
        return 1.0
    images = own_predictions(members, "validation")
    return passport.fitted_temperature(images, members[0].passport["class_names"])


def speak(looked: pd.DataFrame, members: Sequence[Member], temperature: float) -> list[dict]:
    """Let the models speak of some images: probabilities, and distances, of images and cells.

    `temperature` is that of their average, see `common_temperature`.
    """
    names = members[0].passport["class_names"]
    counts = [len(found) for found in looked["found"]]
    of_image = np.repeat(np.arange(len(looked)), counts)
    votes, cell_probabilities, far = [], [], []
    fields, field_far = [], []
    for member in members:
        own = member.passport["temperature"]
        if member.passport["level"] == "image":
            arrays = np.stack([whole[member.config.input_size] for whole in looked["whole"]])
            honest, distance = _outputs(member, arrays, own)
            fields.append(honest)
            field_far.append(distance)
        elif len(of_image):
            patches = np.concatenate([p for p in looked["patches"] if len(p)])
            honest, distance = _outputs(member, patches, own)
            cell_probabilities.append(honest)
            far.append(distance)
            table = pd.DataFrame(honest).groupby(of_image).mean()
            voted = metrics.tempered(table.to_numpy(), member.passport["vote_temperature"])
            votes.append(pd.DataFrame(voted, table.index).reindex(range(len(looked))).to_numpy())
    levels = [np.mean(level, axis=0) for level in (votes, fields) if level]
    together = together_of(levels) if levels else np.full((len(looked), len(names)), np.nan)
    together = metrics.tempered(together, temperature)
    cells = np.mean(cell_probabilities, axis=0) if cell_probabilities else np.empty((0, len(names)))
    distance = np.mean(far, axis=0) if far else np.empty(0)
    spoken = []
    for k, found in enumerate(looked["found"]):
        mine = of_image == k
        numbers = np.column_stack([found[:, :3], cells[mine], distance[mine]]) if len(found) else []
        spoken.append(
            {
                "probabilities": [float(p) for p in together[k]],
                "field_distance": float(np.mean([d[k] for d in field_far])) if field_far else None,
                "cells": [[float(v) for v in row] for row in numbers],
            }
        )
    return spoken


def together_of(levels: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Average levels' probabilities (N, K) of images, but for levels that say nothing (NaN)."""
    stacked = np.stack(levels)
    spoke = ~np.isnan(stacked).any(axis=2, keepdims=True)
    total = np.where(spoke, stacked, 0).sum(axis=0)
    counts = spoke.sum(axis=0)
    return np.divide(total, counts, out=np.full_like(total, np.nan), where=counts > 0)


def _outputs(
    member: Member, arrays: NDArray[np.uint8], temperature: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return calibrated probabilities (N, K) and distances (N,) of pictures."""
    blank = dict.fromkeys(("id", "image_id", "class", "split", "group"), "")
    samples = pd.DataFrame({**blank, "row": np.arange(len(arrays))})
    predictions, features = training.embed(member.model, samples, arrays, member.config)
    probabilities = metrics.probability_matrix(predictions, member.config.class_names)
    honest = metrics.tempered(probabilities, temperature)
    return honest, familiar.distances(features, member.familiar)
