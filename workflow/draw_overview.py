"""Draw book/pipeline.png, the picture on the first page, from the demo's results."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.patches import Circle
from PIL import Image

from hsc_utils import detection, drawing, explanation, manifest, preparation, training
from hsc_utils.files import ROOT, read_rgb
from hsc_utils.provenance import SIMULATED_NOTE
from hsc_utils.study import Study

STEPS = (
    "Slices (.oir)",
    "RGB image, cells found",
    "Single cells",
    "Where the model looks",
)


def draw() -> plt.Figure:
    """Put one acquisition's way through the notebooks side by side."""
    demo = Study("results/demo")
    images, cells = manifest.read_images(demo.prepared), manifest.read_cells(demo.cells)
    patches = detection.read_patches(demo.cells, cells)
    image = images[(images["class"] == "ST-HSC") & (images["slices"] == 3)].iloc[3]

    figure = plt.figure(figsize=(12, 3.5), layout="constrained")
    panels = figure.subfigures(1, 4, width_ratios=(1.05, 2.6, 2.1, 2.1), wspace=0.02)
    for panel, title in zip(panels, STEPS, strict=True):
        panel.suptitle(title, fontsize=12)

    acquisition = preparation.read_acquisition(demo.raw / image["source"])
    rows = panels[0].subplots(3, 1)
    for axes, plane, name in zip(rows, acquisition.slices, acquisition.channel_names, strict=True):
        axes.imshow(drawing.stretched(plane), cmap="gray")
        axes.set_ylabel(name, fontsize=8)

    axes = panels[1].subplots()
    axes.imshow(drawing.stretched(read_rgb(demo.prepared / image["path"])))
    for cell in cells[cells["image_id"] == image["image_id"]].itertuples():
        axes.add_patch(Circle((cell.x, cell.y), 22, fill=False, color="white", lw=1))

    examples = cells[cells["split"] == "test"].groupby("class").sample(3, random_state=4)
    examples = examples.sort_values("class")
    show_grid(panels[2], [drawing.stretched(patches[row]) for row in examples["row"]], examples)

    model, config = training.load_run(demo.run("cell", "densenet121", 0).directory)
    chosen = patches[np.asarray(examples["row"])]
    targets = [config.class_names.index(name) for name in examples["class"]]
    inputs, layer = training.to_input(chosen, config), explanation.layer_at_stride(model, 16)
    maps = explanation.grad_cam(model, inputs, targets, layer)
    maps = explanation.resize_maps(maps, chosen.shape[1])
    grids = show_grid(panels[3], [patch.mean(axis=2) for patch in chosen], examples)
    for axes, attention in zip(grids, maps, strict=True):
        axes.imshow(attention, cmap="viridis", vmin=0, vmax=1, alpha=0.5)

    for axes in figure.axes:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    figure.supxlabel(SIMULATED_NOTE, x=1, ha="right", fontsize=9, color="0.4", style="italic")
    return figure


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
