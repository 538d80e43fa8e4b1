"""Colours, grids of pictures and finishing touches that every figure shares."""

import io
from base64 import b64encode
from collections.abc import Sequence

import matplotlib
import matplotlib.figure
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Okabe-Ito: distinguishable with any common colour vision; the paper's classes keep their
# colour in every figure, other classes follow in order.
_OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999")
_PAPER_CLASSES = ("LT-HSC", "ST-HSC", "MPP")
# names of classes and slices are written as they are, dollar signs included
matplotlib.rcParams["text.parse_math"] = False
# pixels per inch of a shown figure, and how many of its pixels make one on the screen
_DPI, _DENSITY = 100, 2


class Figure(matplotlib.figure.Figure):
    """A figure that carries a text of what is seen on it, and is shown at double resolution.

    Notebooks keep the text and the size on the screen beside the picture, as metadata ``alt``,
    ``width`` and ``height`` of ``image/png``; JupyterLab shows it at that size, and the book
    takes all three.
    """

    alt: str = ""

    def _ipython_display_(self) -> None:
        """Show the figure; Jupyter's own way has no place for a text."""
        from IPython.display import display  # drawing in batch needs no notebook

        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=_DPI * _DENSITY)
        width, height = (side // _DENSITY for side in Image.open(buffer).size)
        shown = {"image/png": b64encode(buffer.getvalue()).decode(), "text/plain": self.alt}
        sizes = {"alt": self.alt, "width": width, "height": height}
        display(shown, metadata={"image/png": sizes}, raw=True)


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
        return plt.subplots(
            nrows, ncols, figsize=size, layout="constrained", FigureClass=Figure, **kwargs
        )


def finish(figure: Figure, note: str, alt: str) -> Figure:
    """Write the data note under a figure, and take it out of pyplot's list.

    A figure that pyplot no longer holds is shown once, as the value of its cell, and
    its memory is freed with it.

    Parameters
    ----------
    figure : Figure
        From `new_figure` or `picture_grid`.
    note : str
        Whose data these are; may be empty.
    alt : str
        What is seen, for those who cannot see it: the kind of figure, what its panels hold, and
        the finding that catches the eye, with its numbers. One to three sentences.

    Returns
    -------
    Figure
        The same, for display as the value of a cell.
    """
    import seaborn as sns  # as in `new_figure`

    for axes in figure.axes:
        if axes.axison and axes.get_label() != "<colorbar>":
            sns.despine(ax=axes)
    if note:
        figure.supxlabel(note, x=1, ha="right", fontsize=7.5, color="0.4", style="italic")
    plt.close(figure)
    figure.alt = f"{alt} {note}.".strip() if note else alt
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


def stretched(pixels: NDArray) -> NDArray[np.uint8]:
    """Stretch a slice (Y, X) for the eye, or an image, or images alike (…, Y, X, 3); linearly.

    A slice alone goes from its 0.5th to its 99.5th percentile. In images the median of each slice,
    as a rule the background, becomes the same gray, so that colour is left to what differs from
    it; the farther of the 0.1st and the 99.9th percentile sets the scale.
    """
    if pixels.ndim == 2:
        low, high = np.percentile(pixels, [0.5, 99.5])
        return (np.clip((pixels - low) / max(high - low, 1), 0, 1) * 255).astype(np.uint8)
    all_but_slices = tuple(range(pixels.ndim - 1))
    low, middle, high = np.percentile(pixels, [0.1, 50, 99.9], axis=all_but_slices)
    reach = np.maximum(np.maximum(middle - low, high - middle), 1)
    return (np.clip(0.45 + 0.55 * (pixels - middle) / reach, 0, 1) * 255).astype(np.uint8)
