"""Which samples are explained, and numbers for what their Grad-CAM maps are said to show."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from hsc_utils import metrics, paper, training
from hsc_utils.explanation import masks
from hsc_utils.explanation.maps import grad_cam, resize_maps, same_shapes
from hsc_utils.files import no_bar
from hsc_utils.study import Run, RunConfig

FindLabels = Callable[[pd.DataFrame, np.ndarray], np.ndarray]
FEWEST_PLACES = 3  # a side of a map with fewer cannot tell the middle of a patch from its rim
CELLS_AT_ONCE = 256  # patches in memory at a time, with their maps and labels


def draw_predicted(
    run: Run, table: pd.DataFrame, subset: str, per_class: int, seed: int = 0
) -> pd.DataFrame:
    """Draw samples of a subset at random, with what a run predicted for them.

    Parameters
    ----------
    run : Run
        A finished run.
    table : DataFrame
        ``cells.csv``, or ``images.csv`` for a run on whole images.
    subset : str
        Value of the column ``split``.
    per_class, seed : int
        Samples of each class at most, and the seed of the drawing.

    Returns
    -------
    DataFrame
        The rows drawn, by class and then in the order of `table`, with ``predicted`` (a
        class) and ``probability`` (of that class).

    Raises
    ------
    ValueError
        If the run's predictions and the table are of different samples.
    """
    if per_class < 1:
        raise ValueError(f"per_class: {per_class} samples of a class leave nothing to explain.")
    key = "cell_id" if "cell_id" in table else "image_id"
    predictions = run.predictions.set_index("id")
    rows = table[table["split"] == subset]
    if rows.empty:
        raise ValueError(
            f"The table holds no {subset} sample. Choose a subset that it has: "
            f"{', '.join(table['split'].unique())}."
        )
    known = predictions.reindex(rows[key])
    labels = ["class", "split"]
    unlike = (known[labels].to_numpy() != rows[labels].to_numpy()).any(axis=1)
    if unlike.any():
        raise ValueError(
            f"{run} holds no predictions of {unlike.sum()} {subset} samples such as "
            f"{rows[key][unlike].iloc[0]}, or of another class or subset: it was trained on other "
            "tables. Give the tables of that run, or train it again."
        )
    drawn = rows.groupby("class", sort=False)[key].apply(
        lambda keys: keys.sample(min(per_class, len(keys)), random_state=seed)
    )
    rows = rows[rows[key].isin(drawn)].sort_values("class", kind="stable")
    probabilities = predictions.loc[rows[key]].filter(regex="^p_")
    return rows.assign(
        predicted=probabilities.idxmax(axis=1).str.removeprefix("p_").to_numpy(),
        probability=probabilities.max(axis=1).to_numpy(),
    ).reset_index(drop=True)


def pick_examples(drawn: pd.DataFrame, each: int = 1) -> np.ndarray:
    """Return positions of `each` correct, then `each` wrong samples of every class, in order.

    The first in the table are taken, not the most striking; a class that has no wrong
    prediction gives only correct ones.
    """
    correct = drawn["class"] == drawn["predicted"]
    order = drawn.assign(position=np.arange(len(drawn)), wrong=~correct)
    picked = order.groupby(["class", "wrong"], sort=False)["position"].head(each)
    return order.loc[picked.index].sort_values(["class", "wrong"])["position"].to_numpy()


def inputs_and_targets(
    pixels: np.ndarray, drawn: pd.DataFrame, config: RunConfig
) -> tuple[Tensor, np.ndarray]:
    """Turn samples, uint8 (N, H, W, 3), into what `grad_cam` takes.

    Returns
    -------
    inputs, targets : Tensor, ndarray
        float32 (N, C, S, S), and int (N,): the class ``predicted``, as an index.
    """
    targets = pd.Index(config.class_names).get_indexer(drawn["predicted"])
    if (targets < 0).any():
        raise ValueError(
            f"The class {drawn['predicted'].iloc[targets.argmin()]} was predicted, but the model's "
            f"are {', '.join(config.class_names)}: give the samples and the model of one run."
        )
    return training.to_input(pixels, config), targets


def measure_cells(
    model: nn.Module,
    config: RunConfig,
    patches: np.ndarray,
    cells: pd.DataFrame,
    layers: Mapping[int, str],
    find_labels: FindLabels,
    parts: Mapping[str, FindLabels] = MappingProxyType({}),
) -> pd.DataFrame:
    """Explain cells at several depths of a network and keep only `cell_numbers`.

    Maps and labels are made for a few patches at a time and dropped, so that memory does not
    grow with the number of cells.

    Parameters
    ----------
    model, config
        From `training.load_run`.
    patches : ndarray
        uint8 (M, side, side, 3), such as ``patches.npy`` mapped into memory.
    cells : DataFrame
        One row per cell to explain: ``row`` in `patches`, and ``predicted``.
    layers : mapping of int to str
        Strides and the layers that have them (`layer_at_stride`).
    find_labels : callable
        Rows of `cells` and their patches to labels, as `masks.find_labels` gives them.
    parts : mapping of str to callable
        The same for parts of cells, such as ``nucleus``, by name: each pixel of a part has the
        label of its cell (`masks.find_parts`). None by default.

    Returns
    -------
    DataFrame
        One row per cell and stride: ``stride``, the cell's place in `cells` (``position``),
        ``zero`` (whether the map is zero everywhere), the columns of `cell_numbers`, and of
        `part_numbers` for each part.

    Raises
    ------
    ValueError
        If a part lies where its cell does not.
    """
    starts = range(0, len(cells), CELLS_AT_ONCE)
    tables = []
    for start in tqdm(starts, "cells explained", disable=no_bar(), unit_scale=CELLS_AT_ONCE):
        part = cells.iloc[start : start + CELLS_AT_ONCE]
        pixels = np.asarray(patches[part["row"]])
        labels = find_labels(part, pixels)
        inside, explained = masks.own_masks(labels), inputs_and_targets(pixels, part, config)
        own_parts = {
            name: inside & masks.parts_of(labels, find_part(part, pixels), name)
            for name, find_part in parts.items()
        }
        for stride, layer in layers.items():
            maps = resize_maps(grad_cam(model, *explained, layer), pixels.shape[1])
            numbers = cell_numbers(maps, labels, inside, config.input_size // stride)
            for name, own_part in own_parts.items():
                numbers = numbers.join(part_numbers(maps, own_part, numbers, name))
            numbers.insert(0, "stride", stride)
            numbers.insert(1, "position", np.arange(start, start + len(pixels)))
            tables.append(numbers.assign(zero=maps.max(axis=(1, 2)) == 0))
    return pd.concat(tables, ignore_index=True)


def peak_places(grid: int, side: int) -> np.ndarray:
    """Return where a map's highest pixel lies if it is that of each of grid² places, flat (grid²,).

    A map made on a grid and enlarged peaks at few places, more of them in the middle of the patch
    than the area of a cell there says. Moving the map over its grid goes through all of them.
    """
    single = torch.eye(grid**2).reshape(-1, 1, grid, grid)
    enlarged = functional.interpolate(single, (side, side), mode="bilinear")
    return enlarged.flatten(1).argmax(dim=1).numpy()


def cell_numbers(
    maps: np.ndarray, labels: np.ndarray, inside: np.ndarray, grid: int
) -> pd.DataFrame:
    """Say how much of each map (N, H, W) lies in its cell, in neighbours, and in the background.

    `labels` number the cells of each patch, and `inside` is true in its own cell. ``share`` is
    the part of the map's mass inside the cell, ``area`` what the cell covers, ``excess`` their
    difference, ``pointing`` 1 if the map's highest pixel lies in the cell, ``pointing_chance`` how
    often it would if the map were moved over its grid of `grid`² places, and ``pointing_excess``
    their difference. All are fractions;
    NaN where the map is zero or there is no cell.
    """
    same_shapes(maps=maps, labels=labels, inside=inside)
    neighbours = (labels > 0) & ~inside
    mass = maps.sum(axis=(1, 2))
    valid = (mass > 0) & inside.any(axis=(1, 2))
    mass = np.where(valid, mass, np.nan)
    peaks = maps.reshape(len(maps), -1).argmax(axis=1)
    hits = inside.reshape(len(maps), -1)[np.arange(len(maps)), peaks]
    share = (maps * inside).sum(axis=(1, 2)) / mass
    area = np.where(valid, inside.mean(axis=(1, 2)), np.nan)
    places = inside.reshape(len(maps), -1)[:, peak_places(grid, maps.shape[1])]
    chance = np.where(valid, places.mean(axis=1), np.nan)
    return pd.DataFrame(
        {
            "share": share,
            "area": area,
            "excess": share - area,
            "share_neighbours": (maps * neighbours).sum(axis=(1, 2)) / mass,
            "area_neighbours": np.where(valid, neighbours.mean(axis=(1, 2)), np.nan),
            "pointing": np.where(valid, hits, np.nan),
            "pointing_chance": chance,
            "pointing_excess": hits - chance,
        }
    )


def part_numbers(
    maps: np.ndarray, own_part: np.ndarray, of_cell: pd.DataFrame, name: str
) -> pd.DataFrame:
    """Say how much of each map (N, H, W) lies on a part of its cell, such as the nucleus.

    `own_part` is true there, and `of_cell` are the `cell_numbers`. ``share_<name>`` is the part
    of the map's mass on it, ``area_<name>`` what it covers, ``excess_<name>`` their difference.
    A map that finds the cell and nothing in it has an excess too, so ``other_<name>`` is the share
    that the map of another cell, the row before, would have there, and ``beyond_<name>`` what
    exceeds that. NaN where those of the cell are, or where there is no other map.
    """
    same_shapes(maps=maps, own_part=own_part)
    mass = np.where(of_cell["share"].notna(), maps.sum(axis=(1, 2)), np.nan)
    others, mass_of_others = np.roll(maps, 1, axis=0), np.roll(mass, 1)
    if len(maps) == 1:
        mass_of_others = np.array([np.nan])
    numbers = pd.DataFrame({"share": (maps * own_part).sum(axis=(1, 2)) / mass})
    numbers["area"] = np.where(np.isnan(mass), np.nan, own_part.mean(axis=(1, 2)))
    numbers["excess"] = numbers["share"] - numbers["area"]
    other = (others * own_part).sum(axis=(1, 2)) / mass_of_others
    numbers["other"] = np.where(np.isnan(mass), np.nan, other)
    numbers["beyond"] = numbers["share"] - numbers["other"]
    return numbers.add_suffix(f"_{name}")


def measure_images(
    maps: np.ndarray, labels: np.ndarray, shifts: int = 20, seed: int = 0
) -> pd.DataFrame:
    """Return `image_numbers` of each of N images, and what chance would give.

    Parameters
    ----------
    maps, labels : ndarray
        float and int (N, H, W): maps, not negative, and the cells of each image.
    shifts, seed : int
        How often each map is moved by a random offset, wrapping round, and the seed of that;
        ``gini_shifted`` is the mean Gini coefficient that it then has. A map as coarse as
        this is never even over cells, so concentration means something only above that.

    Returns
    -------
    DataFrame
        One row per image; also ``excess`` of the share over the area, and ``gini_excess`` of
        the Gini coefficient over that of the moved maps.
    """
    same_shapes(maps=maps, labels=labels)
    rng = np.random.default_rng(seed)
    rows = []
    for map_, cells in zip(maps, labels, strict=True):
        offsets = rng.integers(map_.shape, size=(shifts, 2))
        shifted = [image_numbers(np.roll(map_, o, (0, 1)), cells)["gini"] for o in offsets]
        rows.append(image_numbers(map_, cells) | {"gini_shifted": np.mean(shifted)})
    table = pd.DataFrame(rows)
    return table.assign(
        excess=table["share"] - table["area"], gini_excess=table["gini"] - table["gini_shifted"]
    )


def image_numbers(map_: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Say how much of a whole image's map (H, W) lies on cells, and on how few of them.

    ``share`` is the part of the map's mass on ``cells`` cells, ``area`` what they cover, ``gini``
    the Gini coefficient of the map's mean over each cell; NaN where the map is zero or there is
    no cell.
    """
    values, flat = np.unique(labels, return_inverse=True)
    mass = np.bincount(flat.ravel(), map_.ravel())
    area = np.bincount(flat.ravel())
    cells = values > 0
    if mass.sum() == 0 or not cells.any():
        return {"share": np.nan, "area": np.nan, "cells": int(cells.sum()), "gini": np.nan}
    return {
        "share": mass[cells].sum() / mass.sum(),
        "area": area[cells].sum() / area.sum(),
        "cells": int(cells.sum()),
        "gini": gini(mass[cells] / area[cells]),
    }


def gini(values: np.ndarray) -> float:
    """Return the Gini coefficient of non-negative values: 0 all equal, 1 - 1/n one has all."""
    ordered = np.sort(values)
    count, total = len(ordered), ordered.sum()
    if total == 0:
        return math.nan
    return float((2 * np.arange(1, count + 1) - count - 1) @ ordered / (count * total))


# numbers of Grad-CAM, as a reader calls them; those of a part of the cell have its name behind
_NUMBER_WORDS = {
    "share": "share of Grad-CAM inside the cell",
    "area": "share of the patch's area that the cell covers",
    "excess": "share beyond the area",
    "share_neighbours": "share of Grad-CAM on neighbours",
    "area_neighbours": "share of area that neighbours cover",
    "pointing": "highest point lies in the cell",
    "pointing_chance": "highest point, by chance",
    "pointing_excess": "highest point, beyond chance",
    "cells": "cells in the image",
    "gini": "Gini coefficient over cells",
    "gini_shifted": "Gini coefficient, maps moved",
    "gini_excess": "Gini coefficient beyond moved maps",
}
_PART_WORDS = {
    "share": "share of Grad-CAM on the {}",
    "area": "share of area under the {}",
    "excess": "share on the {} beyond the area",
    "other": "share on the {} of another cell's map",
    "beyond": "share on the {} beyond another cell's map",
}
_IMAGE_WORDS = {
    "share": "share of Grad-CAM on detected cells",
    "area": "share of the image's area that they cover",
}


def in_words(means: pd.DataFrame, columns: str = "class") -> pd.DataFrame:
    """Lay out `metrics.means_by_class` for a reader: one row per number, named in words.

    Values are ``mean (low to high)``; a column ``all classes`` comes first, then the classes in
    the paper's order. With `columns` ``stride``, there is one column per depth of the network.
    """
    texts = [
        f"{m.mean:.1f}" if m.number == "cells" else f"{m.mean:.3f} ({_interval_words(m)})"
        for m in means.itertuples()
    ]
    wide = means.assign(text=texts).pivot_table("text", "number", columns, "first", sort=False)
    if columns == "class":
        names = paper.class_order(set(wide) - {"all classes"})
        wide = wide.reindex(columns=[*(["all classes"] if "all classes" in wide else []), *names])
    else:
        wide = wide.rename(columns="{} px".format)
    known = _NUMBER_WORDS | (_IMAGE_WORDS if "gini" in wide.index else {})
    return wide.rename(index=lambda number: _number_words(number, known)).rename_axis(
        index="mean (95 % interval)", columns=None
    )


def map_findings(measured: pd.DataFrame, input_size: int) -> list[str]:
    """Say of each stride of `measure_cells` how fine its maps are, and how many are zero."""
    return [
        f"Stride {stride} px: a map has {input_size // stride} × {input_size // stride} places; "
        f"{zero.mean():.1%} of the maps are zero everywhere."
        for stride, zero in measured.groupby("stride", sort=False)["zero"]
    ]


def sentences(
    cell_means: pd.DataFrame, stride: int, input_size: int, image_means: pd.DataFrame
) -> list[str]:
    """Say in plain words where maps lie: of cells at a stride, and of whole images, if any.

    Means come from `metrics.means_by_class`; those of cells have a column ``stride``. What a grid
    of fewer than `FEWEST_PLACES` places a side cannot tell is said first.
    """
    said, usual = [], input_size // 32
    if usual < FEWEST_PLACES:
        said.append(
            f"At the layer that Grad-CAM usually reads, a map has {usual} × {usual} places: inside "
            "and beside a cell cannot be told apart."
        )
    if input_size // stride >= FEWEST_PLACES:
        of_all = _of_all_classes(cell_means[cell_means["stride"] == stride])
        share, area = of_all.loc["share", "mean"], of_all.loc["area", "mean"]
        said.append(
            f"At stride {stride}, {share:.0%} of the attention lies inside the cell, which covers "
            f"{area:.0%} of the patch; {_beyond(of_all.loc['excess'], 'its area')}."
        )
    if len(image_means):
        of_all = _of_all_classes(image_means)
        share, area = of_all.loc["share", "mean"], of_all.loc["area", "mean"]
        said.append(
            f"On whole images {share:.1%} of it lies on cells, which cover {area:.1%}; "
            f"{_beyond(of_all.loc['excess'], 'their area')}."
        )
        gathers = _beyond(of_all.loc["gini_excess"], "that of moved maps")
        said.append(f"Whether it gathers on particular cells: a Gini coefficient {gathers}.")
    return said


def _of_all_classes(means: pd.DataFrame) -> pd.DataFrame:
    return means[means["class"] == "all classes"].set_index("number")


def _beyond(excess: pd.Series, expected: str) -> str:
    """Say whether a number exceeds what is expected of it, with the difference."""
    gap = metrics.with_interval(excess["mean"], excess["low"], excess["high"], "+.3f")
    if np.isnan(excess["low"]):
        return f"too few images to say whether that differs from {expected}: {gap}"
    if excess["low"] > 0:
        return f"more than {expected}: {gap}"
    return f"{'less than' if excess['high'] < 0 else 'not told apart from'} {expected}: {gap}"


def _interval_words(row: tuple) -> str:
    """Write the interval of a mean, a share's within 0 and 1, or how few images there are."""
    if np.isnan(row.low):
        return f"{row.images} image{'s' * (row.images != 1)}, no interval"
    share = not (row.number.startswith(("excess", "beyond")) or row.number.endswith("_excess"))
    low, high = (max(row.low, 0), min(row.high, 1)) if share else (row.low, row.high)
    return f"{low:.3f} to {high:.3f}"


def _number_words(number: str, known: Mapping[str, str]) -> str:
    """Name a number of a cell, of a part of it, or of a comparison that has its name already."""
    measure, _, part = number.partition("_")
    if number not in known and part and measure in _PART_WORDS:
        return _PART_WORDS[measure].format(part)
    return known.get(number, number)
