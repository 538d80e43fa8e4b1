"""A check of Grad-CAM: a model must lose more from erasing what a map marks than elsewhere."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from hsc_utils import attention

MARKED, ELSEWHERE, ANOTHER = "what Grad-CAM marks", "the same shape elsewhere", "another cell's map"
_BATCH = 256


def erasure(
    model: nn.Module,
    images: Tensor,
    targets: np.ndarray,
    maps: np.ndarray,
    drawn: pd.DataFrame,
    fractions: Sequence[float],
    places: int = 6,
    seed: int = 0,
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """Compare erasing what a map marks with erasing as much of the patch elsewhere.

    Two comparisons with the same area and the same fill: the very same shape moved to random
    places, and what the map of the next cell marks, which asks whether a map fits its own
    cell better than any cell in the middle of a patch.

    Parameters
    ----------
    model, images, targets, fractions
        As in `deletion_curves`.
    maps : ndarray
        float (N, H, W).
    drawn : DataFrame
        One row an image of `images`, with ``class`` and ``image_id``, for the intervals.
    places : int
        Random places that each shape is moved to; their probabilities are averaged.
    seed : int
        Seed of the places and of the resampling.

    Returns
    -------
    curves : dict of DataFrame
        By `MARKED`, `ELSEWHERE` and `ANOTHER`: one row a fraction, the probability's
        ``mean``, ``low``, ``high``.
    drops : DataFrame
        From `attention.bootstrap_means`, by class: how much more probability is lost by
        erasing what the map marks than `ELSEWHERE` and `ANOTHER` (``number``), averaged over
        the fractions above 0. Zero maps, which mark nothing, are left out of everything.
    """
    drawn = drawn.reset_index(drop=True)
    order = erasing_order(maps)
    rng = np.random.default_rng(seed)
    orders = {
        MARKED: [order],
        ELSEWHERE: [moved(order, rng) for _ in range(places)],
        ANOTHER: [np.roll(order, 1, axis=0)],
    }
    usable = (maps.max(axis=(1, 2)) > 0) & (np.roll(maps, 1, axis=0).max(axis=(1, 2)) > 0)
    names = [str(fraction) for fraction in fractions]
    curves, kept = {}, {}
    for name, choices in orders.items():
        values = [deletion_curves(model, images, targets, o, fractions) for o in choices]
        values = np.where(usable[:, None], np.mean(values, axis=0), np.nan)
        mean = attention.bootstrap_means(
            drawn.join(pd.DataFrame(values, columns=names)), names, seed=seed
        )
        curves[name] = mean[mean["class"] == "all"]
        kept[name] = values[:, np.asarray(fractions) > 0].mean(axis=1)
    lost = {name: kept[name] - kept[MARKED] for name in (ELSEWHERE, ANOTHER)}
    return curves, attention.bootstrap_means(drawn.assign(**lost), list(lost), seed=seed)


def erasing_order(maps: np.ndarray) -> np.ndarray:
    """Rank the pixels of each map (N, H, W) from 0, the highest; equal ones row by row."""
    ranks = rankdata(-maps.reshape(len(maps), -1), method="ordinal", axis=1) - 1
    return ranks.reshape(maps.shape).astype(np.int64)


def moved(order: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Move each of N orders by an offset of its own, wrapping round: same shape, random place."""
    offsets = rng.integers(order.shape[1:], size=(len(order), 2))
    return np.stack([np.roll(o, offset, (0, 1)) for o, offset in zip(order, offsets, strict=True)])


def erasure_verdict(drops: pd.DataFrame) -> list[str]:
    """Say in a sentence for each comparison whether erasing what maps mark costs more."""
    sentences = []
    for row in drops[drops["class"] == "all"].itertuples():
        if row.low > 0:
            end = "more, beyond the noise of these images"
        elif row.high < 0:
            end = "less: these maps do not mark what the model uses"
        else:
            end = "no different within the noise: these maps are not shown to mark what it uses"
        sentences.append(
            f"Against {row.number}, erasing what the map marks changes the loss of probability "
            f"by {row.mean:+.3f} ({row.low:+.3f} to {row.high:+.3f}): {end}."
        )
    return sentences


@torch.inference_mode()
def deletion_curves(
    model: nn.Module,
    images: Tensor,
    targets: np.ndarray,
    order: np.ndarray,
    fractions: Sequence[float] = (0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5),
) -> np.ndarray:
    """Follow a class's probability while more and more of each image is erased.

    Parameters
    ----------
    model : nn.Module
        A classifier in eval mode.
    images : Tensor
        float (N, C, H, W), prepared as in training.
    targets : ndarray
        int (N,), for each image the index of the class whose probability is followed.
    order : ndarray
        int (N, H, W), from `erasing_order`; pixels are erased from 0 upwards.
    fractions : sequence of float
        Shares of the area to erase, in [0, 1]. Erased pixels take the median of the image's
        rim, 3 pixels wide, by channel: background, unless cells cover most of the rim.

    Returns
    -------
    ndarray
        float (N, len(fractions)), probabilities.
    """
    device = next(model.parameters()).device
    curves = np.empty((len(images), len(fractions)))
    rim = torch.ones(order.shape[1:], dtype=torch.bool)
    rim[3:-3, 3:-3] = False
    areas = torch.tensor(fractions, device=device)[:, None, None, None, None] * order[0].size
    step = max(1, _BATCH // len(fractions))
    for start in range(0, len(images), step):
        part = slice(start, start + step)
        batch = images[part].to(device)
        fill = batch[..., rim.to(device)].median(dim=2)[0][..., None, None]
        ranks = torch.from_numpy(order[part, None]).to(device)
        # every fraction of every image in one pass: (fraction, image, channel, y, x)
        erased = torch.where(ranks < areas, fill, batch)
        probabilities = model(erased.flatten(0, 1)).softmax(1).unflatten(0, erased.shape[:2])
        picked = torch.tensor(targets[part], device=device)
        curves[part] = probabilities[:, torch.arange(len(picked)), picked].T.cpu()
    return curves
