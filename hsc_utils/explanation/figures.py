"""Figures of step 06: where models look. One colour scale, 0 to 1, for every map."""

import re
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import FigureBase

from hsc_utils import drawing, paper

# viridis, clear where a map is low; the colour bar has the same clearness, over mid gray
_VALUES = np.linspace(0, 1, 256)
_COLOURS = matplotlib.colormaps["viridis"](_VALUES)
_COLOURS[:, 3] = 0.6 * np.sqrt(_VALUES)
_MAP = ListedColormap(_COLOURS)
_ALL = "all classes"  # of `metrics.means_by_class`
_GRAD_CAM, _CHANCE, _OTHER = "#882255", "#888888", "#999933"
_ABOVE = {"loc": "outside upper center", "ncols": 3, "frameon": False, "fontsize": 9.5}  # legends
_AS_SEEN, _STRETCHED = "RGB, as\nmodels see it", "RGB, stretched\nfor the eye"
# what an axis counts, by the first word of a number
_COUNTED = {
    "share": "Share of Grad-CAM, 0 to 1",
    "pointing": "Share of cells, 0 to 1",
    "gini": "Gini, 0 (even) to 1",
}


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
    chosen = examples[["class", "predicted", "probability"]]
    return [
        f"{truth}\n{'correct' if truth == called else f'taken for {called}'}\n(p = {p:.2f})"
        for truth, called, p in chosen.itertuples(index=False)
    ]


def _in_order(examples: pd.DataFrame) -> np.ndarray:
    """Return positions that bring examples into the order of classes."""
    order = pd.Categorical(examples["class"], paper.class_order(examples["class"]))
    return np.argsort(order.codes, kind="stable")


def cell_examples(
    examples: pd.DataFrame,
    patches: np.ndarray,
    maps: np.ndarray,
    masks: np.ndarray,
    note: str = "",
    slice_names: Sequence[str] = ("Slice 0", "Slice 1", "Slice 2"),
) -> drawing.Figure:
    """Show cells, one per row: input, overlay, and the slices (the paper's Figure 8).

    Parameters
    ----------
    examples : DataFrame
        Rows of `draw_predicted`.
    patches, maps, masks : ndarray
        uint8 (N, H, W, 3); float (N, H, W) in [0, 1]; bool (N, H, W), the own cell, outlined.
    note : str
        Whose data these are.
    slice_names : sequence of str
        How to call the slices that became red, green and blue.
    """
    order = _in_order(examples)
    outcomes = _outcomes(examples.iloc[order])
    figure, panels = drawing.picture_grid(
        len(order), 6, size=(8, 1.14 * len(order) + 0.7), labels=outcomes
    )
    arrays = patches[order], maps[order], masks[order]
    for row, patch, map_, mask in zip(panels, *arrays, strict=True):
        row[0].imshow(patch)
        row[1].imshow(drawing.stretched(patch))
        overlay(row[2], patch, map_, mask)
        for axes, slice_ in zip(row[3:], np.moveaxis(patch, 2, 0), strict=True):
            axes.imshow(slice_, cmap="gray", vmin=0, vmax=255)
    names = [name.replace(", ", ",\n") for name in slice_names]
    titles = _AS_SEEN, _STRETCHED, "Grad-CAM", *names
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title, fontsize=8.5)
    colour_bar(figure, panels)
    alt = (
        "Cells, one per row: as models see them, stretched for the eye, with their Grad-CAM map "
        f"and the cell's outline, and slice by slice ({'; '.join(slice_names)}). Rows: "
    )
    return drawing.finish(figure, note, f"{alt}{_one_line(outcomes)}.")


def _one_line(outcomes: Sequence[str]) -> str:
    """Write outcomes of examples one after the other."""
    return "; ".join(outcome.replace("\n", " ") for outcome in outcomes)


def resolutions(
    patch: np.ndarray, maps: Mapping[int, np.ndarray], input_size: int, note: str = ""
) -> drawing.Figure:
    """Show one cell's maps by stride, with the grid that each was computed on."""
    columns = len(maps) + 1
    figure, panels = drawing.picture_grid(1, columns, size=(8, 6.9 / columns + 1))
    panels[0, 0].imshow(drawing.stretched(patch))
    panels[0, 0].set_title(_STRETCHED, fontsize=9)
    grids = []
    for axes, (stride, map_) in zip(panels[0, 1:], maps.items(), strict=True):
        overlay(axes, patch, map_, None)
        count = input_size // stride
        axes.set_title(f"Stride {stride} px:\n{count} × {count} places", fontsize=9)
        grids.append(f"{count} × {count} at stride {stride} px")
        for line in np.arange(1, count) * len(map_) / count - 0.5:
            axes.axhline(line, color="white", linewidth=0.5, alpha=0.7)
            axes.axvline(line, color="white", linewidth=0.5, alpha=0.7)
    colour_bar(figure, panels)
    alt = "One cell, and its Grad-CAM maps from coarse to fine, each with the grid it was computed"
    return drawing.finish(figure, note, f"{alt} on: {', '.join(grids)}.")


def mask_check(
    patches: np.ndarray, masks: Mapping[str, np.ndarray], note: str = ""
) -> drawing.Figure:
    """Show patches with the outlines of their cells, one row per way of finding them."""
    size = 8, 7.8 / len(patches) * len(masks) + 0.5
    figure, panels = drawing.picture_grid(len(masks), len(patches), size=size, labels=list(masks))
    areas = []
    for row, (name, outlines) in zip(panels, masks.items(), strict=True):
        for axes, patch, outline in zip(row, patches, outlines, strict=True):
            axes.imshow(drawing.stretched(patch))
            if outline.any():
                axes.contour(outline, [0.5], colors="black", linewidths=2.6)
                axes.contour(outline, [0.5], colors="#F0E442", linewidths=1.2)
        areas.append(f"{name}, on average {outlines.mean():.0%} of the patch")
    figure.suptitle("Patches, RGB, stretched for the eye", fontsize=9.5)
    alt = f"{len(patches)} patches of cells with the outline of the cell at the centre. Rows: "
    return drawing.finish(figure, note, f"{alt}{'; '.join(areas)}.")


def shares(means: pd.DataFrame, claims: Sequence[Sequence[str]], note: str = "") -> drawing.Figure:
    """Draw numbers of Grad-CAM beside what chance would give, by class, with intervals.

    `means` come from `metrics.means_by_class`; each of `claims` is a panel: its title, the number
    to show, the number that chance would give, and perhaps the number that another cell's
    map would give.
    """
    names = set(means["class"])
    classes = [*(names & {_ALL}), *paper.class_order(names - {_ALL})]
    width = min(8, (0.35 * len(classes) + 1.4) * len(claims) + 0.6)
    figure, panels = drawing.new_figure(1, len(claims), size=(width, 3.9), squeeze=False)
    open_ = {"markerfacecolor": "white"}
    looks = (
        {"label": "Grad-CAM", "marker": "o", "color": _GRAD_CAM},
        {"label": "by chance", "marker": "s", "color": _CHANCE} | open_,
        {"label": "another cell's map", "marker": "D", "color": _OTHER} | open_,
    )
    said = []
    for axes, (title, *numbers) in zip(panels[0], claims, strict=True):
        places = 0.2 * (np.arange(len(numbers)) - (len(numbers) - 1) / 2)
        for place, number, look in zip(places, numbers, looks, strict=False):
            ours = means[means["number"] == number].set_index("class").loc[classes]
            errors = np.abs(ours[["low", "high"]].to_numpy().T - ours["mean"].to_numpy())
            x = np.arange(len(classes)) + place
            axes.errorbar(x, ours["mean"], errors, ls="", capsize=2.5, markersize=5.5, **look)
            said.append(f"{title}, {look['label']}: {ours['mean'].iloc[0]:.2f}")
        axes.set_xticks(range(len(classes)), classes, rotation=40, ha="right")
        axes.set_xlim(-0.6, len(classes) - 0.4)
        axes.set_title(title[:1].upper() + title[1:], fontsize=9.5)
        axes.set_ylabel(_COUNTED[numbers[0].partition("_")[0]])
    top = min(1.02, max(axes.get_ylim()[1] for axes in panels[0]))  # no share exceeds 1
    for axes in panels[0]:
        axes.set_ylim(0, top)
    figure.legend(*panels[0, -1].get_legend_handles_labels(), **_ABOVE)
    alt = f"Points with intervals, by class. For {classes[0]}, {'; '.join(said)}."
    return drawing.finish(figure, note, alt)


def randomisation(
    by_layer: pd.DataFrame, correlations: pd.DataFrame, between_cells: float, note: str = ""
) -> drawing.Figure:
    """Draw the correlation of maps with the model's own while its layers are scrambled.

    The tables come from `correlation_by_layer` and `scrambled_correlations`; `between_cells` is
    the mean correlation of the model's maps of two different cells.
    """
    figure, axes = drawing.new_figure(size=(7.2, 4.2))
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
    names = ["none", *map(_layer_words, layers)]
    axes.set_xticks(x, names, rotation=30, ha="right")
    axes.set(xlabel="Layers scrambled, from the output down to")
    axes.set_ylabel("Rank correlation\nwith the own map")
    axes.set_ylim(-1.05, 1.05)
    figure.legend(**_ABOVE)
    course = ", ".join(f"{n} {m:.2f}" for n, m in zip(names, columns["mean"], strict=True))
    alt = (
        "Lines of the rank correlation of maps with the model's own while layers are scrambled. "
        f"Mean, down to: {course}; with another cell's map {between_cells:.2f}."
    )
    return drawing.finish(figure, note, alt)


def _layer_words(layer: str) -> str:
    """Name a layer of a ResNet or DenseNet as its papers do."""
    block = re.sub(r"^(?:layer|denseblock)(\d)$", r"block \1", layer)
    return {"fc": "classifier", "conv0": "first layer", "conv1": "first layer"}.get(block, block)


def deletion(
    fractions: Sequence[float], curves: Mapping[str, pd.DataFrame], note: str = ""
) -> drawing.Figure:
    """Draw a class's mean probability against the share erased, one line per way (`erasure`)."""
    figure, axes = drawing.new_figure(size=(7.2, 4.2))
    looks = ((_GRAD_CAM, "o-"), (_CHANCE, "s--"), (_OTHER, "^:"))
    said, shares_ = [], np.asarray(fractions)
    for shift, (name, rows), (colour, line) in zip((-1, 0, 1), curves.items(), looks, strict=True):
        mean, low, high = (rows[column].to_numpy() for column in ("mean", "low", "high"))
        x = shares_ + 0.006 * shift  # intervals stand beside each other
        axes.errorbar(x, mean, (mean - low, high - mean), fmt=line, color=colour, label=name)
        said.append(f"{name} from {mean[0]:.2f} to {mean[-1]:.2f}")
    axes.set(xlabel="Share of the patch erased", ylabel="Probability of the predicted class")
    axes.set_ylim(0, 1.02)
    figure.legend(title="Erased", **_ABOVE)
    alt = (
        "Lines of the probability of the predicted class, with intervals, while up to "
        f"{shares_[-1]:.0%} of the patch is erased. Erasing {'; '.join(said)}."
    )
    return drawing.finish(figure, note, alt)


def image_examples(
    examples: pd.DataFrame, images: np.ndarray, maps: np.ndarray, labels: np.ndarray, note: str = ""
) -> drawing.Figure:
    """Show whole images, as they are and stretched, above their maps (the paper's Figure 9).

    `examples` are rows of `draw_predicted` with ``gini``; `labels` are 0 in the background.
    """
    order = _in_order(examples)
    outcomes, ginis = _outcomes(examples.iloc[order]), examples["gini"].iloc[order]
    rows = [_AS_SEEN, _STRETCHED, "Grad-CAM"]
    size = 8, 3 * 7 / len(order) + 1.2
    figure, panels = drawing.picture_grid(3, len(order), size=size, labels=rows)
    for column, position, outcome, gini in zip(panels.T, order, outcomes, ginis, strict=True):
        column[0].imshow(images[position])
        column[0].set_title(outcome, fontsize=8)
        column[1].imshow(drawing.stretched(images[position]))
        overlay(column[2], images[position], maps[position], labels[position] > 0)
        column[2].set_title(f"Gini {gini:.2f}", fontsize=8.5)
    colour_bar(figure, panels)
    said = [f"{outcome}, Gini {gini:.2f}" for outcome, gini in zip(outcomes, ginis, strict=True)]
    alt = (
        "Whole images, one per column: as models see them, stretched for the eye, and with their "
        f"Grad-CAM map and the outlines of detected cells. Columns: {_one_line(said)}."
    )
    return drawing.finish(figure, note, alt)
