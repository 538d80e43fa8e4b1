"""Draw book/pipeline.png, the picture on the first page, from the demo's results."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.patches import Circle
from PIL import Image

from hsc_utils import drawing, manifest
from hsc_utils.explanation.maps import grad_cam, layer_at_stride, resize_maps
from hsc_utils.files import ROOT
from hsc_utils.preparation import acquisition
from hsc_utils.provenance import SIMULATED_NOTE
from hsc_utils.training import batches, models

DEMO = ROOT / "results" / "demo"
STEPS = (
    "Slices (.oir)",
    "RGB image, cells found",
    "Single cells",
    "Where the model looks",
)


def draw() -> plt.Figure:
    """Put one acquisition's way through the notebooks side by side."""
    images = manifest.read_images(DEMO / "prepared")
    cells = manifest.read_cells(DEMO / "prepared" / "cells")
    patches = np.load(DEMO / "prepared" / "cells" / "patches.npy", mmap_mode="r")
    image = images[(images["class"] == "ST-HSC") & (images["slices"] == 3)].iloc[3]

    figure = plt.figure(figsize=(12, 3.5), layout="constrained")
    panels = figure.subfigures(1, 4, width_ratios=(1.05, 2.6, 2.1, 2.1), wspace=0.02)
    for panel, title in zip(panels, STEPS, strict=True):
        panel.suptitle(title, fontsize=12)

    slices = acquisition.read_acquisition(DEMO / "raw" / image["source"])
    rows = panels[0].subplots(3, 1)
    for axes, plane, name in zip(rows, slices.slices, slices.channel_names, strict=True):
        axes.imshow(
            plane, cmap="gray", vmin=np.percentile(plane, 1), vmax=np.percentile(plane, 99.8)
        )
        axes.set_ylabel(name, fontsize=8)

    axes = panels[1].subplots()
    axes.imshow(brightened(np.asarray(Image.open(DEMO / "prepared" / image["path"]))))
    for cell in cells[cells["image_id"] == image["image_id"]].itertuples():
        axes.add_patch(Circle((cell.x, cell.y), 22, fill=False, color="white", lw=1))

    examples = cells[cells["split"] == "test"].groupby("class").sample(3, random_state=4)
    examples = examples.sort_values("class")
    show_grid(panels[2], [brightened(patches[row]) for row in examples["row"]], examples)

    model, config = models.load_run(DEMO / "runs" / "cell" / "densenet121" / "seed0")
    chosen = patches[np.asarray(examples["row"])]
    targets = [config["class_names"].index(name) for name in examples["class"]]
    layer = layer_at_stride(model, 16)
    maps = grad_cam(model, batches.to_input(chosen, config), targets, layer)
    maps = resize_maps(maps, chosen.shape[1])
    grids = show_grid(panels[3], [patch.mean(axis=2) for patch in chosen], examples)
    for axes, attention in zip(grids, maps, strict=True):
        axes.imshow(attention, cmap="viridis", vmin=0, vmax=1, alpha=0.5)

    for axes in figure.axes:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    figure.supxlabel(SIMULATED_NOTE, x=1, ha="right", fontsize=9, color="0.4", style="italic")
    return figure


def brightened(rgb: np.ndarray) -> np.ndarray:
    """Stretch an image for the eye, channel by channel."""
    low, high = np.percentile(rgb, [0.5, 99.8], axis=(0, 1))
    return np.clip((rgb - low) / np.maximum(high - low, 1), 0, 1)


def show_grid(panel: plt.Figure, pictures: list[np.ndarray], examples: pd.DataFrame) -> list:
    """Show three pictures a class, one class a row, and return the axes."""
    colours = drawing.class_colours(examples["class"].unique())
    grid = panel.subplots(3, 3).ravel()
    for index, (axes, picture) in enumerate(zip(grid, pictures, strict=True)):
        axes.imshow(picture, cmap="gray")
        if index % 3 == 0:
            name = examples["class"].iloc[index]
            axes.set_ylabel(name, color=colours[name], fontsize=9)
    return list(grid)


if __name__ == "__main__":
    target = ROOT / "book" / "pipeline.png"
    draw().savefig(target, dpi=130)
    Image.open(target).convert("RGB").quantize(256).save(target, optimize=True)
