"""Whether a cell looks, to the network, like the cells that it was trained on.

The distance is Mahalanobis' in the network's last features, to the nearest class, with one
covariance for all classes (Lee et al. 2018, arXiv 1807.03888), shrunk after Ledoit and Wolf (2004)
because there may be fewer cells than features. It is given in multiples of a threshold that 5 %
of the cells of the validation subset exceed.
"""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf

from hsc_utils import training
from hsc_utils.study import Run, RunConfig

_FEW = {"train": 1000, "validation": 2000, "test": 2000}  # samples at most; of train per class
_CHANGED = 200  # test samples that are changed
_EXCEEDED = 0.05  # share of the validation subset beyond the threshold
CHANGES = ("other colours", "half the light", "blurred", "magnified")


def changed(patches: NDArray[np.uint8], how: str) -> NDArray[np.uint8]:
    """Change pictures (N, S, S, 3) in one of the ways of `CHANGES`, as another microscope might.

    Slices change places; intensities are halved; a Gaussian of a 24th of the side blurs; the
    middle half is magnified to the whole.
    """
    if how == "other colours":
        return np.roll(patches, 1, axis=3)
    if how == "half the light":
        return patches // 2
    side = patches.shape[1]
    if how == "blurred":
        return np.stack([cv2.GaussianBlur(patch, (0, 0), side / 24) for patch in patches])
    rim = side // 4
    return np.stack(
        [cv2.resize(patch[rim : side - rim, rim : side - rim], (side, side)) for patch in patches]
    )


def fit_familiar(
    run: Run, samples: pd.DataFrame, arrays: NDArray[np.uint8]
) -> dict[str, torch.Tensor]:
    """Learn what a run's training samples look like to it, and how far others lie.

    Parameters
    ----------
    run : Run
        A finished run.
    samples : DataFrame
        As `training.embed` takes them: all that the run was made of.
    arrays : uint8 (N, H, W, 3)
        Pictures by ``row``.

    Returns
    -------
    dict of str to Tensor
        float32: ``means`` (K, D), ``precision`` (D, D), ``threshold`` (1,), and distances in
        multiples of it: ``distances validation``, ``distances test``, and of changed test samples
        (of validation where none is for testing) one for each of `CHANGES`.
    """
    model, config = training.load_run(run.directory)
    chosen = {split: _drawn(rows, split) for split, rows in samples.groupby("split")}
    features = {
        split: training.embed(model, rows, arrays, config)[1] for split, rows in chosen.items()
    }
    learnt = features.pop("train"), chosen["train"]["class"].to_numpy()
    found = _fit(*learnt, config)
    judged = chosen[run.judged_on].head(_CHANGED)
    pictures = np.asarray(arrays[judged["row"].to_numpy()])
    judged = judged.assign(row=np.arange(len(judged)))
    for how in CHANGES:
        features[how] = training.embed(model, judged, changed(pictures, how), config)[1]
    plain = {name: distances(numbers, found) for name, numbers in features.items()}
    threshold = np.quantile(plain["validation"], 1 - _EXCEEDED)
    found["threshold"] = torch.tensor([threshold], dtype=torch.float32)
    of_sets = {f"distances {name}": values / threshold for name, values in plain.items()}
    return found | {name: torch.tensor(v, dtype=torch.float32) for name, v in of_sets.items()}


def _drawn(rows: pd.DataFrame, split: str) -> pd.DataFrame:
    """Draw the samples of a subset that are looked at, the same ones every time."""
    shuffled = rows.sample(frac=1, random_state=0)
    of_each = shuffled.groupby("class") if split == "train" else shuffled
    return of_each.head(_FEW[split])


def _fit(
    features: NDArray[np.float32], classes: Sequence[str], config: RunConfig
) -> dict[str, torch.Tensor]:
    """Return the classes' means, and the inverse of the covariance about these."""
    means = np.stack([features[classes == name].mean(axis=0) for name in config.class_names])
    about = features - means[pd.Index(config.class_names).get_indexer(classes)]
    precision = LedoitWolf(assume_centered=True).fit(about.astype(np.float64)).precision_
    return {
        "means": torch.tensor(means, dtype=torch.float32),
        "precision": torch.tensor(precision, dtype=torch.float32),
    }


def distances_by_set(found: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the stored distances of the run's own samples, and of changed ones, in order."""
    names = ("validation", "test", *CHANGES)
    return {name: found[f"distances {name}"] for name in names if f"distances {name}" in found}


def distances(
    features: NDArray[np.float32], familiar: Mapping[str, torch.Tensor]
) -> NDArray[np.float64]:
    """Return how far samples lie from the nearest class, float (N,).

    In multiples of the threshold, if there is one yet.
    """
    precision = familiar["precision"].double().numpy()
    from_each = []
    for mean in familiar["means"].double().numpy():
        apart = features - mean
        from_each.append(np.einsum("nd,nd->n", apart @ precision, apart))
    nearest = np.sqrt(np.maximum(np.min(from_each, axis=0), 0))
    return nearest / float(familiar["threshold"]) if "threshold" in familiar else nearest
