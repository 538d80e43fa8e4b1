"""Figures of step 02: what a reader sees on them, and is told of them who cannot see."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from hsc_utils.detection import figures

NOTE = "Simulated demo data, not the paper's"
CLASSES = ["LT-HSC", "ST-HSC", "MPP"]


@pytest.fixture
def scores():
    """Return two methods at four settings, the chosen one of each first."""
    rows = [
        (method, low, 12.0, threshold, f1, f1 - 0.1, f1 + 0.05)
        for method, best in (("log", 0.9), ("dog", 0.8))
        for f1, low, threshold in (
            (best, 8.0, 0.3),
            (best - 0.1, 8.0, 0.1),
            (best - 0.2, 5.0, 0.3),
            (best - 0.3, 5.0, 0.1),
        )
    ]
    names = ["method", "min_sigma", "max_sigma", "threshold", "f1", "precision", "recall"]
    return pd.DataFrame(rows, columns=names)


def test_a_map_frames_the_chosen_setting_and_spans_its_own_values(scores):
    figure = figures.settings_map(scores, "f1", "F1", NOTE)
    *panels, bar = figure.axes
    for panel in panels:
        assert panel.collections[0].get_clim() == pytest.approx((0.5, 0.9))
        places = {patch.get_xy() for patch in panel.patches if isinstance(patch, Rectangle)}
        assert places == {(1, 1)}  # the second threshold, the second range of sizes
    assert bar.get_ylabel() == "F1"
    assert "LoG from 0.60 to 0.90, 0.90 at the chosen sigmas 8 to 12 px" in figure.alt


def test_a_setting_without_neighbours_has_a_place_but_no_number(scores):
    figure = figures.settings_map(scores.head(1).assign(stability=np.nan), "stability", "F1", NOTE)
    assert [text.get_text() for text in figure.axes[0].texts] == []
    assert [patch.get_xy() for patch in figure.axes[0].patches] == [(0, 0)] * 2


def test_numbers_of_a_map_can_be_read_on_every_colour(scores):
    figure = figures.settings_map(scores, "f1", "F1", NOTE)
    mesh, texts = figure.axes[0].collections[0], figure.axes[0].texts
    light = mesh.get_facecolors()[:, :3] @ [0.2126, 0.7152, 0.0722]
    for text, behind in zip(texts, light, strict=True):
        assert abs(behind - (text.get_color() == "w")) > 0.3


def test_precision_and_recall_name_what_was_chosen(scores):
    figure = figures.precision_recall(scores, NOTE)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["LoG: F1 0.90", "DoG: F1 0.80"]
    assert "LoG: F1 0.90, precision 0.80, recall 0.95" in figure.alt


def test_overlays_say_how_many_are_found_and_how_many_there_are():
    field = np.random.default_rng(0).integers(90, 160, (40, 40, 3), dtype=np.uint8)
    cell = np.array([[20.0, 20.0, 5.0]])
    images = {"MPP": field, "LT-HSC": field}
    found = {"log": [cell, np.repeat(cell, 2, axis=0)], "doh": [np.empty((0, 3)), cell]}
    truth = [cell[:, :2], cell[:, :2]]
    figure = figures.overlays(images, found, truth, NOTE)
    assert figure.axes[0].get_title() == "LoG: 2 found, 1 in view"  # LT-HSC comes first
    assert figure.axes[3].get_title() == "DoH: 0 found, 1 in view"
    assert "LT-HSC, 1 in view (LoG 2, DoH 1); MPP, 1 in view (LoG 1, DoH 0)" in figure.alt
    assert "stretched for the eye" in figure.get_suptitle()
    unknown = figures.overlays(images, found, None, NOTE)
    assert "in view" not in unknown.alt and "true" not in unknown.alt + unknown.get_suptitle()


def test_cells_per_image_stand_beside_the_paper_s_mean_in_its_order():
    counts = pd.DataFrame({"class": ["MPP", "MPP", "ST-HSC", "LT-HSC"], "cells": [2, 3, 9, 4]})
    figure = figures.cells_per_image(counts, pd.Series({"ST-HSC": 34.1}), NOTE)
    labels = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert labels == CLASSES
    assert "LT-HSC 4.0, ST-HSC 9.0 (the paper's mean: 34.1), MPP 2.5" in figure.alt
    again = figures.cells_per_image(counts, pd.Series({"ST-HSC": 34.1}), NOTE)
    places = [f.axes[0].collections[0].get_offsets().tolist() for f in (figure, again)]
    assert places[0] == places[1]


def test_sizes_and_patches_of_classes_come_in_the_paper_s_order():
    sigmas = np.tile([5.0, 6.0, 7.0, 7.0], 3)
    cells = pd.DataFrame({"class": np.repeat(sorted(CLASSES), 4), "sigma": sigmas})
    figure = figures.size_distribution(cells, 48, NOTE)
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names == CLASSES
    assert "19.8 px, have 50% of LT-HSC, 50% of ST-HSC, 50% of MPP" in figure.alt
    patches = np.random.default_rng(0).integers(0, 255, (3, 16, 16, 3), dtype=np.uint8)
    sheet = figures.patch_sheet(dict.fromkeys(sorted(CLASSES), patches), NOTE)
    assert [axes.get_title(loc="left") for axes in sheet.axes] == CLASSES
    assert "3 of LT-HSC, 3 of ST-HSC, 3 of MPP" in sheet.alt


def test_a_scan_of_sizes_names_its_best_range():
    scan = pd.DataFrame({"low": [2.0, 4.0], "high": [4.0, 9.0], "agreement": [0.2, 0.7]})
    figure = figures.size_scan(scan, [5.0, 8.0], [10.0, 16.0], NOTE)
    assert "The best, sigma 4.0 to 9.0 px, reaches 0.70; tried below are 5 to 16 px" in figure.alt
