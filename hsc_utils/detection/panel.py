"""Sliders for the detection settings, in JupyterLab; a figure everywhere else."""

from dataclasses import replace
from pathlib import Path

import ipywidgets as widgets
import numpy as np
from numpy.typing import NDArray

from hsc_utils import drawing
from hsc_utils.detection import blobs, figures

_SHOWN = 512  # px; a larger field of view is shown by its middle, to be redrawn at once


def detection_panel(
    rgb: NDArray[np.uint8],
    settings: blobs.DetectionSettings,
    path: str | Path,
    interactive: bool = False,
    note: str = "",
) -> drawing.Figure | widgets.Widget:
    """Show what settings find in an image, with sliders to change them if asked.

    Parameters
    ----------
    rgb : ndarray of uint8, shape (Y, X, 3)
        Image.
    settings, path
        Where the sliders start; the ``detection.json`` written when the button is pressed.
    interactive : bool
        Whether to return sliders, which need a running kernel, or a figure.
    """
    if not interactive:
        image = blobs.searched(rgb, settings)
        return figures.searched_and_found(rgb, image, blobs.detect_in(image, settings), note)
    height, width = rgb.shape[:2]
    top, left = max(0, height - _SHOWN) // 2, max(0, width - _SHOWN) // 2
    field = rgb[top : top + _SHOWN, left : left + _SHOWN]
    shown = drawing.stretched(field)
    controls = {
        "method": widgets.Dropdown(options=blobs.METHODS, value=settings.method),
        "min_sigma": widgets.FloatSlider(settings.min_sigma, min=1, max=40, step=0.25),
        "max_sigma": widgets.FloatSlider(settings.max_sigma, min=1, max=60, step=0.25),
        "threshold": widgets.FloatLogSlider(settings.threshold, min=-3, max=0, step=0.02),
        "polarity": widgets.Dropdown(options=("both", "bright", "dark"), value=settings.polarity),
    }
    picture, message = widgets.Image(format="png"), widgets.Label()
    button = widgets.Button(
        description="Write detection.json", button_style="primary", layout={"width": "auto"}
    )

    def chosen() -> blobs.DetectionSettings:
        values = {name: control.value for name, control in controls.items()}
        # a browser's sliders snap to their steps: 0.2 comes back as 0.19952623, 10 as 9.999999
        values |= {name: round(values[name], 2) for name in ("min_sigma", "max_sigma")}
        values["threshold"] = float(f"{values['threshold']:.2g}")
        return replace(settings, **values)

    def redraw(_change: object = None) -> None:
        try:
            found = blobs.detect_cells(field, chosen())
            picture.value = figures.circled(shown, found)
            message.value = f"{len(found)} cells"
        except ValueError as error:
            message.value = str(error)

    def write(_button: object) -> None:
        try:
            chosen().write(path, "hand")
            message.value = "detection.json is written."
        except ValueError as error:
            message.value = f"Not written: {error}"

    for name, control in controls.items():
        control.description = name.replace("_", " ")
        control.observe(redraw, names="value")
    button.on_click(write)
    redraw()
    return widgets.HBox([widgets.VBox([*controls.values(), button, message]), picture])
