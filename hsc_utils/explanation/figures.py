"""Figures of step 06: where models look. One colour scale, 0 to 1, for every map."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure, FigureBase

from hsc_utils import drawing

# viridis, clear where a map is low; the colour bar has the same clearness, over mid gray
_VALUES = np.linspace(0, 1, 256)
_COLOURS = matplotlib.colormaps["viridis"](_VALUES)
_COLOURS[:, 3] = 0.6 * np.sqrt(_VALUES)
_MAP = ListedColormap(_COLOURS)
_GRAD_CAM, _CHANCE, _OTHER = "#882255", "#888888", "#999933"
_BESIDE = {"loc": "upper left", "bbox_to_anchor": (1, 1), "frameon": False}  # a legend's place


def overlay(axes: Axes, image: np.ndarray, map_: np.ndarray, mask: np.ndarray | None) -> None:
    """Draw a map over a gray image, and the outline of a mask; say so if the map is zero.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    image, map_, mask : ndarray
        uint8 (H, W, 3), float (H, W) in [0, 1], and bool (H, W) or None for no outline.
    """
    axes.imshow(image.mean(axis=2), cmap="gray")
    axes.imshow(map_, cmap=_MAP, vmin=0, vmax=1)
    if mask is not None and mask.any():
        axes.contour(mask, [0.5], colors="white", linewidths=0.8)
    if map_.max() == 0:
        colours = {"color": "white", "backgroundcolor": "0.2"}
        place = {"transform": axes.transAxes, "ha": "center"}
        axes.text(0.5, 0.04, "no positive evidence", fontsize=7, **colours, **place)


def colour_bar(figure: FigureBase, panels: np.ndarray) -> None:
    """Add the colour bar that belongs to every map of a figure, beside its panels (an array)."""
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 1), _MAP), ax=panels, shrink=0.8, pad=0.01, aspect=30
    )
    bar.ax.set_facecolor("0.5")
    bar.ax.tick_params(labelsize=8)
    bar.set_label("Grad-CAM / its maximum", fontsize=9)


def _outcomes(examples: pd.DataFrame) -> list[str]:
    """Say of each example its class, what it was taken for, and how surely."""
    chosen = examples[["class", "predicted", "probability"]].replace(r"\$", r"\\$", regex=True)
    return [
        f"{truth}\n{'correct' if truth == called else f'taken for {called}'}\n(p = {p:.2f})"
        for truth, called, p in chosen.itertuples(index=False)
    ]


def cell_examples(
    examples: pd.DataFrame, patches: np.ndarray, maps: np.ndarray, masks: np.ndarray, note: str = ""
) -> Figure:
    """Show cells, one a row: input, overlay, and the slices (the paper's Figure 8).

    Parameters
    ----------
    examples : DataFrame
        Rows of `draw_predicted`.
    patches, maps, masks : ndarray
        uint8 (N, H, W, 3); float (N, H, W) in [0, 1]; bool (N, H, W), the own cell, outlined.
    note : str
        Whose data these are.
    """
    size = 7.6, 1.16 * len(examples) + 0.5
    figure, panels = drawing.picture_grid(len(examples), 5, size=size, labels=_outcomes(examples))
    for row, patch, map_, mask in zip(panels, patches, maps, masks, strict=True):
        row[0].imshow(patch)
        overlay(row[1], patch, map_, mask)
        for axes, slice_ in zip(row[2:], np.moveaxis(patch, 2, 0), strict=True):
            axes.imshow(slice_, cmap="gray", vmin=0, vmax=255)
    titles = "input", "Grad-CAM", "slice 0", "slice 1", "slice 2"
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title, fontsize=9)
    colour_bar(figure, panels)
    return drawing.finish(figure, note)


def resolutions(
    patch: np.ndarray, maps: Mapping[int, np.ndarray], input_size: int, note: str = ""
) -> Figure:
    """Show one cell's maps by stride, with the grid that each was computed on."""
    size = 2.05 * (len(maps) + 1), 2.6
    figure, panels = drawing.picture_grid(1, len(maps) + 1, size=size)
    panels[0, 0].imshow(patch)
    panels[0, 0].set_title("input", fontsize=9)
    for axes, (stride, map_) in zip(panels[0, 1:], maps.items(), strict=True):
        overlay(axes, patch, map_, None)
        count = input_size // stride
        axes.set_title(f"stride {stride} px: {count} × {count}", fontsize=9)
        for line in np.arange(1, count) * len(map_) / count - 0.5:
            axes.axhline(line, color="white", linewidth=0.5, alpha=0.7)
            axes.axvline(line, color="white", linewidth=0.5, alpha=0.7)
    colour_bar(figure, panels)
    return drawing.finish(figure, note)


def mask_check(patches: np.ndarray, masks: Mapping[str, np.ndarray], note: str = "") -> Figure:
    """Show patches with the outlines of their cells, one row a way of finding them."""
    size = 8, 0.95 * len(masks) + 0.4
    figure, panels = drawing.picture_grid(len(masks), len(patches), size=size, labels=list(masks))
    for row, outlines in zip(panels, masks.values(), strict=True):
        for axes, patch, outline in zip(row, patches, outlines, strict=True):
            axes.imshow(patch)
            if outline.any():
                axes.contour(outline, [0.5], colors="white", linewidths=2)
                axes.contour(outline, [0.5], colors="#D55E00", linewidths=1)
    return drawing.finish(figure, note)


def shares(means: pd.DataFrame, claims: Sequence[Sequence[str]], note: str = "") -> Figure:
    """Draw numbers of Grad-CAM beside what chance would give, by class, with intervals.

    `means` come from `metrics.means_by_class`; each of `claims` is a panel: its title, the number
    to show, the number that chance would give, and perhaps the number that another cell's
    map would give.
    """
    classes = means["class"].unique()
    size = (0.3 * len(classes) + 1.15) * len(claims) + 1.6, 3.3
    figure, panels = drawing.new_figure(1, len(claims), size=size, squeeze=False, sharey=True)
    open_ = {"markerfacecolor": "white"}
    looks = (
        {"label": "Grad-CAM", "marker": "o", "color": _GRAD_CAM},
        {"label": "by chance", "marker": "s", "color": _CHANCE} | open_,
        {"label": "another cell's map", "marker": "D", "color": _OTHER} | open_,
    )
    for axes, (title, *numbers) in zip(panels[0], claims, strict=True):
        places = 0.2 * (np.arange(len(numbers)) - (len(numbers) - 1) / 2)
        for place, number, look in zip(places, numbers, looks, strict=False):
            ours = means[means["number"] == number].set_index("class").loc[classes]
            errors = np.abs(ours[["low", "high"]].to_numpy().T - ours["mean"].to_numpy())
            x = np.arange(len(classes)) + place
            axes.errorbar(x, ours["mean"], errors, ls="", capsize=2.5, markersize=5, **look)
        axes.set_xticks(range(len(classes)), classes, rotation=40, ha="right", parse_math=False)
        axes.set_title(title, fontsize=9.5)
    panels[0, 0].set_ylabel("0 to 1")
    panels[0, 0].set_ylim(bottom=0)
    panels[0, -1].legend(**_BESIDE)
    return drawing.finish(figure, note)


def randomisation(
    by_layer: pd.DataFrame, correlations: pd.DataFrame, between_cells: float, note: str = ""
) -> Figure:
    """Draw the correlation of maps with the model's own while its layers are scrambled.

    The tables come from `correlation_by_layer` and `scrambled_correlations`; `between_cells` is
    the mean correlation of the model's maps of two different cells.
    """
    figure, axes = drawing.new_figure(size=(7.2, 3.5))
    x, layers = np.arange(len(by_layer) + 1), list(by_layer["layer"])
    of_each = correlations.pivot_table("correlation", "layer", "scrambling").reindex(layers)
    for index, values in enumerate(of_each.to_numpy().T):
        label = "" if index else "one scrambling"
        axes.plot(x, [1, *values], color="0.6", linewidth=0.8, label=label)
    columns = {name: [1, *by_layer[name]] for name in ("mean", "low", "high")}
    axes.plot(x, columns["mean"], "o-", color=_GRAD_CAM, label="mean, with interval")
    axes.fill_between(x, columns["low"], columns["high"], color=_GRAD_CAM, alpha=0.2)
    axes.axhline(between_cells, color="0.3", ls="--", linewidth=1, label="another cell's map")
    axes.axhline(0, color="0.8", linewidth=1, zorder=0)
    axes.set_xticks(x, ["none", *layers], rotation=30, ha="right")
    axes.set(xlabel="Layers scrambled, down to", ylabel="Rank correlation\nwith the own map")
    axes.set_ylim(-1.05, 1.05)
    axes.legend(**_BESIDE)
    return drawing.finish(figure, note)


def deletion(
    fractions: Sequence[float], curves: Mapping[str, pd.DataFrame], note: str = ""
) -> Figure:
    """Draw a class's mean probability against the share erased, a line a way (`erasure`)."""
    figure, axes = drawing.new_figure(size=(7.2, 3.5))
    looks = ((_GRAD_CAM, "o-"), (_CHANCE, "s--"), (_OTHER, "^:"))
    for (name, rows), (colour, line) in zip(curves.items(), looks, strict=True):
        axes.plot(fractions, rows["mean"], line, color=colour, label=name)
        axes.fill_between(fractions, rows["low"], rows["high"], color=colour, alpha=0.2)
    axes.set(xlabel="Share of the patch erased", ylabel="Probability of the predicted class")
    axes.set_ylim(0, 1.02)
    axes.legend(title="Erased", **_BESIDE)
    return drawing.finish(figure, note)


def image_examples(
    examples: pd.DataFrame, images: np.ndarray, maps: np.ndarray, labels: np.ndarray, note: str = ""
) -> Figure:
    """Show whole images above their maps, cells outlined (the paper's Figure 9).

    `examples` are rows of `draw_predicted` with ``gini``; `labels` are 0 in the background.
    """
    size = 9.5, 2 * 8.4 / len(examples) + 1.2
    figure, panels = drawing.picture_grid(2, len(examples), size=size)
    described = zip(panels.T, _outcomes(examples), examples["gini"], strict=True)
    for column, ((above, below), outcome, gini) in enumerate(described):
        above.imshow(images[column])
        above.set_title(outcome, fontsize=8)
        overlay(below, images[column], maps[column], labels[column] > 0)
        below.set_title(f"Gini {gini:.2f}", fontsize=8)
    colour_bar(figure, panels)
    return drawing.finish(figure, note)
