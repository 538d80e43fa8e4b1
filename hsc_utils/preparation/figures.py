"""Figures of step 01: slices and RGB, intensities, the split, and what the images look like.

The `note` at a figure's foot says whose data these are.
"""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hsc_utils import drawing, paper
from hsc_utils.preparation.acquisition import Acquisition

# From dark to light, so that the subsets differ in print, too.
_SUBSETS = {"train": "#4D4D4D", "validation": "#999999", "test": "#D9D9D9"}
_SUBSET_WORDS = {"train": "training", "validation": "validation", "test": "test"}
_RGB_TITLES = "RGB,\nas models see it", "RGB,\nstretched for the eye"
_MOST_COLOURS = 7  # that `drawing.class_colours` tells apart


def slices(examples: Mapping[str, tuple[Acquisition, NDArray]], note: str = "") -> drawing.Figure:
    """Show acquisitions in rows: their slices, and the RGB image as it is and stretched.

    Parameters
    ----------
    examples : mapping of str to (Acquisition, ndarray)
        By title, an acquisition and its RGB image, uint8 (Y, X, 3).
    note : str
        Whose data these are.
    """
    rows, columns = len(examples), max(len(one.slices) for one, _ in examples.values()) + 2
    size = (8, (7.6 / columns + 0.42) * rows + 0.2)
    figure, panels = drawing.picture_grid(rows, columns, size=size, labels=[*examples])
    for row, (one, rgb) in zip(panels, examples.values(), strict=True):
        for panel, plane, name in zip(row, one.slices, one.channel_names, strict=False):
            panel.imshow(drawing.stretched(plane), cmap="gray", vmin=0, vmax=255)
            panel.set_title(name, fontsize=8.5)
        for panel, shown, title in zip(
            row[-2:], (rgb, drawing.stretched(rgb)), _RGB_TITLES, strict=True
        ):
            panel.imshow(shown)
            panel.set_title(title, fontsize=8.5)
    shown = "; ".join(
        f"{title} ({', '.join(one.channel_names)}), mean red, green and blue "
        f"{', '.join(f'{mean:.0f}' for mean in rgb.mean(axis=(0, 1)))} of 255"
        for title, (one, rgb) in examples.items()
    )
    alt = (
        "Micrographs, one acquisition per row: its slices in gray, stretched for the eye, then "
        f"its RGB image as models see it, dull, and stretched for the eye. Rows: {shown}."
    )
    return drawing.finish(figure, note, alt)


def intensity_histograms(
    histograms: pd.DataFrame,
    by: str,
    note: str = "",
    slice_names: Sequence[str] = ("Slice 0", "Slice 1", "Slice 2"),
) -> drawing.Figure:
    """Draw how often each intensity occurs, one line per class or group, raw and as 8 bits.

    Parameters
    ----------
    histograms : DataFrame
        Of `preparation.histograms`.
    by : str
        Its column that tells the lines apart, ``class`` or ``group``.
    note : str
        Whose data these are.
    slice_names : sequence of str
        How to call the slices that became red, green and blue.
    """
    channels = [c for c in "RGB" if (histograms["channel"] == c).any()]
    titles = dict(zip("RGB", slice_names, strict=False))
    figure, axes = drawing.new_figure(
        2, len(channels), size=(8, 4.9), squeeze=False, sharex="col", sharey="col"
    )
    names = paper.class_order(histograms[by].unique())
    colours = _line_colours(names)
    curves = histograms.groupby(["stage", "channel", by, "intensity"])["share"].mean()
    for row, stage in zip(axes, ("raw", "8 bit"), strict=True):
        for panel, channel in zip(row, channels, strict=True):
            of_panel = 100 * curves[stage, channel]
            for name in [name for name in names if name in of_panel]:
                look = {"color": colours[name], "label": name, "lw": 1.5}
                panel.plot(of_panel.loc[name], **look)
            panel.set_title(f"{titles[channel]}: {stage}", fontsize=9)
        row[0].set_ylabel("Pixels in bin (%)")
    for panel, channel in zip(axes[1], channels, strict=True):
        # The empty parts of the range are left out: no curve reaches a thousandth there.
        seen = curves[:, channel][curves[:, channel] > 0.001].index.get_level_values("intensity")
        panel.set(xlim=(seen.min() - 0.02, seen.max() + 0.02))
    axes[1, len(channels) // 2].set_xlabel("Intensity (share of the range)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    style = {"ncols": min(len(names), 5), "frameon": False, "fontsize": 9}
    figure.legend(handles, labels, loc="outside upper center", **style)
    peaks = curves["8 bit"].groupby(["channel", by]).idxmax().str[-1]
    alt = f"Curves of how often each intensity occurs by {by} ({', '.join(names)}), raw and 8 bit. "
    alt += "The peaks, as shares of the range: " + "; ".join(
        f"{titles[channel]} from {peaks[channel].min():.2f} to {peaks[channel].max():.2f}"
        for channel in channels
    )
    return drawing.finish(figure, note, f"{alt}.")


def _line_colours(names: Sequence[str]) -> Mapping[str, object]:
    """Give each line a colour; many lines, as of days, go from dark to light in their order."""
    if len(names) <= _MOST_COLOURS:
        return drawing.class_colours(names)
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.93, len(names)))
    return dict(zip(names, shades, strict=True))


def split_bars(counts: pd.DataFrame, note: str = "") -> drawing.Figure:
    """Draw how the images of each class (row) divide into training, validation and test."""
    counts = counts.loc[paper.class_order(counts.index)]
    figure, axes = drawing.new_figure(size=(7, 1.1 + 0.45 * len(counts)))
    left = np.zeros(len(counts))
    for subset in counts:
        style = {"label": _SUBSET_WORDS[subset], "height": 0.65, "color": _SUBSETS[subset]}
        bars = axes.barh(counts.index, counts[subset], left=left, **style)
        colour = "white" if subset == "train" else "black"
        axes.bar_label(bars, label_type="center", color=colour, fontsize=9)
        left += counts[subset].to_numpy()
    axes.invert_yaxis()
    axes.set_xlabel("Images")
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    divided = "; ".join(
        f"{name}: {', '.join(f'{n} {_SUBSET_WORDS[subset]}' for subset, n in row.items())}"
        for name, row in counts.iterrows()
    )
    return drawing.finish(figure, note, f"Stacked bars of images by class. {divided}.")


def contact_sheet(
    thumbnails: Mapping[str, Sequence[NDArray[np.uint8]]], note: str = ""
) -> drawing.Figure:
    """Show small RGB images of each class: a row as models see them, below it stretched."""
    names, columns = paper.class_order(thumbnails), max(map(len, thumbnails.values()))
    labels = [f"{name},\n{how}" for name in names for how in ("as models see it", "stretched")]
    size = (8, 7.5 / columns * len(labels) + 0.3)
    figure, panels = drawing.picture_grid(len(labels), columns, size=size, labels=labels)
    colours = drawing.class_colours(names)
    for name, seen, eased in zip(names, panels[::2], panels[1::2], strict=True):
        for row in (seen, eased):
            row[0].texts[0].set(color=colours[name], fontweight="bold")
        for above, below, image in zip(seen, eased, thumbnails[name], strict=False):
            above.imshow(image)
            below.imshow(drawing.stretched(image))
    figure.suptitle("RGB as models see it, and below it stretched for the eye", fontsize=9.5)
    shown = ", ".join(f"{len(thumbnails[name])} of {name}" for name in names)
    alt = f"Whole images, {shown}: in one row as models see them, below it stretched for the eye."
    return drawing.finish(figure, note, alt)
