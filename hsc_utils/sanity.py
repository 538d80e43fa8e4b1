"""Two checks that Grad-CAM shows what a model uses, rather than where cells tend to be.

A map that stays when the weights are scrambled says nothing about them (Adebayo et al.
2018), and removing what a map marks must cost the model more than removing anything else.
"""

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from hsc_utils import attention, explain


def scrambled_models(model: nn.Module, seed: int = 0) -> Iterator[tuple[str, nn.Module]]:
    """Yield the model with one more layer scrambled each time, from the output downwards.

    The values of each weight tensor are shuffled: their sizes stay, what was learnt goes.

    Parameters
    ----------
    model : nn.Module
        A classifier; it is not changed.
    seed : int
        Seed of the shuffles.

    Yields
    ------
    name : str
        The layer scrambled last, such as ``fc`` or ``layer4``; what lies between blocks
        (norms, transitions) goes with the block before it.
    model : nn.Module
        One copy, changed further at each step: use it before asking for the next.
    """
    scrambled = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for name, child in scrambled.named_children():
        layers += child.named_children() if name == "features" else [(name, child)]
    for name, layer in reversed(layers):
        weights = list(layer.parameters())
        for weight in weights:
            order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
            weight.data = weight.data.flatten()[order].view_as(weight)
        if weights and not name.startswith(("norm", "bn", "transition")):
            yield name, scrambled


def map_correlation(maps: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation of each map (N, H, W) with its counterpart, float (N,).

    NaN where one of the two is constant, which leaves nothing to correlate.
    """
    ranks = [rankdata(m.reshape(len(m), -1), axis=1) for m in (maps, others)]
    first, second = (r - r.mean(axis=1, keepdims=True) for r in ranks)
    spread = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    return np.divide(
        (first * second).sum(axis=1), spread, out=np.full(len(maps), np.nan), where=spread > 0
    )


def scrambled_correlations(
    model: nn.Module,
    images: Tensor,
    targets: np.ndarray,
    layer: str,
    drawn: pd.DataFrame,
    seed: int = 0,
) -> pd.DataFrame:
    """Correlate a model's maps with those it gives while its layers are scrambled.

    Parameters
    ----------
    model, images, targets, layer
        As in `explain.grad_cam`.
    drawn : DataFrame
        One row an image of `images`, with ``class`` and ``image_id``, for the intervals.
    seed : int
        Seed of the shuffles and of the resampling.

    Returns
    -------
    DataFrame
        One row a layer, in the order scrambled: ``layer``, ``mean`` (Spearman), ``low``,
        ``high`` and ``samples``, the maps that were not constant.
    """
    original = explain.grad_cam(model, images, targets, layer)
    rows = []
    for name, scrambled in scrambled_models(model, seed):
        maps = explain.grad_cam(scrambled, images, targets, layer)
        drawn = drawn.assign(correlation=map_correlation(original, maps))
        mean = attention.bootstrap_means(drawn, ["correlation"], seed=seed)
        rows.append(mean[mean["class"] == "all"].assign(layer=name))
    return pd.concat(rows)[["layer", "mean", "low", "high", "samples"]].reset_index(drop=True)


def erasure(
    model: nn.Module,
    images: Tensor,
    targets: np.ndarray,
    maps: np.ndarray,
    drawn: pd.DataFrame,
    fractions: Sequence[float],
    seed: int = 0,
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """Compare erasing what maps mark with erasing the same shape elsewhere.

    Parameters
    ----------
    model, images, targets, maps, fractions
        As in `deletion_curves`.
    drawn : DataFrame
        One row an image of `images`, with ``class`` and ``image_id``, for the intervals.
    seed : int
        Seed of the random places and of the resampling.

    Returns
    -------
    curves : dict of DataFrame
        ``what Grad-CAM marks`` and ``the same shape elsewhere``: one row a fraction, the
        probability's ``mean``, ``low``, ``high``.
    drop : DataFrame
        From `attention.bootstrap_means`: the probability lost more by erasing what the map
        marks, averaged over the fractions, by class.
    """
    orders = {
        "what Grad-CAM marks": maps,
        "the same shape elsewhere": shifted_maps(maps, seed),
    }
    curves, lost = {}, []
    for name, order in orders.items():
        values = deletion_curves(model, images, targets, order, fractions)
        lost.append(values.mean(axis=1))
        columns = pd.DataFrame(values, drawn.index, columns=[str(f) for f in fractions])
        mean = attention.bootstrap_means(drawn.join(columns), columns.columns, seed=seed)
        curves[name] = mean[mean["class"] == "all"]
    drawn = drawn.assign(erasure=lost[1] - lost[0])
    return curves, attention.bootstrap_means(drawn, ["erasure"], seed=seed)


def shifted_maps(maps: np.ndarray, seed: int = 0) -> np.ndarray:
    """Move each map (N, H, W) by a random offset, wrapping round: same shape, random place."""
    rng = np.random.default_rng(seed)
    offsets = rng.integers(maps.shape[1:], size=(len(maps), 2))
    return np.stack([np.roll(m, offset, (0, 1)) for m, offset in zip(maps, offsets, strict=True)])


@torch.inference_mode()
def deletion_curves(
    model: nn.Module,
    images: Tensor,
    targets: np.ndarray,
    maps: np.ndarray,
    fractions: Sequence[float] = (0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5),
    batch_size: int = 256,
) -> np.ndarray:
    """Follow a class's probability while the highest part of each map is erased.

    Parameters
    ----------
    model : nn.Module
        A classifier in eval mode.
    images : Tensor
        float (N, C, H, W), prepared as in training.
    targets : ndarray
        int (N,), for each image the index of the class whose probability is followed.
    maps : ndarray
        float (N, H, W); pixels are erased in falling order of these values.
    fractions : sequence of float
        Shares of the area to erase, in [0, 1]. Erased pixels take the median of their
        image's channel, which is background wherever cells cover less than half.
    batch_size : int
        Erased images at a time.

    Returns
    -------
    ndarray
        float (N, len(fractions)), probabilities; rows of zero maps are NaN, since such a
        map gives no order.
    """
    device = next(model.parameters()).device
    curves = np.full((len(images), len(fractions)), np.nan)
    order = rankdata(-maps.reshape(len(maps), -1), method="ordinal", axis=1) - 1
    order = torch.from_numpy(order.reshape(maps.shape))
    areas = torch.tensor(fractions, device=device)[:, None, None, None, None] * maps[0].size
    step = max(1, batch_size // len(fractions))
    for start in range(0, len(images), step):
        part = slice(start, start + step)
        batch = images[part].to(device)
        fill = batch.flatten(2).median(dim=2)[0][..., None, None]
        # every fraction of every image in one pass: (fraction, image, channel, y, x)
        erased = torch.where(order[part, None].to(device) < areas, fill, batch)
        probabilities = model(erased.flatten(0, 1)).softmax(1).unflatten(0, erased.shape[:2])
        picked = torch.as_tensor(targets[part], device=device)
        curves[part] = probabilities[:, torch.arange(len(picked)), picked].T.cpu()
    curves[maps.max(axis=(1, 2)) == 0] = np.nan
    return curves
