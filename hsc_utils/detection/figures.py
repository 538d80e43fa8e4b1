"""Figures of step 02: what each method finds, how well, and the cells cut out."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke
from numpy.typing import NDArray

from hsc_utils import drawing

METHOD_NAMES = {"log": "LoG", "dog": "DoG", "doh": "DoH"}
_METHOD_COLOURS = {"log": "#0072B2", "dog": "#E69F00", "doh": "#009E73"}
_METHOD_MARKERS = {"log": "o", "dog": "s", "doh": "^"}


def overlays(
    images: Mapping[str, NDArray[np.uint8]],
    found: Mapping[str, Sequence[NDArray[np.float64]]],
    truth: Sequence[NDArray[np.float64]] | None = None,
    note: str = "",
) -> Figure:
    """Circle the cells that each method found: a row an image, a column a method.

    Parameters
    ----------
    images : mapping of str to ndarray of uint8, shape (Y, X, 3)
        By title.
    found : mapping of str to sequence of ndarray, shape (N, 3)
        y, x, sigma in px, by method, in the order of the images.
    truth : sequence of ndarray, shape (M, 2), optional
        True centres, in the order of the images.
    note : str
        Whose data these are.
    """
    rows, columns = len(images), len(found)
    figure, axes = drawing.new_figure(
        rows, columns, size=(2.7 * columns, 2.85 * rows), squeeze=False
    )
    for row, (title, image) in enumerate(images.items()):
        for panel, (method, of_images) in zip(axes[row], found.items(), strict=True):
            draw_cells(panel, image, of_images[row], None if truth is None else truth[row])
            panel.set_title(f"{METHOD_NAMES[method]}: {len(of_images[row])} found", fontsize=8)
        axes[row, 0].text(
            -0.04, 0.5, title, transform=axes[row, 0].transAxes, rotation=90, fontsize=8,
            va="center", ha="right",
        )  # fmt: skip
    return drawing.finish(figure, note)


def searched_and_found(
    image: NDArray[np.uint8],
    searched: NDArray[np.float32],
    found: NDArray[np.float64],
    note: str = "",
) -> Figure:
    """Show an image with its cells beside the image in which they were searched.

    Parameters
    ----------
    image : ndarray of uint8, shape (Y, X, 3)
        As models see it, stretched for the eye.
    searched : ndarray of float32, shape (Y, X)
        From `blobs.searched`.
    found : ndarray, shape (N, 3)
        y, x, sigma in px.
    note : str
        Whose data these are.
    """
    figure, (left, right) = drawing.new_figure(1, 2, size=(8.0, 4.2))
    draw_cells(left, image, found)
    left.set_title(f"{len(found)} cells", fontsize=9)
    right.imshow(searched, cmap="gray")
    right.set_title("what was searched", fontsize=9)
    right.axis("off")
    return drawing.finish(figure, note)


def circled(image: NDArray[np.uint8], found: NDArray[np.float64]) -> bytes:
    """Return a PNG of an image with its cells, fast enough to follow a slider.

    The image, of shape (Y, X, 3), should be `stretched` before.
    """
    canvas = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    for y, x, sigma in found:
        centre, radius = (round(x), round(y)), round(np.sqrt(2) * sigma)
        # yellow in a black seam shows on bright halos as well as on dark rings
        cv2.circle(canvas, centre, radius, (0, 0, 0), 3, cv2.LINE_AA)
        cv2.circle(canvas, centre, radius, (66, 228, 240), 1, cv2.LINE_AA)
    return cv2.imencode(".png", canvas)[1].tobytes()


def draw_cells(
    panel: Axes,
    image: NDArray[np.uint8],
    found: NDArray[np.float64],
    truth: NDArray[np.float64] | None = None,
) -> None:
    """Draw an image with a circle a detected cell, and a cross a true one."""
    panel.imshow(stretched(image))
    diameters = 2 * np.sqrt(2) * found[:, 2]
    circles = EllipseCollection(
        diameters, diameters, np.zeros(len(found)), units="xy", facecolors="none",
        offsets=found[:, 1::-1], offset_transform=panel.transData,
        edgecolors="#F0E442", linewidths=1.0,
        path_effects=[Stroke(linewidth=2.2, foreground="black"), Normal()],
    )  # fmt: skip
    panel.add_collection(circles)
    if truth is not None:
        panel.plot(
            truth[:, 1], truth[:, 0], "+", color="#56B4E9", markersize=5, markeredgewidth=1.1
        )
    panel.set(xlim=(0, image.shape[1]), ylim=(image.shape[0], 0))
    panel.axis("off")


def stretched(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Stretch each slice for the eye, from its 0.5th to its 99.5th percentile."""
    low, high = np.percentile(image, [0.5, 99.5], axis=(0, 1))
    return (np.clip((image - low) / np.maximum(high - low, 1), 0, 1) * 255).astype(np.uint8)


def precision_recall(scores: pd.DataFrame, note: str = "") -> Figure:
    """Draw precision against recall, a point a setting, the best of each method ringed.

    Parameters
    ----------
    scores : DataFrame
        From `tuning.score_trials` with truth, best first within each method.
    note : str
        Whose data these are.
    """
    figure, panel = drawing.new_figure(size=(5.6, 4.2))
    for method, of_method in scores.groupby("method", sort=False):
        colour, marker = _METHOD_COLOURS[method], _METHOD_MARKERS[method]
        panel.scatter(
            of_method["recall"], of_method["precision"], s=26, alpha=0.6, color=colour,
            marker=marker, label=METHOD_NAMES[method], linewidths=0,
        )  # fmt: skip
        best = of_method.iloc[0]
        panel.scatter(
            best["recall"], best["precision"], s=110, facecolors="none", edgecolors=colour,
            linewidths=1.8,
        )  # fmt: skip
    panel.set(xlabel="Recall", ylabel="Precision", xlim=(None, 1.02), ylim=(None, 1.02))
    panel.legend(title="Ring: best F1", frameon=False, loc="lower left")
    return drawing.finish(figure, note)


def settings_map(scores: pd.DataFrame, value: str, label: str, note: str = "") -> Figure:
    """Draw one value over the grid: thresholds across, size ranges down, a panel a method.

    Parameters
    ----------
    scores : DataFrame
        From `tuning.score_trials`.
    value : str
        Column drawn, in [0, 1].
    label : str
        What the value is.
    note : str
        Whose data these are.
    """
    methods = list(dict.fromkeys(scores["method"]))
    figure, axes = drawing.new_figure(
        1, len(methods), size=(2.8 * len(methods), 3.0), squeeze=False, sharey=True
    )
    for panel, method in zip(axes[0], methods, strict=True):
        of_method = scores[scores["method"] == method].assign(
            sizes=lambda t: (
                t["min_sigma"].map("{:g}".format) + " to " + t["max_sigma"].map("{:g}".format)
            )
        )
        grid = of_method.pivot_table(value, "sizes", "threshold", sort=False).sort_index(axis=1)
        sns.heatmap(
            grid, vmin=0, vmax=1, cmap="cividis", annot=True, fmt=".2f", cbar=False, ax=panel,
            annot_kws={"fontsize": 8},
        )  # fmt: skip
        panel.set(title=METHOD_NAMES[method], xlabel="Threshold", ylabel="")
        panel.tick_params(axis="y", rotation=0)
    axes[0, 0].set_ylabel("Sigma, smallest to largest (px)")
    figure.suptitle(label, fontsize=10)
    return drawing.finish(figure, note)


def cells_per_image(counts: pd.DataFrame, reference: pd.Series, note: str = "") -> Figure:
    """Draw the number of cells of each image by class, beside the paper's mean.

    Parameters
    ----------
    counts : DataFrame
        Columns ``class`` and ``cells``, a row an image.
    reference : Series
        The paper's cells an image by class; classes it does not have are left out.
    note : str
        Whose data these are.
    """
    names = list(dict.fromkeys(counts["class"]))
    colours = drawing.class_colours(names)
    figure, panel = drawing.new_figure(size=(5.6, 3.8))
    sns.stripplot(
        counts, x="class", y="cells", order=names, hue="class", palette=colours, ax=panel,
        alpha=0.55, size=4, jitter=0.22, legend=False,
    )  # fmt: skip
    for place, name in enumerate(names):
        mean = counts.loc[counts["class"] == name, "cells"].mean()
        panel.plot([place - 0.3, place + 0.3], [mean] * 2, color="black", linewidth=1.6,
                   label="mean found here" if place == 0 else None)  # fmt: skip
    shared = [(place, reference[name]) for place, name in enumerate(names) if name in reference]
    if shared:
        panel.scatter(*zip(*shared, strict=True), marker="D", s=46, facecolors="none",
                      edgecolors="black", label="the paper's mean", zorder=3)  # fmt: skip
    panel.set(xlabel="", ylabel="Cells in an image", ylim=(0, None))
    panel.legend(frameon=False)
    return drawing.finish(figure, note)


def size_distribution(cells: pd.DataFrame, side: int, note: str = "") -> Figure:
    """Draw the diameters of the cells by class, beside the patch side.

    Parameters
    ----------
    cells : DataFrame
        Columns ``class`` and ``sigma`` (px).
    side : int
        Side of a patch in px.
    note : str
        Whose data these are.
    """
    names = list(dict.fromkeys(cells["class"]))
    colours = drawing.class_colours(names)
    figure, panel = drawing.new_figure(size=(5.6, 3.6))
    diameters = cells.assign(diameter=2 * np.sqrt(2) * cells["sigma"])
    sns.ecdfplot(diameters, x="diameter", hue="class", hue_order=names, palette=colours, ax=panel)
    panel.axvline(side, color="0.3", linestyle="--", linewidth=1)
    panel.text(side, 0.04, " patch side", fontsize=8, color="0.3", ha="right", rotation=90)
    panel.get_legend().set(title=None, frame_on=False)
    panel.set(xlabel="Diameter of the blob (px)", ylabel="Share of cells up to this diameter")
    panel.set_xlim(0, None)
    return drawing.finish(figure, note)


def patch_sheet(patches: Mapping[str, NDArray[np.uint8]], note: str = "") -> Figure:
    """Show cell patches, a row a class.

    Parameters
    ----------
    patches : mapping of str to ndarray of uint8, shape (N, side, side, 3)
        By class; stretched together for the eye.
    note : str
        Whose data these are.
    """
    longest = max(len(of_class) for of_class in patches.values())
    figure, axes = drawing.new_figure(
        len(patches), 1, size=(8.0, 8.0 / longest * len(patches) + 0.5 * len(patches)),
        squeeze=False,
    )  # fmt: skip
    for panel, (name, of_class) in zip(axes[:, 0], patches.items(), strict=True):
        strip = np.concatenate(list(np.pad(of_class, ((0, 0), (0, 0), (0, 2), (0, 0)))), axis=1)
        panel.imshow(stretched(strip))
        panel.set_title(name, fontsize=9, loc="left")
        panel.axis("off")
    return drawing.finish(figure, note)
