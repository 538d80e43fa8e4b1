"""Divide images among training, validation and test, so that nothing leaks.

The split is a matter of image names and a seed alone, so it is the same on any machine.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

SUBSETS = ("train", "validation", "test")

# A greedy placement of whole groups depends on their order; the best of this many is kept.
_GROUP_ORDERS = 64


def split_images(
    images: pd.DataFrame,
    fractions: Sequence[float] = (0.6, 0.2, 0.2),
    seed: int = 0,
    group: str | None = None,
    *,
    small_classes: str = "error",
) -> pd.DataFrame:
    """Divide images among training, validation and test, stratified by class.

    Images are ranked by a hash of seed and image_id, so the result depends on neither the
    order of rows nor the platform, and more images of one class leave the other classes as
    they are. Near-duplicates (column ``near_duplicate_of``, where there is one) stay together.
    The defaults are the paper's.

    Parameters
    ----------
    images : DataFrame
        Columns ``image_id``, unique, and ``class``.
    fractions : three floats
        Shares of training, validation and test; they sum to 1.
    seed : int
        Another seed gives another split.
    group : str, optional
        Column whose values are never divided between subsets, such as ``group``. Classes are
        then as balanced as the groups allow.
    small_classes : {"error", "train"}
        What to do with a class that cannot be in every subset: stop, or put it, with all
        that belongs together with it, into training.

    Returns
    -------
    DataFrame
        The rows given, in their order, with the column ``split``.

    Raises
    ------
    ValueError
        If a parameter or column is not as described, or a class is too small.
    """
    _check_split_request(images, fractions, group, small_classes)
    units = _units(images, group)
    classes, class_names = pd.factorize(images["class"], sort=True)
    sizes = np.zeros((units.max() + 1, len(class_names)), int)
    np.add.at(sizes, (units, classes), 1)
    used = [k for k, fraction in enumerate(fractions) if fraction > 0]
    small = (sizes > 0).sum(axis=0) < len(used)
    if small.any() and small_classes == "error":
        raise ValueError(
            f"Class {class_names[small.argmax()]} has {sizes.sum(axis=0)[small.argmax()]} "
            f"image(s) in {(sizes > 0).sum(axis=0)[small.argmax()]} independent set(s), too few "
            f"for {len(used)} subsets. Add images, remove the class, or set "
            "small_classes='train' to use it for training alone."
        )
    targets = np.array([_targets(n, fractions) for n in sizes.sum(axis=0)]).T
    ranks = rank_names(images["image_id"], seed)
    placed = np.full(len(sizes), -1)
    placed[(sizes[:, small] > 0).any(axis=1)] = 0
    names = images["image_id"].astype(str).groupby(units).min()
    orders = _GROUP_ORDERS if group else 1
    placed = _place_sets(placed, sizes, targets, names, seed, orders)
    subsets = placed[units]
    for k in range(len(class_names)):
        loose = np.flatnonzero((subsets < 0) & (classes == k))
        counts = np.bincount(subsets[(subsets >= 0) & (classes == k)], minlength=len(SUBSETS))
        quotas = _quotas(targets[:, k] - counts, len(loose))
        subsets[loose[np.argsort(ranks[loose])]] = np.repeat(np.arange(len(SUBSETS)), quotas)
    split = images.assign(split=np.array(SUBSETS)[subsets])
    _check_subsets(split, set(class_names[~small]), [SUBSETS[k] for k in used], group)
    return split


def _check_split_request(
    images: pd.DataFrame, fractions: Sequence[float], group: str | None, small_classes: str
) -> None:
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(
            f"fractions are {tuple(fractions)}, but three shares of training, validation and "
            "test that sum to 1 were expected."
        )
    if small_classes not in ("error", "train"):
        raise ValueError(f"small_classes is {small_classes!r}, but 'error' or 'train' is expected.")
    columns = ["image_id", "class", *([group] if group else [])]
    absent = [column for column in columns if column not in images]
    if absent or not len(images):
        raise ValueError(
            f"The table to split has {len(images)} rows and lacks the columns {absent}. "
            f"It has {', '.join(images.columns)}."
        )
    if group and (empty := images[group].isna() | (images[group].astype(str) == "")).any():
        raise ValueError(
            f"{empty.sum()} images have no {group}, first {images.loc[empty, 'image_id'].iloc[0]}; "
            "groups cannot be kept whole. Choose another group, or split by image."
        )
    if images["image_id"].duplicated().any():
        raise ValueError("An image_id occurs more than once in the table to split.")


def _units(images: pd.DataFrame, group: str | None) -> NDArray[np.int64]:
    """Give a number to each set of images that stays together: groups joined by look-alikes."""
    own = images["image_id"].astype(str)
    twin = images.get("near_duplicate_of", pd.Series("", images.index)).fillna("")
    pictures, _ = pd.factorize(own.where(twin == "", twin))
    if group is None:
        return pictures
    groups, names = pd.factorize(images[group])
    nodes = len(names) + pictures.max() + 1
    links = coo_array((np.ones(len(images)), (groups, len(names) + pictures)), shape=(nodes, nodes))
    return connected_components(links, directed=False)[1][groups]


def rank_names(names: pd.Series, seed: int, order: int = 0) -> NDArray[np.uint64]:
    """Give each name a number that looks random and is the same everywhere."""
    digests = (hashlib.sha256(f"{seed}/{order}/{name}".encode()).digest() for name in names)
    return np.array([int.from_bytes(digest[:8]) for digest in digests], np.uint64)


def _targets(count: int, fractions: Sequence[float]) -> NDArray[np.int64]:
    """Round the shares of a class by largest remainder, leaving no wanted subset empty."""
    # Rounded, so that 1 - 0.6 - 0.2 counts as 0.2.
    shares = np.round(np.asarray(fractions) * count, 6)
    targets = np.floor(shares).astype(int)
    largest = np.argsort(targets - shares, kind="stable")
    targets[largest[: count - targets.sum()]] += 1
    for empty in np.flatnonzero((targets == 0) & (shares > 0)):
        if targets.max() > 1:
            targets[targets.argmax()] -= 1
            targets[empty] += 1
    return targets


def _place_sets(
    placed: NDArray, sizes: NDArray, targets: NDArray, names: pd.Series, seed: int, orders: int
) -> NDArray[np.int64]:
    """Give every set of several images a subset, each where its classes lack the most."""
    waiting = np.flatnonzero((placed < 0) & (sizes.sum(axis=1) > 1))
    images = sizes.sum(axis=1)[waiting]
    best, least = placed, np.inf
    for order in range(orders):
        ranks = rank_names(names.iloc[waiting], seed, order)
        # The first order takes large sets first, which is often best; the others are random.
        queue = waiting[np.lexsort((ranks, -images if order == 0 else 0 * images))]
        attempt, counts = _place_in_order(placed, queue, sizes, targets)
        cost = _imbalance(counts, targets, sizes, attempt)
        if cost < least:
            best, least = attempt, cost
    return best


def _place_in_order(
    placed: NDArray, queue: NDArray, sizes: NDArray, targets: NDArray
) -> tuple[NDArray, NDArray]:
    placed = placed.copy()
    counts = np.array([sizes[placed == k].sum(axis=0) for k in range(len(SUBSETS))])
    weights = sizes / sizes.sum(axis=0)
    for unit in queue:
        lacking = (targets - counts) / np.maximum(targets, 1)
        lacking[targets.sum(axis=1) == 0] = -np.inf
        placed[unit] = (lacking * weights[unit]).sum(axis=1).argmax()
        counts[placed[unit]] += sizes[unit]
    return placed, counts


def _imbalance(counts: NDArray, targets: NDArray, sizes: NDArray, placed: NDArray) -> float:
    """Square the deviations from the targets as shares of a class; an empty subset costs 1."""
    loose = sizes[placed < 0].sum(axis=0)
    empty = (counts == 0) & (targets > 0) & (loose == 0)
    return float((((counts - targets) / targets.sum(axis=0)) ** 2).sum() + empty.sum())


def _quotas(lacking: NDArray, count: int) -> NDArray[np.int64]:
    """Share `count` single images out to the subsets that lack some."""
    quotas = np.maximum(lacking, 0)
    while quotas.sum() > count:
        quotas[quotas.argmax()] -= 1
    return quotas


def _check_subsets(
    images: pd.DataFrame, classes: set[str], subsets: Sequence[str], group: str | None
) -> None:
    counts = pd.crosstab(images["class"], images["split"]).reindex(columns=subsets, fill_value=0)
    for name in sorted(classes):
        for subset in subsets:
            if not counts.loc[name, subset]:
                raise ValueError(
                    f"Class {name} has no image in {subset}: its images hang together too much"
                    f"{f' by {group}' if group else ' as near-duplicates'} to be in every "
                    "subset. Split by image, change the fractions, or add images."
                )
