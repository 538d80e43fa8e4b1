"""A check of Grad-CAM: maps must change when what a model learnt is taken from it.

A map that stays when the weights are scrambled says nothing about them (Adebayo et al. 2018).
"""

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from hsc_utils import explain

_BATCH = 256


def scrambled_models(
    model: nn.Module, images: Tensor, seed: int = 0
) -> Iterator[tuple[str, nn.Module]]:
    """Yield the model with one more layer scrambled each time, from the output downwards.

    The values of each weight tensor are shuffled: their sizes stay, what was learnt goes.
    The running statistics of the scrambled layers' batch normalisation are estimated anew on
    `images`, as training would have: with those of the old weights most channels fall silent,
    and all maps become one and the same pattern.

    Parameters
    ----------
    model : nn.Module
        A classifier; it is not changed.
    images : Tensor
        float (N, C, H, W), at least 2, prepared as in training.
    seed : int
        Seed of the shuffles.

    Yields
    ------
    name : str
        The layer scrambled last, such as ``fc`` or ``layer4``; a norm or transition between
        blocks goes with the block that comes before it in the network.
    model : nn.Module
        One copy, changed further at each step: use it before asking for the next.
    """
    scrambled = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    layers, norms = [], []
    for name, child in scrambled.named_children():
        layers += child.named_children() if name == "features" else [(name, child)]
    for name, layer in reversed(layers):
        weights = list(layer.parameters())
        for weight in weights:
            order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
            weight.data = weight.data.flatten()[order].view_as(weight)
        norms += [module for module in layer.modules() if isinstance(module, nn.BatchNorm2d)]
        if weights and not name.startswith(("norm", "bn", "transition")):
            _estimate_statistics(scrambled, norms, images)
            yield name, scrambled


@torch.no_grad()
def _estimate_statistics(model: nn.Module, norms: Sequence[nn.Module], images: Tensor) -> None:
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
        norm.train()
    for batch in images.split(_BATCH):
        model(batch.to(next(model.parameters()).device))
    model.eval()


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
    image_ids: Sequence[str],
    scramblings: int = 6,
    seed: int = 0,
) -> pd.DataFrame:
    """Correlate a model's maps with those it gives while its layers are scrambled.

    One scrambled network has its own favourite place, which moves the correlations of all
    images together, up or down; only several scramblings tell that from what was learnt.

    Parameters
    ----------
    model, images, targets, layer
        As in `explain.grad_cam`.
    image_ids : sequence of str
        For each of `images` the whole image it was cut from.
    scramblings : int
        How often the model is scrambled, each time from the start.
    seed : int
        Seed of the first scrambling; the next ones count on.

    Returns
    -------
    DataFrame
        One row a scrambling, layer (in the order scrambled) and map: ``scrambling``,
        ``layer``, ``image_id``, ``correlation`` (Spearman; NaN where the map is constant).
    """
    original = explain.grad_cam(model, images, targets, layer)
    tables = []
    for scrambling in range(scramblings):
        for name, scrambled in scrambled_models(model, images, seed + scrambling):
            maps = explain.grad_cam(scrambled, images, targets, layer)
            rows = {"scrambling": scrambling, "layer": name, "image_id": np.asarray(image_ids)}
            tables.append(pd.DataFrame(rows | {"correlation": map_correlation(original, maps)}))
    return pd.concat(tables, ignore_index=True)


def correlation_by_layer(
    correlations: pd.DataFrame, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """Average correlations by layer, with intervals from resampling images and scramblings.

    Parameters
    ----------
    correlations : DataFrame
        From `scrambled_correlations`.
    resamples, level, seed : int, float, int
        Number of resamples, coverage of the percentile intervals, seed.

    Returns
    -------
    DataFrame
        One row a layer, in the order scrambled: ``layer``, ``mean``, ``low``, ``high``, and
        ``constant``, the share of maps that were constant and so did not enter.
    """
    layers = correlations["layer"].unique()
    by = correlations.groupby(["layer", "scrambling", "image_id"])["correlation"]
    shape = (len(layers), correlations["scrambling"].nunique(), -1)
    sums, counts = (t.loc[layers].to_numpy(float).reshape(shape) for t in (by.sum(), by.count()))
    rng = np.random.default_rng(seed)
    drawn = [rng.multinomial(n, np.full(n, 1 / n), size=resamples) for n in sums.shape[1:]]
    totals = [
        np.einsum("lsg,rs,rg->lr", values, *drawn, optimize=True) for values in (sums, counts)
    ]
    means = np.divide(*totals, out=np.full_like(totals[0], np.nan), where=totals[1] > 0)
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.nanquantile(means, tails, axis=1)
    mean = sums.sum(axis=(1, 2)) / counts.sum(axis=(1, 2))
    constant = correlations["correlation"].isna().groupby(correlations["layer"]).mean()
    return pd.DataFrame(
        {"layer": layers, "mean": mean, "low": low, "high": high}
    ).assign(constant=constant.loc[layers].to_numpy())  # fmt: skip


def scrambling_verdict(by_layer: pd.DataFrame) -> str:
    """Say in a sentence whether maps depend on what was learnt.

    They do if, with every layer scrambled, the interval of the correlation lies below 0.5,
    where less than a quarter of a map's variation (its square) is left. The bound is ours.
    """
    last = by_layer.iloc[-1]
    numbers = f"{last['mean']:+.2f} ({last['low']:+.2f} to {last['high']:+.2f})"
    if last["high"] < 0.5:
        end = "the maps change, so they show what was learnt"
    elif last["low"] >= 0.5:
        end = "the maps stay, so they show little of what was learnt"
    else:
        end = "too uncertain to say whether the maps change"
    return f"With every layer scrambled, a map's correlation with the own one is {numbers}: {end}."
