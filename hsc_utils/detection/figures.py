"""Figures of step 02: what each method finds, how well, and the cells cut out.

Each takes a `note` for its foot that says whose data it shows.
"""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray

from hsc_utils import drawing, paper
from hsc_utils.detection.tuning import METHOD_NAMES

_COLOURS = {"log": "#0072B2", "dog": "#E69F00", "doh": "#009E73"}
_MARKERS = {"log": "o", "dog": "s", "doh": "^"}


def overlays(
    images: Mapping[str, NDArray],
    found: Mapping[str, Sequence[NDArray]],
    truth: Sequence[NDArray] | None = None,
    note: str = "",
) -> drawing.Figure:
    """Circle the cells that each method found: one image per row, one method per column.

    Images (Y, X, 3) come by title; the cells (N, 3: y, x, sigma in px) of each method, and true
    centres (M, 2), in their order.
    """
    titles = paper.class_order(images)
    size = (8, 2.75 * len(titles) + 0.6)
    figure, axes = drawing.picture_grid(len(titles), len(found), size=size, labels=titles)
    known, counts = truth is not None, []
    for row, title in zip(axes, titles, strict=True):
        place = [*images].index(title)
        true = truth[place] if known else None
        there = f", {len(true)} in view" if known else ""
        for panel, (method, of_images) in zip(row, found.items(), strict=True):
            draw_cells(panel, images[title], of_images[place], true)
            name = f"{METHOD_NAMES[method]}: {len(of_images[place])} found"
            panel.set_title(name + there, fontsize=9)
        each = ", ".join(f"{METHOD_NAMES[m]} {len(cells[place])}" for m, cells in found.items())
        counts.append(f"{title}{there} ({each})")
    marks = "Circle: cell found, at its size." + " Cross: true centre." * known
    figure.suptitle(f"{marks} Images stretched for the eye.", fontsize=9.5)
    alt = "Micrographs with a circle around each cell found" + ", a cross at each true one" * known
    return drawing.finish(figure, note, f"{alt}. Cells found in {'; '.join(counts)}.")


def searched_and_found(
    image: NDArray, searched: NDArray, found: NDArray, note: str = ""
) -> drawing.Figure:
    """Show an image with its cells (y, x, sigma) beside the one in which they were searched."""
    figure, ((left, right),) = drawing.picture_grid(1, 2, size=(8.0, 4.4))
    draw_cells(left, image, found)
    left.set_title(f"{len(found)} cells found; RGB, stretched for the eye", fontsize=9.5)
    right.imshow(searched, cmap="gray")
    right.set_title("What was searched: bright where a cell may be", fontsize=9.5)
    alt = (
        f"Left, a micrograph stretched for the eye, with a circle around each of the {len(found)} "
        "cells found. Right, the image that was searched, with bright spots where cells may be."
    )
    return drawing.finish(figure, note, alt)


def circled(image: NDArray[np.uint8], found: NDArray[np.float64]) -> bytes:
    """Return a PNG of a stretched image with its cells, fast enough to follow a slider."""
    canvas = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    for y, x, sigma in found:
        centre, radius = (round(x), round(y)), round(np.sqrt(2) * sigma)
        # yellow in a black seam shows on bright halos as well as on dark rings
        cv2.circle(canvas, centre, radius, (0, 0, 0), 3, cv2.LINE_AA)
        cv2.circle(canvas, centre, radius, (66, 228, 240), 1, cv2.LINE_AA)
    return cv2.imencode(".png", canvas)[1].tobytes()


def draw_cells(panel: Axes, image: NDArray, found: NDArray, truth: NDArray | None = None) -> None:
    """Draw an image with a circle around each cell found, and a cross at each true centre."""
    panel.imshow(drawing.stretched(image))
    diameters = 2 * np.sqrt(2) * found[:, 2]
    places = {"offsets": found[:, 1::-1], "offset_transform": panel.transData, "units": "xy"}
    seam = [Stroke(linewidth=2.2, foreground="black"), Normal()]
    look = {"facecolors": "none", "edgecolors": "#F0E442", "linewidths": 1.0, "path_effects": seam}
    angles = np.zeros(len(found))
    panel.add_collection(EllipseCollection(diameters, diameters, angles, **places, **look))
    if truth is not None:
        cross = {"color": "white", "markersize": 5, "markeredgewidth": 1.1}
        panel.plot(*truth.T[::-1], "+", path_effects=seam, **cross)
    panel.set(xlim=(0, image.shape[1]), ylim=(image.shape[0], 0))


def precision_recall(scores: pd.DataFrame, note: str = "") -> drawing.Figure:
    """Draw precision against recall of `score_trials`, the chosen one of each method ringed."""
    figure, panel = drawing.new_figure(size=(7, 4.4))
    chosen = []
    for method, of_method in scores.groupby("method", sort=False):
        look = {"color": _COLOURS[method], "marker": _MARKERS[method], "linewidths": 0}
        best = of_method.iloc[0]
        name = f"{METHOD_NAMES[method]}: F1 {best['f1']:.2f}"
        panel.scatter(of_method["recall"], of_method["precision"], s=30, alpha=0.6, **look)
        panel.scatter([], [], s=50, label=name, **look)
        ring = {"facecolors": "none", "edgecolors": _COLOURS[method], "linewidths": 2}
        panel.scatter(best["recall"], best["precision"], s=150, **ring)
        chosen.append(f"{name}, precision {best['precision']:.2f}, recall {best['recall']:.2f}")
    panel.set(xlabel="Recall (share of the cells that is found)")
    panel.set(ylabel="Precision (share of the finds that are cells)")
    panel.set(xlim=(None, 1.03), ylim=(None, 1.03))
    style = {"frameon": False, "fontsize": 9.5, "ncols": len(chosen)}
    figure.legend(title="Ring: the setting chosen", loc="outside upper center", **style)
    alt = f"Precision against recall, one point for each of {len(scores)} settings. Chosen: "
    return drawing.finish(figure, note, f"{alt}{'; '.join(chosen)}.")


def settings_map(scores: pd.DataFrame, value: str, label: str, note: str = "") -> drawing.Figure:
    """Draw a column of `score_trials`: thresholds across, sizes down, methods apart.

    Colours span the column's own range; a frame marks the chosen setting of each method.
    """
    import seaborn as sns  # as in `drawing.new_figure`

    methods = list(dict.fromkeys(scores["method"]))
    ranges = len(scores[["min_sigma", "max_sigma"]].drop_duplicates())
    figure, axes = drawing.new_figure(
        1, len(methods), size=(8, 1.8 + 0.28 * ranges), squeeze=False, sharey=True
    )
    scale = {"vmin": scores[value].min(), "vmax": scores[value].max(), "cmap": "viridis"}
    numbers = {"annot": True, "fmt": ".2f", "annot_kws": {"fontsize": 8.5}, "cbar": False}
    chosen = []
    for panel, method in zip(axes[0], methods, strict=True):
        of_method = scores[scores["method"] == method]
        best = of_method.iloc[0]
        # by size, not by rank: the panels share their rows
        places = of_method.set_index(["min_sigma", "max_sigma", "threshold"]).sort_index()
        grid = places[value].unstack()  # noqa: PD010 - pivot_table drops rows without a value
        row = grid.index.get_loc((best["min_sigma"], best["max_sigma"]))
        column = grid.columns.get_loc(best["threshold"])
        grid.index = [f"{low:g} to {high:g}" for low, high in grid.index]
        sns.heatmap(grid, ax=panel, **scale, **numbers)
        for look in ({"color": "white", "lw": 5}, {"color": "#D55E00", "lw": 2.5}):
            frame = Rectangle((column, row), 1, 1, fill=False, clip_on=False, zorder=3, **look)
            panel.add_patch(frame)
        panel.set_title(METHOD_NAMES[method], fontsize=10)
        panel.set(xlabel="Threshold", ylabel="")
        panel.tick_params(axis="y", rotation=0)
        extremes = of_method[value].min(), of_method[value].max()
        chosen.append(
            f"{METHOD_NAMES[method]} from {extremes[0]:.2f} to {extremes[1]:.2f}, "
            f"{best[value]:.2f} at the chosen sigmas {grid.index[row]} px and threshold "
            f"{best['threshold']:g}"
        )
    axes[0, 0].set_ylabel("Sigma, smallest to largest (px)")
    figure.colorbar(axes[0, 0].collections[0], ax=axes, label=label, aspect=30, pad=0.01)
    figure.suptitle("Framed: the setting chosen", fontsize=10)
    alt = f"Heat maps of {label} by sizes and threshold, with the chosen setting framed"
    return drawing.finish(figure, note, f"{alt}: {'; '.join(chosen)}.")


def cells_per_image(counts: pd.DataFrame, paper_means: pd.Series, note: str = "") -> drawing.Figure:
    """Draw the ``cells`` of each image (row) by ``class``, beside the paper's mean of a class."""
    names = paper.class_order(counts["class"])
    colours = drawing.class_colours(names)
    means = counts.groupby("class")["cells"].mean()
    figure, panel = drawing.new_figure(size=(6.4, 4.2))
    rng = np.random.default_rng(0)  # points lie beside each other, and always in the same places
    said = []
    for place, name in enumerate(names):
        cells = counts.loc[counts["class"] == name, "cells"]
        aside = place + rng.uniform(-0.22, 0.22, len(cells))
        panel.scatter(aside, cells, s=16, alpha=0.55, linewidths=0, color=colours[name])
        line = {"color": "black", "lw": 1.8, "label": "mean found here" if place == 0 else ""}
        panel.hlines(means[name], place - 0.3, place + 0.3, **line)
        panel.text(place + 0.33, means[name], f"{means[name]:.1f}", va="center", fontsize=9)
        said.append(f"{name} {means[name]:.1f}")
    shared = [(place, paper_means[name]) for place, name in enumerate(names) if name in paper_means]
    for place, mean in shared:
        panel.text(place + 0.1, mean, f"{mean:.1f}", va="center", fontsize=9)
        said[place] += f" (the paper's mean: {mean:.1f})"
    if shared:
        diamond = {"marker": "D", "s": 46, "facecolors": "none", "edgecolors": "black", "zorder": 3}
        panel.scatter(*zip(*shared, strict=True), label="the paper's mean", **diamond)
    panel.set_xticks(range(len(names)), names)
    panel.set(ylabel="Cells per image", ylim=(0, None), xlim=(-0.5, len(names) - 0.3))
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=9.5)
    alt = f"Points, one per image, of the number of cells found. Means: {', '.join(said)}."
    return drawing.finish(figure, note, alt)


def size_distribution(cells: pd.DataFrame, side: int, note: str = "") -> drawing.Figure:
    """Draw the diameters of the cells (``sigma``) by ``class``, beside a patch's side, in px."""
    import seaborn as sns  # as in `drawing.new_figure`

    names = paper.class_order(cells["class"])
    diameters = cells.assign(diameter=2 * np.sqrt(2) * cells["sigma"])
    figure, panel = drawing.new_figure(size=(6.8, 3.8))
    by_class = {"hue": "class", "hue_order": names, "palette": drawing.class_colours(names)}
    bars = {"stat": "percent", "common_norm": False, "multiple": "dodge", "shrink": 0.85}
    # sizes are searched in steps: one bar for each, where they are few
    bars["bins"] = min(12, diameters["diameter"].nunique())
    sns.histplot(diameters, x="diameter", ax=panel, alpha=1, linewidth=0, **bars, **by_class)
    panel.axvline(side, color="0.3", linestyle="--", linewidth=1)
    panel.text(
        side, 50, f"patch side, {side} px ", fontsize=9, color="0.3", ha="right", rotation=90
    )
    panel.get_legend().set(title=None, frame_on=False)
    panel.set(xlabel="Diameter of the blob (px)", ylabel="Cells of the class (%)", ylim=(0, 100))
    largest = diameters["diameter"].max()
    at_most = diameters["diameter"].eq(largest).groupby(diameters["class"]).mean()
    said = ", ".join(f"{at_most[name]:.0%} of {name}" for name in names)
    alt = (
        f"Bars of the diameters of the cells by class. The largest, {largest:.1f} px, have {said}."
    )
    return drawing.finish(figure, note, f"{alt} A patch is {side} px wide.")


def patch_sheet(patches: Mapping[str, NDArray[np.uint8]], note: str = "") -> drawing.Figure:
    """Show cell patches (N, side, side, 3), one class per row, each row stretched for the eye."""
    names = paper.class_order(patches)
    colours = drawing.class_colours(names)
    height = 8.0 / max(map(len, patches.values())) + 0.4
    figure, axes = drawing.picture_grid(len(names), 1, size=(8.0, height * len(names) + 0.3))
    for panel, name in zip(axes[:, 0], names, strict=True):
        strip = drawing.stretched(np.concatenate(list(patches[name]), axis=1))
        apart = np.split(strip, len(patches[name]), axis=1)
        white = ((0, 0), (0, 2), (0, 0))
        panel.imshow(np.concatenate([np.pad(p, white, constant_values=255) for p in apart], axis=1))
        look = {"color": colours[name], "fontweight": "bold"}
        panel.set_title(name, fontsize=9.5, loc="left", **look)
    figure.suptitle("Patches of cells, RGB, stretched for the eye", fontsize=10)
    shown = ", ".join(f"{len(patches[name])} of {name}" for name in names)
    alt = f"Patches cut around single cells, {shown}, in RGB stretched for the eye."
    return drawing.finish(figure, note, alt)


def size_scan(
    scan: pd.DataFrame, smallest: Sequence[float], largest: Sequence[float], note: str = ""
) -> drawing.Figure:
    """Draw how well cells of each range of sizes agree with the contrast, and the sizes tried.

    Parameters
    ----------
    scan : DataFrame
        Of `suggest_sizes`: ``low``, ``high`` (sigma, px) and ``agreement`` in [0, 1].
    smallest, largest : sequence of float
        Sigmas that are tried.
    note : str
        Whose data these are.
    """
    figure, axes = drawing.new_figure(size=(7, 3.6))
    tried = min(smallest), max(largest)
    axes.axvspan(*tried, color="0.88", lw=0, label="sizes tried below")
    look = {"color": "#0072B2", "lw": 1.6, "label": "a range of sizes"}
    axes.hlines(scan["agreement"], scan["low"], scan["high"], **look)
    best = scan.loc[scan["agreement"].idxmax()]
    look = {"color": "#D55E00", "lw": 3.5, "label": "best range"}
    axes.hlines(best["agreement"], best["low"], best["high"], **look)
    axes.set(xscale="log", ylim=(0, 1), xlabel="Sigma of a cell (px); its radius is 1.41 sigma")
    axes.set_ylabel("Agreement of discs\nand contrast, 0 to 1")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9.5)
    alt = (
        f"Lines, one for each of {len(scan)} ranges of sizes, at the height of its agreement with "
        f"the contrast. The best, sigma {best['low']:.1f} to {best['high']:.1f} px, reaches "
        f"{best['agreement']:.2f}; tried below are {tried[0]:g} to {tried[1]:g} px."
    )
    return drawing.finish(figure, note, alt)
