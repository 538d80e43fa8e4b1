"""Figures of step 02: what each method finds, how well, and the cells cut out.

Each takes a `note` for its foot that says whose data it shows.
"""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray

from hsc_utils import drawing
from hsc_utils.detection.tuning import METHOD_NAMES

_COLOURS = {"log": "#0072B2", "dog": "#E69F00", "doh": "#009E73"}
_MARKERS = {"log": "o", "dog": "s", "doh": "^"}


def overlays(
    images: Mapping[str, NDArray],
    found: Mapping[str, Sequence[NDArray]],
    truth: Sequence[NDArray] | None = None,
    note: str = "",
) -> Figure:
    """Circle the cells that each method found: a row an image, a column a method.

    Images (Y, X, 3) come by title; the cells (N, 3: y, x, sigma in px) of each method, and true
    centres (M, 2), in their order.
    """
    size = (2.7 * len(found), 2.85 * len(images))
    figure, axes = drawing.picture_grid(len(images), len(found), size=size, labels=[*images])
    for row, image in enumerate(images.values()):
        for panel, (method, of_images) in zip(axes[row], found.items(), strict=True):
            draw_cells(panel, image, of_images[row], None if truth is None else truth[row])
            panel.set_title(f"{METHOD_NAMES[method]}: {len(of_images[row])} found", fontsize=8)
    return drawing.finish(figure, note)


def searched_and_found(image: NDArray, searched: NDArray, found: NDArray, note: str = "") -> Figure:
    """Show an image with its cells (y, x, sigma) beside the one in which they were searched."""
    figure, ((left, right),) = drawing.picture_grid(1, 2, size=(8.0, 4.2))
    draw_cells(left, image, found)
    left.set_title(f"{len(found)} cells", fontsize=9)
    right.imshow(searched, cmap="gray")
    right.set_title("what was searched", fontsize=9)
    return drawing.finish(figure, note)


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
    """Draw an image with a circle a detected cell, and a cross a true one."""
    panel.imshow(drawing.stretched(image))
    diameters = 2 * np.sqrt(2) * found[:, 2]
    places = {"offsets": found[:, 1::-1], "offset_transform": panel.transData, "units": "xy"}
    seam = [Stroke(linewidth=2.2, foreground="black"), Normal()]
    look = {"facecolors": "none", "edgecolors": "#F0E442", "linewidths": 1.0, "path_effects": seam}
    angles = np.zeros(len(found))
    panel.add_collection(EllipseCollection(diameters, diameters, angles, **places, **look))
    if truth is not None:
        panel.plot(*truth.T[::-1], "+", color="#56B4E9", markersize=5, markeredgewidth=1.1)
    panel.set(xlim=(0, image.shape[1]), ylim=(image.shape[0], 0))


def precision_recall(scores: pd.DataFrame, note: str = "") -> Figure:
    """Draw precision against recall of `score_trials`, the chosen one of each method ringed."""
    figure, panel = drawing.new_figure(size=(6.4, 4.2))
    for method, of_method in scores.groupby("method", sort=False):
        look = {"color": _COLOURS[method], "marker": _MARKERS[method]}
        points = of_method[["recall", "precision"]].to_numpy()
        panel.scatter(*points.T, s=26, alpha=0.6, linewidths=0, label=METHOD_NAMES[method], **look)
        ring = {"facecolors": "none", "edgecolors": _COLOURS[method], "linewidths": 1.8}
        panel.scatter(*points[0], s=110, **ring)
    panel.set(xlabel="Recall", ylabel="Precision", xlim=(None, 1.02), ylim=(None, 1.02))
    panel.legend(title="Ring: chosen", frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return drawing.finish(figure, note)


def settings_map(scores: pd.DataFrame, value: str, label: str, note: str = "") -> Figure:
    """Draw a column of `score_trials`, in [0, 1]: thresholds across, sizes down, methods apart."""
    import seaborn as sns  # as in `drawing.new_figure`

    methods = list(dict.fromkeys(scores["method"]))
    ranges = len(scores[["min_sigma", "max_sigma"]].drop_duplicates())
    size = (2.8 * len(methods), 1.6 + 0.28 * ranges)
    figure, axes = drawing.new_figure(1, len(methods), size=size, squeeze=False, sharey=True)
    for panel, method in zip(axes[0], methods, strict=True):
        of_method = scores[scores["method"] == method]
        # by size, not by rank: the panels share their rows
        grid = of_method.pivot_table(value, ["min_sigma", "max_sigma"], "threshold")
        grid.index = [f"{low:g} to {high:g}" for low, high in grid.index]
        numbers = {"annot": True, "fmt": ".2f", "annot_kws": {"fontsize": 8}}
        sns.heatmap(grid, vmin=0, vmax=1, cmap="cividis", cbar=False, ax=panel, **numbers)
        panel.set(title=METHOD_NAMES[method], xlabel="Threshold", ylabel="")
        panel.tick_params(axis="y", rotation=0)
    axes[0, 0].set_ylabel("Sigma, smallest to largest (px)")
    figure.suptitle(label, fontsize=10)
    return drawing.finish(figure, note)


def cells_per_image(counts: pd.DataFrame, paper_means: pd.Series, note: str = "") -> Figure:
    """Draw the ``cells`` of each image (a row) by ``class``, beside the paper's mean of a class."""
    import seaborn as sns  # as in `drawing.new_figure`

    names = list(dict.fromkeys(counts["class"]))
    figure, panel = drawing.new_figure(size=(5.6, 3.8))
    by_class = {"order": names, "hue": "class", "palette": drawing.class_colours(names)}
    dots = {"alpha": 0.55, "size": 4, "jitter": 0.22, "legend": False}
    sns.stripplot(counts, x="class", y="cells", ax=panel, **by_class, **dots)
    places = np.arange(len(names))
    means = counts.groupby("class")["cells"].mean()[names]
    line = {"color": "black", "linewidth": 1.6, "label": "mean found here"}
    panel.hlines(means, places - 0.3, places + 0.3, **line)
    shared = [(place, paper_means[name]) for place, name in enumerate(names) if name in paper_means]
    if shared:
        diamond = {"marker": "D", "s": 46, "facecolors": "none", "edgecolors": "black", "zorder": 3}
        panel.scatter(*zip(*shared, strict=True), label="the paper's mean", **diamond)
    panel.set(xlabel="", ylabel="Cells in an image", ylim=(0, None))
    panel.legend(frameon=False)
    return drawing.finish(figure, note)


def size_distribution(cells: pd.DataFrame, side: int, note: str = "") -> Figure:
    """Draw the diameters of the cells (``sigma``) by ``class``, beside a patch's side, in px."""
    import seaborn as sns  # as in `drawing.new_figure`

    names = list(dict.fromkeys(cells["class"]))
    figure, panel = drawing.new_figure(size=(5.6, 3.6))
    diameters = cells.assign(diameter=2 * np.sqrt(2) * cells["sigma"])
    by_class = {"hue": "class", "hue_order": names, "palette": drawing.class_colours(names)}
    sns.ecdfplot(diameters, x="diameter", ax=panel, **by_class)
    panel.axvline(side, color="0.3", linestyle="--", linewidth=1)
    panel.text(side, 0.04, " patch side", fontsize=8, color="0.3", ha="right", rotation=90)
    panel.get_legend().set(title=None, frame_on=False)
    panel.set(xlabel="Diameter of the blob (px)", ylabel="Share of cells up to this diameter")
    panel.set_xlim(0, None)
    return drawing.finish(figure, note)


def patch_sheet(patches: Mapping[str, NDArray[np.uint8]], note: str = "") -> Figure:
    """Show cell patches (N, side, side, 3), a row a class, each row stretched for the eye."""
    height = 8.0 / max(map(len, patches.values())) + 0.5
    figure, axes = drawing.picture_grid(len(patches), 1, size=(8.0, height * len(patches)))
    for panel, (name, of_class) in zip(axes[:, 0], patches.items(), strict=True):
        strip = np.concatenate(list(np.pad(of_class, ((0, 0), (0, 0), (0, 2), (0, 0)))), axis=1)
        panel.imshow(drawing.stretched(strip))
        panel.set_title(name, fontsize=9, loc="left")
    return drawing.finish(figure, note)


def size_scan(
    scan: pd.DataFrame, smallest: Sequence[float], largest: Sequence[float], note: str = ""
) -> Figure:
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
    figure, axes = drawing.new_figure(size=(7, 3))
    axes.axvspan(min(smallest), max(largest), color="0.92", lw=0, label="sizes tried below")
    axes.hlines(scan["agreement"], scan["low"], scan["high"], color="#0072B2", lw=1.4)
    best = scan.loc[scan["agreement"].idxmax()]
    look = {"color": "#D55E00", "lw": 3, "label": "best range"}
    axes.hlines(best["agreement"], best["low"], best["high"], **look)
    axes.set(xscale="log", ylim=(0, 1), xlabel="Sigma of a cell, px (its radius is 1.41 sigma)")
    axes.set_ylabel("Agreement of discs\nand contrast")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.legend(frameon=False, fontsize=8.5, loc="upper right")
    return drawing.finish(figure, note)
