"""Colours, grids of pictures and finishing touches that every figure shares."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

# Okabe-Ito: distinguishable with any common colour vision; the paper's classes keep their
# colour in every figure, other classes follow in order.
_OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999")
_PAPER_CLASSES = ("LT-HSC", "ST-HSC", "MPP")


def class_colours(class_names: Sequence[str]) -> dict[str, str]:
    """Give each class a colour: fixed for the paper's classes, in order for any others."""
    fixed = dict(zip(_PAPER_CLASSES, _OKABE_ITO, strict=False))
    spare = [c for c in _OKABE_ITO if c not in {fixed.get(name) for name in class_names}]
    others = [name for name in class_names if name not in fixed]
    return {name: fixed[name] for name in class_names if name in fixed} | {
        name: spare[index % len(spare)] for index, name in enumerate(others)
    }


def new_figure(nrows: int = 1, ncols: int = 1, *, size: tuple[float, float], **kwargs):
    """Return ``plt.subplots`` in the house style: size in inches, constrained layout."""
    import seaborn as sns  # brings scipy.stats: half a second that only a figure should cost

    with sns.axes_style("ticks"), sns.plotting_context("notebook", font_scale=0.85):
        return plt.subplots(nrows, ncols, figsize=size, layout="constrained", **kwargs)


def finish(figure: Figure, note: str = "") -> Figure:
    """Write the data note under a figure, and take it out of pyplot's list.

    A figure that pyplot no longer holds is shown once, as the value of its cell, and
    its memory is freed with it.
    """
    import seaborn as sns  # as in `new_figure`

    for axes in figure.axes:
        if axes.axison and axes.get_label() != "<colorbar>":
            sns.despine(ax=axes)
    if note:
        figure.supxlabel(note, x=1, ha="right", fontsize=7.5, color="0.4", style="italic")
    plt.close(figure)
    return figure


def picture_grid(
    nrows: int, ncols: int, *, size: tuple[float, float], labels: Sequence[str] = ()
) -> tuple[Figure, NDArray]:
    """Return a figure and panels (nrows, ncols) without axes, for pictures; labels name rows."""
    figure, panels = new_figure(nrows, ncols, size=size, squeeze=False)
    for panel in panels.flat:
        panel.axis("off")
    for panel, label in zip(panels[:, 0], labels, strict=False):
        panel.text(
            -0.06,
            0.5,
            label,
            transform=panel.transAxes,
            rotation=90,
            va="center",
            ha="right",
            fontsize=8,
        )
    return figure, panels


def stretched(image: NDArray) -> NDArray[np.uint8]:
    """Stretch a slice, or each slice of an image, for the eye: 0.5th to 99.5th percentile."""
    low, high = np.percentile(image, [0.5, 99.5], axis=(0, 1))
    return (np.clip((image - low) / np.maximum(high - low, 1), 0, 1) * 255).astype(np.uint8)
