"""Figures of step 01: slices and RGB, intensities, the split, and what the images look like.

The `note` at a figure's foot says whose data these are.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hsc_utils import drawing, paper
from hsc_utils.preparation.acquisition import Acquisition

# From dark to light, so that the subsets differ in print, too.
_SUBSET_COLOURS = {"train": "#4D4D4D", "validation": "#999999", "test": "#D9D9D9"}
_CHANNEL_SLICES = {"R": "first slice (R)", "G": "second slice (G)", "B": "third slice (B)"}


def slices(examples: Mapping[str, tuple[Acquisition, NDArray]], note: str = "") -> Figure:
    """Show by title, each in a row: an acquisition's slices, stretched for the eye, and its RGB."""
    rows, columns = len(examples), max(len(one.slices) for one, _ in examples.values()) + 1
    size = (1.75 * columns, 2.05 * rows)
    figure, panels = drawing.picture_grid(rows, columns, size=size, labels=[*examples])
    for row, (one, rgb) in zip(panels, examples.values(), strict=True):
        for panel, plane, name in zip(row, one.slices, one.channel_names, strict=False):
            panel.imshow(drawing.stretched(plane), cmap="gray", vmin=0, vmax=255)
            panel.set_title(name, fontsize=8)
        row[-1].imshow(rgb)
        row[-1].set_title("RGB", fontsize=8)
    return drawing.finish(figure, note)


def intensity_histograms(histograms: pd.DataFrame, by: str, note: str = "") -> Figure:
    """Draw how often each intensity occurs, one line a class or day (`by`), raw and as 8 bits."""
    channels = [c for c in "RGB" if (histograms["channel"] == c).any()]
    figure, axes = drawing.new_figure(
        2, len(channels), size=(2.7 * len(channels), 4.6), squeeze=False, sharex="col", sharey="col"
    )
    names = paper.class_order(histograms[by].unique())
    colours = drawing.class_colours(names)
    curves = histograms.groupby(["stage", "channel", by, "intensity"])["share"].mean()
    for row, stage in zip(axes, ("raw", "8 bit"), strict=True):
        for panel, channel in zip(row, channels, strict=True):
            for name in names:
                if (stage, channel, name) in curves.index.droplevel(3):
                    curve = curves[stage, channel, name]
                    panel.plot(curve.index, 100 * curve, color=colours[name], label=name, lw=1.4)
            panel.set_title(f"{_CHANNEL_SLICES[channel]}, {stage}", fontsize=9)
        row[0].set_ylabel("Pixels in bin (%)")
    for panel, channel in zip(axes[1], channels, strict=True):
        # The empty parts of the range are left out: no curve reaches a thousandth there.
        seen = curves[:, channel][curves[:, channel] > 0.001].index.get_level_values("intensity")
        panel.set(xlabel="Intensity (share of range)", xlim=(seen.min() - 0.02, seen.max() + 0.02))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    style = {"ncols": min(len(names), 6), "frameon": False, "fontsize": 8}
    figure.legend(handles, labels, loc="outside upper center", **style)
    return drawing.finish(figure, note)


def split_bars(counts: pd.DataFrame, note: str = "") -> Figure:
    """Draw how the images of each class divide into training, validation and test."""
    figure, axes = drawing.new_figure(size=(6.5, 0.9 + 0.45 * len(counts)))
    left = np.zeros(len(counts))
    for subset in counts:
        style = {"label": subset, "height": 0.65, "color": _SUBSET_COLOURS[subset]}
        bars = axes.barh(counts.index, counts[subset], left=left, **style)
        colour = "white" if subset == "train" else "black"
        axes.bar_label(bars, label_type="center", color=colour, fontsize=8)
        left += counts[subset].to_numpy()
    axes.invert_yaxis()
    axes.set_xlabel("Images")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False, fontsize=8)
    return drawing.finish(figure, note)


def contact_sheet(thumbnails: Mapping[str, Sequence[NDArray[np.uint8]]], note: str = "") -> Figure:
    """Show small RGB images in a row for each class."""
    names, columns = [*thumbnails], max(map(len, thumbnails.values()))
    size = (8, 8 / columns * len(names) + 0.2)
    figure, panels = drawing.picture_grid(len(names), columns, size=size, labels=names)
    colours = drawing.class_colours(names)
    for row, (name, images) in zip(panels, thumbnails.items(), strict=True):
        row[0].texts[0].set(color=colours[name], fontweight="bold")
        for panel, image in zip(row, images, strict=False):
            panel.imshow(image)
    return drawing.finish(figure, note)
