"""The pictures of the page "What we planted"."""

import numpy as np
import pandas as pd

from hsc_utils.simulation import planted, specimen

CLASSES = ["LT-HSC", "ST-HSC", "MPP"]


def test_typical_cells_are_told_in_words():
    figure = planted.draw_examples()
    rows = [axes.texts[0].get_text() for axes in figure.axes[::4]]
    assert rows == CLASSES
    assert "15% in LT-HSC, 40% in ST-HSC, 80% in MPP" in figure.alt
    assert figure.get_figwidth() <= 8


def test_traits_are_drawn_apart_and_their_means_told():
    rng = np.random.default_rng(0)
    truth = pd.concat(
        specimen.draw_traits(rng, name, 200).assign(**{"class": name}) for name in CLASSES[::-1]
    )
    figure = planted.draw_distributions(truth)
    labels = [axes.get_xlabel().lower() for axes in figure.axes if axes.get_xlabel()]
    assert labels == [trait.meaning.lower() for trait in specimen.TRAITS.values()]
    means = truth.groupby("class")["nucleus_ratio"].mean()
    said = ", ".join(f"{means[name]:.3g}" for name in CLASSES)
    assert f"radius of the nucleus over the cell's {said}" in figure.alt
    legend = figure.axes[-1].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == CLASSES


def test_the_page_carries_the_words_of_its_pictures(tmp_path):
    rng = np.random.default_rng(0)
    truth = pd.concat(
        specimen.draw_traits(rng, name, 20).assign(**{"class": name, "source": name})
        for name in CLASSES
    )
    alts = {"cells": "Three cells, at last.", "traits": "Five traits: one each."}
    page = planted.page(truth, {"seed": 0, "days": 2}, alts)
    assert ":alt: Three cells, at last.\n" in page and ":alt: Five traits: one each.\n" in page
