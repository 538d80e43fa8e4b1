"""Two checks of Grad-CAM maps, either of which they can fail.

Scrambling: maps must change when the model's weights are scrambled; passing does not speak
against them, no more. Erasing: a model must lose more from erasing what a map marks than from
erasing as much elsewhere.
"""

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from hsc_utils import metrics, training
from hsc_utils.explanation.maps import checked_inputs, grad_cam, same_shapes

_TOGETHER = 256  # images on the device at once


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
    images together, up or down; only several scramblings tell that from the effect of the weights.

    Parameters
    ----------
    model, images, targets, layer
        As in `grad_cam`.
    image_ids : sequence of str
        For each of `images` the whole image it was cut from.
    scramblings, seed : int
        How often the model is scrambled, each time from the start, and the seed of the first
        time; the next ones count on.

    Returns
    -------
    DataFrame
        One row per scrambling, layer (in the order scrambled) and map: ``scrambling``,
        ``layer``, ``image_id``, ``correlation`` (Spearman; NaN where the map is constant).
    """
    if scramblings < 1 or not len(images):
        raise ValueError(
            f"{scramblings} scramblings, {len(images)} images: each must be at least 1."
        )
    original = grad_cam(model, images, targets, layer)
    tables = []
    for scrambling in range(scramblings):
        for name, scrambled in scrambled_models(model, images, seed + scrambling):
            maps = grad_cam(scrambled, images, targets, layer)
            rows = {"scrambling": scrambling, "layer": name, "image_id": np.asarray(image_ids)}
            tables.append(pd.DataFrame(rows | {"correlation": map_correlation(original, maps)}))
    return pd.concat(tables, ignore_index=True)


def scrambled_models(
    model: nn.Module, images: Tensor, seed: int = 0
) -> Iterator[tuple[str, nn.Module]]:
    """Yield one copy of the model with one more layer scrambled each time, from the output down.

    The values of each weight tensor are shuffled: their sizes stay, what was learnt goes.
    The running statistics of the scrambled layers' batch normalisation are estimated anew on
    `images`, as training would have: with those of the old weights most channels fall silent,
    and all maps become one and the same pattern.

    The name is that of the layer scrambled last, such as ``fc`` or ``layer4``; a norm or
    transition between blocks goes with the block that comes before it in the network.
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
            with training.single_precision():
                training.estimate_statistics(scrambled, images.split(_TOGETHER), norms)
            yield name, scrambled


def map_correlation(maps: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation of each map (N, H, W) with its counterpart, float (N,).

    NaN where one of the two is constant, which leaves nothing to correlate.
    """
    same_shapes(maps=maps, others=others)
    ranks = [rankdata(m.reshape(len(m), -1), axis=1) for m in (maps, others)]
    first, second = (r - r.mean(axis=1, keepdims=True) for r in ranks)
    spread = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    return np.divide(
        (first * second).sum(axis=1), spread, out=np.full(len(maps), np.nan), where=spread > 0
    )


def correlation_by_layer(correlations: pd.DataFrame) -> pd.DataFrame:
    """Average `scrambled_correlations` by layer; intervals count images and scramblings.

    Returns
    -------
    DataFrame
        One row per layer, in the order scrambled: ``layer``, ``mean``, ``low``, ``high`` (95 %),
        and ``constant``, the share of maps that were constant and so did not enter. The
        variances over images and over scramblings, each a jackknife's, are added; no interval
        below `metrics.MIN_IMAGES` images or two scramblings.
    """
    layers = correlations["layer"].unique()
    by = correlations.groupby(["layer", "scrambling", "image_id"])["correlation"]
    shape = (len(layers), correlations["scrambling"].nunique(), -1)
    sums, counts = (t.loc[layers].to_numpy(float).reshape(shape) for t in (by.sum(), by.count()))
    total = counts.sum(axis=(1, 2))
    mean = np.divide(sums.sum(axis=(1, 2)), total, out=np.full(len(total), np.nan), where=total > 0)
    width = np.full(len(layers), np.nan)
    if sums.shape[1] > 1 and sums.shape[2] >= metrics.MIN_IMAGES:
        # by scrambling and by image: the mean of a layer without each
        kept = [
            [
                values.sum(axis=(1, 2), keepdims=True) - values.sum(axis=axis, keepdims=True)
                for values in (sums, counts)
            ]
            for axis in (2, 1)
        ]
        with np.errstate(invalid="ignore"):
            without = [(s / c).reshape(len(layers), -1) for s, c in kept]
        width = np.array(
            [
                metrics.half_width([*map(metrics.jackknife, parts)], 0.95)
                for parts in zip(*without, strict=True)
            ]
        )
    low, high = mean - width, mean + width
    constant = correlations["correlation"].isna().groupby(correlations["layer"]).mean()
    table = pd.DataFrame({"layer": layers, "mean": mean, "low": low, "high": high})
    return table.assign(constant=constant[layers].to_numpy())


def scrambling_verdict(by_layer: pd.DataFrame) -> str:
    """Say in a sentence whether maps change with the weights.

    They do if, with every layer scrambled, the interval of the correlation lies below 0.5,
    where less than a quarter of a map's variation (its square) is left. The bound is ours.
    Maps of noise would pass too.
    """
    last = by_layer.iloc[-1]
    numbers = f"{last['mean']:+.2f} ({last['low']:+.2f} to {last['high']:+.2f})"
    if np.isnan([last["low"], last["high"]]).any():
        numbers = f"{last['mean']:+.2f}"
        end = "too few images or scramblings to say whether the maps change"
    elif last["high"] < 0.5:
        end = "the maps change with the weights: a check passed, not a proof"
    elif last["low"] >= 0.5:
        end = "the maps stay much the same whatever the weights are, which speaks against them"
    else:
        end = "too uncertain to say whether the maps change"
    return f"With every layer scrambled, a map's correlation with the original is {numbers}: {end}."


MARKED, ELSEWHERE, ANOTHER = "what Grad-CAM marks", "the same shape elsewhere", "another cell's map"


def erasure(
    model: nn.Module,
    images: Tensor,
    targets: np.ndarray,
    maps: np.ndarray,
    drawn: pd.DataFrame,
    fractions: Sequence[float],
    seed: int = 0,
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """Compare erasing what a map marks with erasing as much of the patch elsewhere.

    Two comparisons with the same area and the same fill: the very same shape moved to random
    places (the mean of six), and what the map of the next cell marks, which asks whether a map
    fits its own cell better than any cell in the middle of a patch.

    Parameters
    ----------
    model, images, targets
        As in `grad_cam`.
    maps : ndarray
        float (N, H, W).
    drawn : DataFrame
        One row per image of `images`, with ``class`` and ``image_id``, for the intervals.
    fractions : sequence of float
        Shares of the area to erase, in [0, 1].
    seed : int
        Seed of the places.

    Returns
    -------
    curves : dict of DataFrame
        By `MARKED`, `ELSEWHERE` and `ANOTHER`: one row per fraction, the probability's
        ``mean``, ``low``, ``high``.
    drops : DataFrame
        From `metrics.means_by_class`, by class: how much more probability is lost by
        erasing what the map marks than `ANOTHER` and `ELSEWHERE` (``number``), averaged over
        the fractions above 0. Zero maps, which mark nothing, are left out of everything.
    """
    images, targets = checked_inputs(model, images, targets)
    same_shapes(maps=maps, images=images[:, 0])
    if len(drawn) != len(maps) or not len(maps):
        raise ValueError(
            f"drawn has {len(drawn)} rows for {len(maps)} maps: one each was expected."
        )
    if not np.any(fractions) or min(fractions) < 0 or max(fractions) > 1:
        raise ValueError(f"fractions: {fractions} must lie from 0 to 1, one at least above 0.")
    drawn, targets = drawn.reset_index(drop=True), targets.numpy()
    order = erasing_order(maps)
    rng = np.random.default_rng(seed)
    orders = {
        MARKED: [order],
        ELSEWHERE: [moved(order, rng) for _ in range(6)],
        ANOTHER: [np.roll(order, 1, axis=0)],
    }
    usable = (maps.max(axis=(1, 2)) > 0) & (np.roll(maps, 1, axis=0).max(axis=(1, 2)) > 0)
    names = [str(fraction) for fraction in fractions]
    curves, kept = {}, {}
    for name, choices in orders.items():
        values = [deletion_curves(model, images, targets, o, fractions) for o in choices]
        values = np.where(usable[:, None], np.mean(values, axis=0), np.nan)
        table = drawn.join(pd.DataFrame(values, columns=names))
        curves[name] = metrics.means_by_class(table, names).query("`class` == 'all classes'")
        kept[name] = values[:, np.asarray(fractions) > 0].mean(axis=1)
    lost = {name: kept[name] - kept[MARKED] for name in (ANOTHER, ELSEWHERE)}
    return curves, metrics.means_by_class(drawn.assign(**lost), list(lost))


def erasing_order(maps: np.ndarray) -> np.ndarray:
    """Rank the pixels of each map (N, H, W) from 0, the highest; equal ones row by row."""
    ranks = rankdata(-maps.reshape(len(maps), -1), method="ordinal", axis=1) - 1
    return ranks.reshape(maps.shape).astype(np.int64)


def moved(order: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Move each of N orders by an offset of its own, wrapping round: same shape, random place."""
    offsets = rng.integers(order.shape[1:], size=(len(order), 2))
    return np.stack([np.roll(o, offset, (0, 1)) for o, offset in zip(order, offsets, strict=True)])


@torch.inference_mode()
@training.single_precision()
def deletion_curves(
    model: nn.Module,
    images: Tensor,
    targets: np.ndarray,
    order: np.ndarray,
    fractions: Sequence[float],
) -> np.ndarray:
    """Follow each target's probability, float (N, fractions), while more of its image is erased.

    Pixels are erased from 0 of `order` upwards, and take the median of the image's rim, 3 pixels
    wide, by channel: background, unless cells cover most of the rim.
    """
    device = next(model.parameters()).device
    curves = np.empty((len(images), len(fractions)))
    rim = torch.ones(order.shape[1:], dtype=torch.bool)
    rim[3:-3, 3:-3] = False
    areas = torch.tensor(fractions, device=device)[:, None, None, None, None] * order[0].size
    step = max(1, _TOGETHER // len(fractions))
    with training.full_memory_explained(_TOGETHER, images.shape[-1]):
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


def erasure_verdict(drops: pd.DataFrame) -> list[str]:
    """Say in a sentence for each comparison whether erasing what maps mark costs more."""
    sentences = []
    for row in drops[drops["class"] == "all classes"].itertuples():
        numbers = f"{row.mean:+.3f}"
        if not np.isnan(row.low):
            numbers += f" ({row.low:+.3f} to {row.high:+.3f})"
        if row.images < metrics.MIN_IMAGES:
            end = "too few images to say whether it costs more"
        elif row.low > 0:
            end = "beyond the noise of these images"
        elif row.high < 0:
            end = "so these maps do not mark what the model uses"
        else:
            end = "within the noise, so these maps are not shown to mark what it uses"
        sentences.append(
            f"Erasing what the map marks costs {numbers} more probability than erasing by "
            f"{row.number}: {end}."
        )
    return sentences
