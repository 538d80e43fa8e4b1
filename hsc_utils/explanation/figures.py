"""Figures of step 06: where models look. One colour scale, 0 to 1, for every map."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

from hsc_utils import drawing

# viridis, clear where a map is low; the colour bar has the same clearness, over mid gray
_VALUES = np.linspace(0, 1, 256)
_COLOURS = matplotlib.colormaps["viridis"](_VALUES)
_COLOURS[:, 3] = 0.6 * np.sqrt(_VALUES)
_MAP = ListedColormap(_COLOURS)
_GRAD_CAM, _CHANCE = "#882255", "#888888"


def _overlay(axes: Axes, image: np.ndarray, map_: np.ndarray, mask: np.ndarray | None) -> None:
    """Draw a map over a gray image, and the outline of a mask; say so if the map is zero."""
    axes.imshow(image.mean(axis=2), cmap="gray")
    axes.imshow(map_, cmap=_MAP, vmin=0, vmax=1)
    if mask is not None and mask.any():
        axes.contour(mask, [0.5], colors="white", linewidths=0.8)
    if map_.max() == 0:
        axes.text(
            0.5, 0.04, "no positive evidence", transform=axes.transAxes, ha="center", fontsize=7,
            color="white", backgroundcolor="0.2",
        )  # fmt: skip


def _colour_bar(figure: Figure, panels: np.ndarray) -> None:
    """Add the colour bar that belongs to every map of the figure."""
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 1), _MAP), ax=panels, shrink=0.8, pad=0.01, aspect=30
    )
    bar.ax.set_facecolor("0.5")
    bar.set_label("Grad-CAM / its maximum", fontsize=9)


def _label_row(axes: Axes, text: str) -> None:
    axes.text(-0.06, 0.5, text, transform=axes.transAxes, ha="right", va="center", fontsize=8)


def cell_examples(
    examples: pd.DataFrame,
    patches: np.ndarray,
    maps: np.ndarray,
    masks: np.ndarray,
    note: str = "",
) -> Figure:
    """Show cells, one a row: input, overlay, and the slices (the paper's Figure 8).

    Parameters
    ----------
    examples : DataFrame
        One row an example: ``class``, ``predicted`` and ``probability`` of the prediction.
    patches, maps, masks : ndarray
        uint8 (N, H, W, 3); float (N, H, W) in [0, 1]; bool (N, H, W), the own cell,
        outlined in white.
    note : str
        Whose data these are.
    """
    titles = ("input", "Grad-CAM", "slice 0", "slice 1", "slice 2")
    figure, panels = drawing.new_figure(
        len(examples), 5, size=(7.6, 1.16 * len(examples) + 0.5), squeeze=False
    )
    for row, (example, patch) in enumerate(zip(examples.itertuples(), patches, strict=True)):
        panels[row, 0].imshow(patch)
        _overlay(panels[row, 1], patch, maps[row], masks[row])
        for channel in range(3):
            panels[row, 2 + channel].imshow(patch[..., channel], cmap="gray", vmin=0, vmax=255)
        truth = examples["class"].iloc[row]
        outcome = "correct" if truth == example.predicted else f"taken for {example.predicted}"
        _label_row(panels[row, 0], f"{truth}\n{outcome}\n(p = {example.probability:.2f})")
    _bare(panels)
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title, fontsize=9)
    _colour_bar(figure, panels)
    return drawing.finish(figure, note)


def resolutions(
    patch: np.ndarray, maps: Mapping[int, np.ndarray], grids: Mapping[int, int], note: str = ""
) -> Figure:
    """Show one cell's maps by stride, with the grid (squares a side) each was computed on."""
    figure, panels = drawing.new_figure(
        1, len(maps) + 1, size=(2.05 * (len(maps) + 1), 2.6), squeeze=False
    )  # fmt: skip
    panels[0, 0].imshow(patch)
    panels[0, 0].set_title("input", fontsize=9)
    for axes, (stride, map_) in zip(panels[0, 1:], maps.items(), strict=True):
        _overlay(axes, patch, map_, None)
        count = grids[stride]
        axes.set_title(f"stride {stride} px: {count} × {count}", fontsize=9)
        for line in np.arange(1, count) * len(map_) / count - 0.5:
            axes.axhline(line, color="white", linewidth=0.5, alpha=0.7)
            axes.axvline(line, color="white", linewidth=0.5, alpha=0.7)
    _bare(panels)
    _colour_bar(figure, panels)
    return drawing.finish(figure, note)


def mask_check(
    patches: np.ndarray, masks: Mapping[str, np.ndarray], note: str = ""
) -> Figure:  # fmt: skip
    """Show patches with the outlines of their cells, one row a way of finding them."""
    figure, panels = drawing.new_figure(
        len(masks), len(patches), size=(8, 0.95 * len(masks) + 0.4), squeeze=False
    )
    for row, (name, outlines) in zip(panels, masks.items(), strict=True):
        _label_row(row[0], name)
        for axes, patch, outline in zip(row, patches, outlines, strict=True):
            axes.imshow(patch)
            if outline.any():
                axes.contour(outline, [0.5], colors="white", linewidths=2)
                axes.contour(outline, [0.5], colors="#D55E00", linewidths=1)
    _bare(panels)
    return drawing.finish(figure, note)


def shares(
    means: pd.DataFrame, pairs: Sequence[tuple[str, str, str]], note: str = ""
) -> Figure:  # fmt: skip
    """Draw numbers of Grad-CAM beside what chance would give, by class, with intervals.

    Parameters
    ----------
    means : DataFrame
        From `attention.bootstrap_means`.
    pairs : sequence of (str, str, str)
        One panel each: title, the number to show, and the number that chance would give.
    note : str
        Whose data these are.
    """
    classes = list(dict.fromkeys(means["class"]))
    width = (0.3 * len(classes) + 1.15) * len(pairs) + 1.6
    figure, panels = drawing.new_figure(
        1, len(pairs), size=(width, 3.3), squeeze=False, sharey=True
    )
    looks = ((_GRAD_CAM, "o", _GRAD_CAM, "Grad-CAM"), (_CHANCE, "s", "white", "by chance"))
    for axes, (title, *numbers) in zip(panels[0], pairs, strict=True):
        for place, number, (colour, marker, face, label) in zip(
            (-0.12, 0.12), numbers, looks, strict=True
        ):
            ours = means[means["number"] == number].set_index("class").loc[classes]
            errors = np.abs(ours[["low", "high"]].to_numpy().T - ours["mean"].to_numpy())
            axes.errorbar(
                np.arange(len(classes)) + place, ours["mean"], errors, linestyle="", color=colour,
                capsize=2.5, label=label, marker=marker, markerfacecolor=face, markersize=5,
            )  # fmt: skip
        axes.set_xticks(range(len(classes)), classes, rotation=40, ha="right")
        axes.set_title(title, fontsize=9.5)
    panels[0, 0].set_ylabel("0 to 1")
    panels[0, 0].set_ylim(bottom=0)
    panels[0, -1].legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return drawing.finish(figure, note)


def randomisation(
    by_layer: pd.DataFrame, correlations: pd.DataFrame, reference: float, note: str = ""
) -> Figure:
    """Draw the correlation of maps with the model's own while its layers are scrambled.

    Parameters
    ----------
    by_layer, correlations : DataFrame
        From `scrambling.correlation_by_layer` and `scrambling.scrambled_correlations`.
    reference : float
        Mean correlation of the model's maps of two different cells.
    note : str
        Whose data these are.
    """
    figure, axes = drawing.new_figure(size=(7.2, 3.5))
    x, layers = np.arange(len(by_layer) + 1), list(by_layer["layer"])
    of_each = correlations.pivot_table("correlation", "layer", "scrambling").reindex(layers)
    for index, values in enumerate(of_each.to_numpy().T):
        axes.plot(
            x, [1, *values], color="0.6", linewidth=0.8,
            label="" if index else "one scrambling",
        )  # fmt: skip
    columns = {name: [1, *by_layer[name]] for name in ("mean", "low", "high")}
    axes.plot(x, columns["mean"], "o-", color=_GRAD_CAM, label="mean, with interval")
    axes.fill_between(x, columns["low"], columns["high"], color=_GRAD_CAM, alpha=0.2)
    axes.axhline(reference, color="0.3", linestyle="--", linewidth=1, label="another cell's map")
    axes.axhline(0, color="0.8", linewidth=1, zorder=0)
    axes.set_xticks(x, ["none", *layers], rotation=30, ha="right")
    axes.set(xlabel="Layers scrambled, down to", ylabel="Rank correlation\nwith the own map")
    axes.set_ylim(-1.05, 1.05)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return drawing.finish(figure, note)


def deletion(
    fractions: Sequence[float], curves: Mapping[str, pd.DataFrame], note: str = ""
) -> Figure:  # fmt: skip
    """Draw a class's mean probability against the share of the image erased.

    Parameters
    ----------
    fractions : sequence of float
        Shares of the area erased.
    curves : mapping
        Name of what is erased to a table with one row a fraction: ``mean``, ``low``, ``high``.
    note : str
        Whose data these are.
    """
    figure, axes = drawing.new_figure(size=(7.2, 3.5))
    looks = ((_GRAD_CAM, "o-"), (_CHANCE, "s--"), ("#999933", "^:"))
    for (name, rows), (colour, line) in zip(curves.items(), looks, strict=True):
        axes.plot(fractions, rows["mean"], line, color=colour, label=name)
        axes.fill_between(fractions, rows["low"], rows["high"], color=colour, alpha=0.2)
    axes.set(xlabel="Share of the patch erased", ylabel="Probability of the predicted class")
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False, title="Erased", loc="upper left", bbox_to_anchor=(1, 1))
    return drawing.finish(figure, note)


def image_examples(
    examples: pd.DataFrame, images: np.ndarray, maps: np.ndarray, labels: np.ndarray, note: str = ""
) -> Figure:
    """Show whole images above their maps, cells outlined (the paper's Figure 9).

    Parameters
    ----------
    examples : DataFrame
        One row an image: ``class``, ``predicted``, ``probability``, ``gini``.
    images, maps, labels : ndarray
        uint8 (N, H, W, 3), float (N, H, W) in [0, 1], int (N, H, W), 0 background.
    note : str
        Whose data these are.
    """
    size = (9.5, 2 * 8.4 / len(examples) + 1.2)
    figure, panels = drawing.new_figure(2, len(examples), size=size, squeeze=False)
    for column, example in enumerate(examples.itertuples()):
        truth = examples["class"].iloc[column]
        outcome = "correct" if truth == example.predicted else f"taken for {example.predicted}"
        panels[0, column].imshow(images[column])
        panels[0, column].set_title(
            f"{truth}\n{outcome}\n(p = {example.probability:.2f})", fontsize=8
        )
        _overlay(panels[1, column], images[column], maps[column], labels[column] > 0)
        panels[1, column].set_title(f"Gini {example.gini:.2f}", fontsize=8)
    _bare(panels)
    _colour_bar(figure, panels)
    return drawing.finish(figure, note)


def _bare(panels: np.ndarray) -> None:
    for axes in panels.ravel():
        axes.set_axis_off()
