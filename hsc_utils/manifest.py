"""The tables `images.csv` and `cells.csv`: read and check them, split and count images."""

import hashlib
import itertools
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hsc_utils import paper
from hsc_utils.files import from_root, shown_path

# Columns and what they hold. Texts are never NaN (a class called NA, or an image called 007, stays
# a text), and of the numbers only floats may be absent.
IMAGE_COLUMNS = {
    **dict.fromkeys(("image_id", "path", "class", "split", "group"), str),
    "slices": int,
    **dict.fromkeys(("sha256", "acquired_at"), str),
    "pixel_size_um": float,
    **dict.fromkeys(("height", "width"), int),
    "source": str,
    "bit_depth": int,
    **dict.fromkeys(("channel_names", "objective"), str),
    "simulated": bool,
    "fourth_slice_contrast": float,
    "near_duplicate_of": str,
    **dict.fromkeys(("mean_r", "mean_g", "mean_b"), float),
}
CELL_COLUMNS = {
    **dict.fromkeys(("cell_id", "image_id", "class", "split", "group"), str),
    **dict.fromkeys(("y", "x", "sigma"), float),
    "row": int,
    **dict.fromkeys(("touches", "simulated"), bool),
}
SUBSETS = ("train", "validation", "test")
MIN_FOLDS = 3  # of a cross-validation: to judge, to know when to stop, and to learn from
_NUMPY_KINDS = {int: "iu", bool: "b", float: "fiu"}
# A greedy placement of whole groups depends on their order; the best of this many is kept.
_GROUP_ORDERS = 64


def expect(holds: bool, name: str, given: object, expected: str) -> None:
    """Refuse what a caller gave for a parameter, unless what is expected of it holds."""
    if not holds:
        raise ValueError(f"{name} is {given!r}, but {expected} was expected.")


def check_columns(table: pd.DataFrame, *columns: str) -> None:
    """Refuse what is no table, or a table without columns that a function reads."""
    found = [*table.columns] if isinstance(table, pd.DataFrame) else [type(table).__name__]
    if absent := [column for column in columns if column not in found]:
        raise ValueError(
            f"The table lacks the columns {', '.join(absent)}. It has {', '.join(map(str, found))}."
        )


def read_images(prepared_dir: str | Path) -> pd.DataFrame:
    """Read ``images.csv``, and refuse a damaged one, or one that names images that are gone.

    Returns
    -------
    DataFrame
        One row per image, columns `IMAGE_COLUMNS`; texts are never NaN.
    """
    folder = from_root(prepared_dir)
    path = folder / "images.csv"
    images = _read_table(path, IMAGE_COLUMNS, ["image_id"], made_by="01")
    if missing := [name for name in images["path"] if not (folder / name).exists()]:
        raise FileNotFoundError(
            f"{shown_path(path)} names {len(missing)} missing images, first {missing[0]}. Run "
            "notebook 01 again; it makes what is missing."
        )
    return images


def read_rejected(prepared_dir: str | Path) -> pd.DataFrame:
    """Read ``rejected.csv``: the columns ``source`` and ``reason`` of each refused file."""
    return _parsed(from_root(prepared_dir) / "rejected.csv", "01 or 02", dtype=str)


def read_cells(cells_dir: str | Path, prepared_dir: str | Path | None = None) -> pd.DataFrame:
    """Read ``cells.csv``, and refuse a damaged one, or one whose splits leak.

    Parameters
    ----------
    cells_dir : path
        Folder that `detection.extract_cells` or `detection.import_patches` wrote.
    prepared_dir : path, optional
        Folder of ``images.csv``, by default ``prepared`` beside `cells_dir`; where there is
        one, split, class and group of a cell must be its image's.

    Returns
    -------
    DataFrame
        One row per cell, columns at least `CELL_COLUMNS`; texts are never NaN.
    """
    folder = from_root(cells_dir)
    path = folder / "cells.csv"
    cells = _read_table(path, CELL_COLUMNS, ["cell_id", "row"], made_by="02")
    shared = ["split", "class", "group"]
    for column in shared:
        counts = cells.groupby("image_id")[column].nunique()
        if (counts > 1).any():
            raise _unfit(path, f"cells of image {counts.idxmax()} have more than one {column}")
    prepared = folder.parent / "prepared" if prepared_dir is None else from_root(prepared_dir)
    if (prepared / "images.csv").exists():
        images = read_images(prepared).set_index("image_id")
        of_cell = cells.drop_duplicates("image_id").set_index("image_id")
        expected = images.reindex(of_cell.index)[shared]
        differing = (expected != of_cell[shared]).any(axis=1)
        if differing.any():
            name = differing.idxmax()
            other = "has another split or class or group there than in images.csv"
            raise _unfit(path, f"image {name} {other}, or is not in it")
    return cells


def _unfit(path: Path, why: str, made_by: str = "02") -> ValueError:
    return ValueError(f"{shown_path(path)}: {why}. Make it again with notebook {made_by}.")


def _parsed(path: Path, made_by: str, **kwargs: object) -> pd.DataFrame:
    """Read a CSV file; a sentence if it is missing, empty or damaged."""
    if not path.exists():
        raise FileNotFoundError(f"{shown_path(path)} is missing. Run notebook {made_by} first.")
    try:
        if not path.read_bytes().endswith(b"\n"):
            raise ValueError("its last line has no end")
        return pd.read_csv(path, **kwargs)
    except ValueError as error:  # pandas' own errors and wrong bytes are ValueErrors, too
        raise ValueError(
            f"{shown_path(path)} is empty, cut short or damaged ({str(error).strip()[:80]}). Run "
            f"notebook {made_by} again, which makes it anew."
        ) from error


def _read_table(
    path: Path, columns: Mapping[str, type], unique: Sequence[str], made_by: str
) -> pd.DataFrame:
    """Read a table whose columns hold what they should, and some nothing twice."""
    header = _parsed(path, made_by, nrows=0).columns
    if absent := [column for column in columns if column not in header]:
        raise _unfit(path, f"it lacks the columns {', '.join(absent)}", made_by)
    table = _parsed(
        path,
        made_by,
        dtype={column: str for column in header if columns.get(column) is str},
        keep_default_na=False,
        na_values={column: [""] for column in header if columns.get(column) is float},
    )
    for column, kind in columns.items():
        if len(table) and kind is not str and table[column].dtype.kind not in _NUMPY_KINDS[kind]:
            why = f"it is damaged: not every {column} is of type {kind.__name__}"
            raise _unfit(path, why, made_by)
    for column in unique:
        if len(repeated := table.loc[table[column].duplicated(), column]):
            raise _unfit(path, f"{column} {repeated.iloc[0]} occurs more than once", made_by)
    if unknown := sorted(set(table["split"]) - set(SUBSETS)):
        why = f"it has the split {unknown[0]!r}, but {', '.join(SUBSETS)} were expected"
        raise _unfit(path, why, made_by)
    return table


def near_duplicates(images: pd.DataFrame) -> pd.DataFrame:
    """List the images that look like another one, beside that one.

    Returns
    -------
    DataFrame
        Columns ``image_id``, ``near_duplicate_of``, and of both ``class`` and ``split``; a
        pair in two classes, or (where the split came with the data) in two subsets, deserves
        a look.
    """
    check_columns(images, "image_id", "near_duplicate_of", "class", "split")
    looks = images.loc[images["near_duplicate_of"] != "", ["image_id", "near_duplicate_of"]]
    labels = images.set_index("image_id")[["class", "split"]]
    others = labels.add_suffix("_of_other")
    return looks.join(labels, on="image_id").join(others, on="near_duplicate_of")


def count_by_class(images: pd.DataFrame, by: str) -> pd.DataFrame:
    """Count images by class (rows, the paper's order) and another column (subsets, or sorted)."""
    check_columns(images, "class", by)
    counts = pd.crosstab(images["class"], images[by])
    columns = [subset for subset in SUBSETS if subset in counts] if by == "split" else [*counts]
    return counts.loc[paper.class_order(counts.index), columns]


def slice_names(prepared_dir: str | Path) -> tuple[str, ...]:
    """Name the slices behind red, green and blue: ``Slice 0, DIC`` where all images agree on it.

    Without prepared images, as of ready cells, and without names they are numbers alone.
    """
    named = read_images(prepared_dir)["channel_names"] if from_root(prepared_dir).exists() else []
    listed = [names.split(";") for names in named if names]
    called = [{names[k] for names in listed if len(names) > k} for k in range(3)]
    return tuple(
        f"Slice {k}" + (f", {of.pop()}" if len(of) == 1 else "") for k, of in enumerate(called)
    )


def compare_counts(images: pd.DataFrame) -> pd.DataFrame:
    """Count images by class, beside the paper's where it has one of the classes.

    Returns
    -------
    DataFrame
        Index ``class`` (and ``total``), columns ``images`` and ``images, the paper's``. Where the
        paper has one of the classes, its others stand there with no image, and other classes have
        no number of the paper's (NA).
    """
    check_columns(images, "class")
    counts = images["class"].value_counts().rename("images").to_frame()
    shared = set(counts.index) & set(paper.counts().index)
    names = paper.class_order({*counts.index, *(paper.counts().index if shared else ())})
    table = paper.beside(counts.reindex(names, fill_value=0), "images").astype("Int64")
    table.loc["total"] = table.sum(min_count=1)
    return table.rename_axis("class")


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
    totals, sets = sizes.sum(axis=0), (sizes > 0).sum(axis=0)
    small = sets < len(used)
    if small.any() and small_classes == "error":
        k = small.argmax()
        raise ValueError(
            f"Class {class_names[k]} has {totals[k]} image(s) in {sets[k]} independent set(s), too "
            f"few for {len(used)} subsets. Add images, remove the class, or set "
            "small_classes='train' to use it for training alone."
        )
    targets = np.array([_targets(n, fractions) for n in totals]).T
    ranks = rank_names(images["image_id"], seed)
    placed = np.full(len(sizes), -1)
    placed[(sizes[:, small] > 0).any(axis=1)] = 0
    names = images["image_id"].astype(str).groupby(units).min()
    orders = _GROUP_ORDERS if group else 1
    subsets = _place_sets(placed, sizes, targets, names, seed, orders)[units]
    for k in range(len(class_names)):
        loose = np.flatnonzero((subsets < 0) & (classes == k))
        counts = np.bincount(subsets[(subsets >= 0) & (classes == k)], minlength=len(SUBSETS))
        quotas = np.maximum(targets[:, k] - counts, 0)
        while quotas.sum() > len(loose):
            quotas[quotas.argmax()] -= 1
        subsets[loose[np.argsort(ranks[loose])]] = np.repeat(np.arange(len(SUBSETS)), quotas)
    split = images.assign(split=np.array(SUBSETS)[subsets])
    filled = {*zip(split["class"], split["split"], strict=True)}
    for name, k in itertools.product(class_names[~small], used):
        if (name, SUBSETS[k]) not in filled:
            raise ValueError(
                f"Class {name} has no image in {SUBSETS[k]}: its images hang together too much by "
                f"{group or 'their looks'} to be in every subset. Split by image, change the "
                "fractions, or add images."
            )
    return split


def _check_split_request(
    images: pd.DataFrame, fractions: Sequence[float], group: str | None, small_classes: str
) -> None:
    shares = pd.to_numeric(pd.Series(fractions), errors="coerce")
    # Comparisons with NaN are false, so this asks what must hold.
    if len(shares) != 3 or not (shares.min() >= 0 and abs(shares.sum(skipna=False) - 1) <= 1e-6):
        raise ValueError(
            f"fractions are {fractions!r}, but three shares of training, validation and test that "
            "sum to 1 were expected."
        )
    known = small_classes in ("error", "train")
    expect(known, "small_classes", small_classes, "'error' or 'train'")
    _check_divisible(images, group)


def _check_divisible(images: pd.DataFrame, group: str | None) -> None:
    """Refuse a table that cannot be divided: without rows, classes, groups or unique names."""
    check_columns(images, "image_id", "class", *([group] if group else []))
    if not len(images):
        raise ValueError("The table to split has no rows.")
    for column in ("class", group) if group else ("class",):
        empty = images[column].isna() | (images[column].astype(str) == "")
        if empty.any():
            raise ValueError(
                f"{empty.sum()} images have no {column}, first "
                f"{images.loc[empty, 'image_id'].iloc[0]}. Say it, or drop them"
                f"{', or choose another group, or split by image' * (column == group)}."
            )
    if images["image_id"].duplicated().any():
        raise ValueError("An image_id occurs more than once in the table to split.")


def fold_images(
    images: pd.DataFrame, folds: int, seed: int = 0, group: str | None = None
) -> pd.Series:
    """Divide images into folds, so that each can be judged by a model that learnt from the others.

    scikit-learn's ``StratifiedGroupKFold`` over what stays together in `split_images`, too:
    near-duplicates, and the values of `group`. The order of rows does not matter.

    Parameters
    ----------
    images : DataFrame
        As for `split_images`.
    folds : int
        At least 3: one is judged, one says when to stop, and the others are learnt from.
    seed : int
        Another seed gives other folds.
    group : str, optional
        Column whose values are never divided, see `fold_group`.

    Returns
    -------
    Series
        ``fold`` of each image, int from 0; -1 for one to be learnt from always and never judged,
        because it belongs to a class that would have no other (a single image, or images that all
        stay together).

    Raises
    ------
    ValueError
        If a parameter or column is not as described, or there are too few images.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # half a second, for this alone

    whole = isinstance(folds, int) and not isinstance(folds, bool) and folds >= MIN_FOLDS
    expect(whole, "folds", folds, f"0 (none) or a whole number from {MIN_FOLDS}")
    _check_divisible(images, group)
    ordered = images.iloc[rank_names(images["image_id"], seed).argsort()]
    units, classes = _units(ordered, group), ordered["class"].to_numpy()
    alone = {np.unique(units[classes == name])[0] for name in _of_one_unit(classes, units)}
    free = np.flatnonzero(~np.isin(units, [*alone]))
    found = np.full(len(images), -1)
    if len(free) and np.unique(classes[free], return_counts=True)[1].max() >= folds:
        with warnings.catch_warnings():  # that a class has fewer images than there are folds
            warnings.filterwarnings("ignore", "The least populated class", UserWarning)
            divided = StratifiedGroupKFold(folds).split(free, classes[free], units[free])
            for fold, (_, judged) in enumerate(divided):
                found[free[judged]] = fold
    if len(filled := set(found[found >= 0])) < folds:
        raise ValueError(
            f"folds: {folds} are wanted, but {len(set(units[free]))} independent sets of images "
            f"({group or 'image'} by {group or 'image'}) fill {len(filled)} of them. Ask for "
            "fewer, or 0 for none."
        )
    return pd.Series(found, ordered.index, name="fold").loc[images.index]


def _of_one_unit(classes: NDArray, units: NDArray[np.int64]) -> list[str]:
    """List the classes whose images all stay together."""
    counts = pd.Series(units).groupby(classes).nunique()
    return counts.index[counts == 1].tolist()


def fold_group(images: pd.DataFrame, folds: int) -> tuple[str | None, str]:
    """Choose what `fold_images` keeps together, and say why.

    Returns
    -------
    group : str or None
        ``group`` (whole days or mice) if every image has one, they fill the folds and every class
        lies in several; otherwise None.
    why : str
        The end of a sentence that begins with what is divided.
    """
    groups = images.get("group", pd.Series("", images.index))
    if (groups == "").any():
        return None, "image by image, since not every image names its day (or group)"
    units = _units(images, "group")
    if len(set(units)) < folds:
        return None, f"image by image, since {len(set(units))} days (or groups) cannot fill them"
    if single := _of_one_unit(images["class"].to_numpy(), units):
        return None, f"image by image, since all images of {single[0]} are of one day (or group)"
    return "group", "by whole days (or groups)"


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
    weights = sizes / sizes.sum(axis=0)
    best, least = placed, np.inf
    for order in range(orders):
        ranks = rank_names(names.iloc[waiting], seed, order)
        # The first order takes large sets first, which is often best; the others are random.
        queue = waiting[np.lexsort((ranks, -images if order == 0 else 0 * images))]
        attempt = placed.copy()
        counts = np.array([sizes[placed == k].sum(axis=0) for k in range(len(SUBSETS))])
        for unit in queue:
            lacking = (targets - counts) / np.maximum(targets, 1)
            need = (lacking * weights[unit]).sum(axis=1)
            attempt[unit] = np.where(targets.any(axis=1), need, -np.inf).argmax()
            counts[attempt[unit]] += sizes[unit]
        # The cost: squared deviations from the targets as shares of a class, 1 an empty subset.
        loose = sizes[attempt < 0].sum(axis=0)
        empty = (counts == 0) & (targets > 0) & (loose == 0)
        cost = (((counts - targets) / targets.sum(axis=0)) ** 2).sum() + empty.sum()
        if cost < least:
            best, least = attempt, cost
    return best


def sample_images(images: pd.DataFrame, count: int, seed: int = 0) -> pd.DataFrame:
    """Pick at most `count` images, as evenly over classes and groups as they allow."""
    check_columns(images, "image_id", "class", "group")
    order = images.assign(rank=rank_names(images["image_id"], seed)).sort_values("rank")
    turn = order.groupby(["class", "group"]).cumcount()
    return images.loc[turn.sort_values(kind="stable").index[:count]].sort_index()
