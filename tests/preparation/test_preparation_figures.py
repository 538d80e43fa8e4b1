"""Figures of step 01: what a reader sees on them, and is told of them who cannot see."""

import numpy as np
import pandas as pd
import pytest

from hsc_utils import drawing
from hsc_utils.preparation import Acquisition, compose_rgb, figures

NOTE = "Simulated demo data, not the paper's"
CLASSES = ["LT-HSC", "ST-HSC", "MPP"]


def acquisition(count):
    pixels = np.random.default_rng(0).integers(300, 900, (count, 32, 32)).astype(np.uint16)
    return Acquisition(pixels, 12, ("DIC", "Brightfield", "Autofluorescence", "Far red")[:count])


def histograms(**columns):
    """Return a bell of intensities per channel and stage."""
    x = np.linspace(0, 1, 20)
    rows = [
        {"stage": stage, "channel": channel, "intensity": i, "share": s, "class": "MPP"} | columns
        for stage in ("raw", "8 bit")
        for channel in "RG"
        for i, s in zip(x, np.exp(-((x - 0.4) ** 2) / 0.02), strict=True)
    ]
    return pd.DataFrame(rows)


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def test_rgb_stands_as_models_see_it_beside_one_stretched_for_the_eye():
    two, four = acquisition(2), acquisition(4)
    rgbs = [compose_rgb(one) for one in (two, four)]
    examples = {"2 slices, MPP": (two, rgbs[0]), "4 slices, MPP": (four, rgbs[1])}
    figure = figures.slices(examples, NOTE)
    for row, rgb in zip((figure.axes[:6], figure.axes[6:]), rgbs, strict=True):
        assert [panel.get_title() for panel in row[-2:]] == [
            "RGB,\nas models see it",
            "RGB,\nstretched for the eye",
        ]
        seen, eased = (panel.images[0].get_array() for panel in row[-2:])
        assert np.array_equal(seen, rgb)
        assert np.array_equal(eased, drawing.stretched(rgb))
    assert titles(figure)[:2] == ["DIC", "Brightfield"]
    assert "Autofluorescence, Far red" in figure.alt
    assert f"blue {rgbs[0][..., 0].mean():.0f}, " in figure.alt
    assert figure.get_figwidth() <= 8


def test_a_contact_sheet_has_two_rows_per_class_in_the_paper_s_order():
    images = {name: [compose_rgb(acquisition(3))] * n for n, name in enumerate(sorted(CLASSES), 1)}
    figure = figures.contact_sheet(images, NOTE)
    labels = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert [label.split(",")[0] for label in labels] == np.repeat(CLASSES, 2).tolist()
    assert "stretched for the eye" in figure.get_suptitle()
    assert "1 of LT-HSC, 3 of ST-HSC, 2 of MPP" in figure.alt


def test_intensities_name_the_slices_and_where_they_peak():
    named = ("Slice 0, DIC", "Slice 1, Brightfield")
    figure = figures.intensity_histograms(histograms(), "class", NOTE, named)
    assert titles(figure)[:2] == ["Slice 0, DIC: raw", "Slice 1, Brightfield: raw"]
    assert "Slice 1, Brightfield from 0.42 to 0.42" in figure.alt
    assert "Slice 0 from 0.42" in figures.intensity_histograms(histograms(), "class").alt


@pytest.mark.parametrize("count", [3, 12])
def test_every_day_has_a_colour_of_its_own(count):
    days = [f"2024-03-{day:02}" for day in range(1, count + 1)]
    table = pd.concat([histograms(group=day) for day in days])
    lines = figures.intensity_histograms(table, "group", NOTE).axes[0].lines
    assert len({str(line.get_color()) for line in lines}) == count


def test_a_split_is_told_in_numbers():
    counts = pd.DataFrame(
        {"train": [6, 7], "validation": [2, 1], "test": [2, 3]}, ["MPP", "LT-HSC"]
    )
    figure = figures.split_bars(counts, NOTE)
    assert figure.alt.startswith("Stacked bars of images by class. LT-HSC: 7 training, 1 valid")
    assert "MPP: 6 training, 2 validation, 2 test" in figure.alt
    assert figure.alt.endswith(f"{NOTE}.")
