"""Draw a study's way from acquisition to attention: ``draw_overview.py CONFIG OUTPUT``.

Which cells are shown is decided by a rule, not by eye. The rule, and what holds for all cells
that notebook 06 measured, stand in the picture's small print.
"""

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import plan
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from matplotlib.patches import Circle, Rectangle
from PIL import Image, PngImagePlugin
from scipy.spatial import cKDTree

from hsc_utils import detection, drawing, explanation, manifest, paper, provenance, training
from hsc_utils.explanation import figures
from hsc_utils.files import atomic_path, from_caller, from_root, read_rgb, shown_path
from hsc_utils.study import Study, failure_of, model_words

SHOWN = 3  # cells of a class, and classes, at most
WIDTH, PICTURES, LINE = 8, 2.75, 0.145  # inches: all, the pictures, and a line of small print
DPI = 200  # twice that of a screen
NEAR = 8  # px from a detection to the centre of its true cell, at most


def draw(study: Study, cell_model: str, seed: int, masks_dir: str | None = None) -> drawing.Figure:
    """Put slices, their image, single cells and where a model looks side by side.

    Parameters
    ----------
    study : Study
        With the results of notebook 06.
    cell_model, seed, masks_dir
        Notebook 06's ``cell_model``, ``run_seed`` and ``masks_dir``.

    Raises
    ------
    FileNotFoundError
        If notebook 06 failed or has no results.
    ValueError
        If no cell fits the rule.
    """
    explained, means = read_results(study)
    patches = detection.read_patches(study.cells, manifest.read_cells(study.cells))
    network, config = training.load_run(study.run("cell", cell_model, seed).directory)
    masks = explanation.find_masks(study, explained, masks_dir)
    labels = explanation.find_labels(
        explained, np.asarray(patches[explained["row"]]), study.prepared, masks
    )
    inside = explanation.own_masks(labels)
    rule = conditions(study, explained, patches) | {
        "touching no other cell and no rim": ~touching(labels, inside)
    }
    class_names = paper.class_order(config.class_names)
    shown = typical(explained, rule, class_names)
    chosen, inside = explained.loc[shown].reset_index(drop=True), inside[shown]
    pixels = np.asarray(patches[chosen["row"]])
    layer = explanation.layer_at_stride(network, int(chosen["stride"].iloc[0]))
    inputs = explanation.inputs_and_targets(pixels, chosen, config)
    maps = explanation.resize_maps(explanation.grad_cam(network, *inputs, layer), pixels.shape[1])

    placed = bool(explained["y"].notna().all())  # cells that came ready lie in no image
    widths = [1.6, 3.3] * placed + [3.15, 3.75]
    absent = [name for name in class_names if name not in set(chosen["class"])]
    text = textwrap.fill(small_print(explained, means, rule, absent), 142)
    heights = PICTURES if placed else 1.5 * PICTURES, LINE * (text.count("\n") + 1.5)
    size = WIDTH, sum(heights)
    figure = plt.figure(figsize=size, layout="constrained", FigureClass=drawing.Figure)
    above, below = figure.subfigures(2, 1, height_ratios=heights)
    panels = above.subfigures(1, len(widths), width_ratios=widths)
    if placed:
        draw_field(panels, study, chosen, patches.shape[1])
    draw_cells(panels[-2:], chosen, pixels, maps, inside)
    words = model_words(cell_model)
    panels[-1].suptitle(f"Where {words} looks", fontsize=10)
    below.text(0.01, 0.95, text, fontsize=8, va="top", color="0.3")
    seen = "Slices of an acquisition become an RGB image in which cells are found; " * placed
    classes = ", ".join(chosen["class"].unique())
    alt = (
        f"{seen}single cells of {classes}; and on each a map of where {words} looks, with the "
        f"cell's outline. {attention(explained, means)}"
    )
    return drawing.finish(figure, provenance.data_note(explained), alt[0].upper() + alt[1:])


def read_results(study: Study) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read notebook 06's cells, and the means over all of them at the stride they have."""
    paths = [study.grad_cam / name for name in ("cam.csv", "means.csv")]
    reason = failure_of(study.grad_cam)
    if reason or not all(path.exists() for path in paths):
        raise FileNotFoundError(
            f"{shown_path(study.grad_cam)} holds no results of notebook 06 "
            f"({reason or 'not run yet'}), which the overview shows: run notebook 06 first."
        )
    texts, numbers = ["cell_id", "predicted"], ["stride", "share", "area", "excess"]
    measured = pd.read_csv(
        paths[0],
        usecols=texts + numbers,
        dtype=dict.fromkeys(texts, str),
        keep_default_na=False,
        na_values=dict.fromkeys(numbers, ""),
    )
    explained = manifest.read_cells(study.cells).merge(measured, on="cell_id")
    if len(explained) < len(measured):
        raise ValueError(
            f"{shown_path(paths[0])} is of other cells than the study's: run notebook 06 again."
        )
    means = pd.read_csv(paths[1]).query("level == 'cell' and `class` == 'all classes'")
    return explained, means[means["stride"] == measured["stride"].iloc[0]].set_index("number")


def conditions(study: Study, explained: pd.DataFrame, patches: np.ndarray) -> dict[str, pd.Series]:
    """Say of each cell which conditions it meets, by the words for them."""
    met = {"predicted correctly": explained["predicted"] == explained["class"]}
    truth, placed = study.truth / "cells.csv", explained["y"].notna().all()
    images = manifest.read_images(study.prepared).set_index("image_id") if placed else None
    if placed and truth.exists():
        met["in focus"] = in_focus(explained, images, pd.read_csv(truth))
    else:
        sharpness = pd.Series([sharpness_of(patches[row]) for row in explained["row"]])
        medians = sharpness.groupby(explained["class"]).transform("median")
        met["sharper than half of their class"] = sharpness > medians
    if placed:
        slices = explained["image_id"].map(images["slices"])
        most = slices.mode().iloc[0]
        met[f"from images of {most} slices"] = slices == most
    return met


def in_focus(explained: pd.DataFrame, images: pd.DataFrame, truth: pd.DataFrame) -> pd.Series:
    """Tell whether the true cell nearest to each cell, and near it, is in focus."""
    found = pd.Series(False, explained.index)
    for image_id, ours in explained.groupby("image_id"):
        true = truth[truth["source"] == images.loc[image_id, "source"]]
        if len(true):
            distance, nearest = cKDTree(true[["y", "x"]]).query(ours[["y", "x"]])
            found[ours.index] = true["in_focus"].to_numpy(bool)[nearest] & (distance <= NEAR)
    return found


def touching(labels: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Tell whether each patch's own cell is within 2 px of another or of the rim, bool (N,)."""
    wider = np.stack([cv2.dilate(mask.astype(np.uint8), np.ones((5, 5))) for mask in inside])
    others = (labels > 0) & ~inside
    others[:, [0, -1]] = others[:, :, [0, -1]] = True
    return ((wider > 0) & others).any(axis=(1, 2))


def sharpness_of(patch: np.ndarray) -> float:
    """Return the variance of a patch's Laplacian, a common measure of focus."""
    return cv2.Laplacian(patch.mean(axis=2), cv2.CV_64F).var()


def typical(
    explained: pd.DataFrame, rule: dict[str, np.ndarray], class_names: Sequence[str]
) -> list[int]:
    """Return positions, class by class, of cells that meet the rule, the most typical ones.

    They are nearest to the median of the class's ``excess``, over all its cells.
    """
    medians = explained.groupby("class")["excess"].transform("median")
    apart = (explained["excess"] - medians).abs()
    fit = explained[np.logical_and.reduce([*rule.values(), apart.notna()])]
    if fit.empty:
        raise ValueError(
            f"Of {len(explained)} cells that notebook 06 explained none is {', '.join(rule)}: "
            "raise its cells_per_class."
        )
    nearest = fit.assign(apart=apart).sort_values("apart", kind="stable")
    by_class = {name: rows.index[:SHOWN] for name, rows in nearest.groupby("class")}
    names = [name for name in class_names if name in by_class][:SHOWN]
    return [int(position) for name in names for position in by_class[name]]


def draw_field(panels: Sequence[SubFigure], study: Study, chosen: pd.DataFrame, side: int) -> None:
    """Draw one chosen cell's image, of those the one with most cells, and its slices.

    Of the chosen cells the square of `side` px is drawn that was cut out.
    """
    images = manifest.read_images(study.prepared).set_index("image_id")
    cells = manifest.read_cells(study.cells)
    counts = cells["image_id"].value_counts()[chosen["image_id"].unique()]
    image = images.loc[counts.idxmax()]
    rgb = read_rgb(study.prepared / image["path"])

    panels[0].suptitle("Slices", fontsize=10)
    names = image["channel_names"].split(";")
    shown = min(int(image["slices"]), 3)
    for index, axes in enumerate(panels[0].subplots(shown, 1, squeeze=False)[:, 0]):
        axes.imshow(drawing.stretched(rgb[..., index]), cmap="gray")
        axes.axis("off")
        name = names[index] if index < len(names) and names[index] else f"slice {index}"
        axes.set_title(name, fontsize=8, pad=2)

    panels[1].suptitle("RGB image, cells found", fontsize=10)
    axes = panels[1].subplots()
    axes.imshow(drawing.stretched(rgb))
    axes.axis("off")
    colours = drawing.class_colours(chosen["class"].unique())
    for cell in cells[cells["image_id"] == image.name].itertuples():
        radius = np.sqrt(2) * cell.sigma
        axes.add_patch(Circle((cell.x, cell.y), radius, fill=False, color="white", lw=1))
    for cell in chosen[chosen["image_id"] == image.name].itertuples():
        corner = cell.x - side / 2, cell.y - side / 2
        for look in ({"color": "white", "lw": 4}, {"color": colours[image["class"]], "lw": 2.2}):
            axes.add_patch(Rectangle(corner, side, side, fill=False, **look))
    if image["pixel_size_um"] > 0:
        draw_scale_bar(axes, rgb.shape, image["pixel_size_um"])


def draw_scale_bar(axes: Axes, shape: Sequence[int], pixel_size_um: float) -> None:
    """Draw a bar of a round length, at most a third of the image's width, in a corner."""
    height, width = shape[:2]
    most = width * pixel_size_um / 3
    decade = 10 ** np.floor(np.log10(most))
    length = decade * max(step for step in (1, 2, 5) if step * decade <= most)
    long, right, low = length / pixel_size_um, 0.96 * width, 0.95 * height
    bar = Rectangle((right - long, low), long, 0.012 * height, color="white", lw=0)
    axes.add_patch(bar)
    place = {"ha": "center", "va": "bottom", "color": "white", "fontsize": 9}
    axes.text(right - long / 2, low - 0.01 * height, f"{length:g} µm", **place)


def draw_cells(
    panels: Sequence[SubFigure],
    chosen: pd.DataFrame,
    pixels: np.ndarray,
    maps: np.ndarray,
    inside: np.ndarray,
) -> None:
    """Draw the chosen cells, one class a row, and beside them the same with their maps."""
    classes = chosen["class"].unique()
    colours = drawing.class_colours(classes)
    seen = drawing.stretched(pixels)
    left, right = (panel.subplots(len(classes), SHOWN, squeeze=False) for panel in panels)
    panels[0].suptitle("Single cells", fontsize=10)
    for axes in [*left.flat, *right.flat]:
        axes.axis("off")
    for row, name in enumerate(classes):
        for axes in (left[row, 0], right[row, 0]):
            write_label(axes, name, fontsize=9, weight="bold", color=colours[name])
        for column, cell in enumerate(np.flatnonzero(chosen["class"] == name)):
            left[row, column].imshow(seen[cell])
            figures.overlay(right[row, column], pixels[cell], maps[cell], inside[cell])
    figures.colour_bar(panels[1], right)


def write_label(axes: Axes, text: str, **look: object) -> None:
    """Write upright text on the left of a picture without axes."""
    place = {"transform": axes.transAxes, "rotation": 90, "ha": "right", "va": "center"}
    axes.text(-0.05, 0.5, text, **place, **look)


def small_print(
    explained: pd.DataFrame, means: pd.DataFrame, rule: Sequence[str], absent: Sequence[str]
) -> str:
    """Say how the cells were chosen, and what holds for all that notebook 06 measured."""
    subset = explained["split"].iloc[0]
    sentences = [
        f"Chosen by rule: {subset} cells {', '.join(rule)}; of each class the {SHOWN} nearest to "
        "the class's median of attention inside the outline less the outline's share of the patch.",
        f"Not shown: {', '.join(absent)}, since no cell fits or {SHOWN} classes are there already."
        * bool(absent),
        attention(explained, means),
        "Pictures are stretched for the eye, all cells alike.",
    ]
    return " ".join(filter(None, sentences))


def attention(explained: pd.DataFrame, means: pd.DataFrame) -> str:
    """Say how much of the attention lies inside the cells that notebook 06 measured."""
    share, area = means.loc["share"], 100 * means.loc["area", "mean"]
    mean, low, high = 100 * share[["mean", "low", "high"]].astype(float)
    interval = "" if np.isnan(low) else f" (95 % interval {low:.1f} to {high:.1f} %)"
    return (
        f"In the {share['samples']:.0f} {explained['split'].iloc[0]} cells measured, of "
        f"{share['images']:.0f} images, {mean:.1f} %{interval} of the attention (Grad-CAM) lies "
        f"inside the cell, which covers {area:.1f} % of the patch."
    )


def write(figure: drawing.Figure, output: Path) -> None:
    """Save a figure as a PNG of 256 colours, small enough for a repository, its alt text inside.

    The text lies under the keyword that the PNG standard has for it, ``Description``.
    """
    described = PngImagePlugin.PngInfo()
    described.add_itxt("Description", figure.alt)
    with atomic_path(output) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png")
        picture = Image.open(temporary).convert("RGB")
        # the colours of the largest areas alone would give each class's name another's colour
        palette = picture.quantize(256, Image.Quantize.FASTOCTREE)
        picture.quantize(palette=palette).save(
            temporary, format="png", optimize=True, pnginfo=described
        )


if __name__ == "__main__":
    config, output = sys.argv[1], from_root(from_caller(sys.argv[2]))
    output.unlink(missing_ok=True)  # if drawing fails, no picture of older results stays
    try:
        explained = plan.settings_of(config, plan.EXPLANATION)
        chosen = [explained[name] for name in ("cell_model", "run_seed", "masks_dir")]
        write(draw(plan.study_of(config), *chosen), output)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
