"""Figures of steps 03 and 04: what they show, in what order, and in what words."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsc_utils.training import figures

NOTE = "Simulated demo data, not the paper's"
CLASSES = ["MPP", "LT-HSC", "ST-HSC"]


def some_pictures(*shape):
    return np.random.default_rng(0).integers(90, 120, (*shape, 8, 8, 3), np.uint8)


def test_augmented_samples_stand_below_the_true_and_the_stretched_ones():
    pictures = some_pictures(3, 4)
    figure = figures.augmented(pictures, NOTE)
    shown = np.stack([axes.images[0].get_array() for axes in figure.axes]).reshape(4, 4, 8, 8, 3)
    assert (shown[0] == pictures[0]).all()
    assert shown[1:].min() == 0 and shown[1:].max() == 255
    # one stretch for all: what is as bright stays as bright, in whatever row
    pairs = set(zip(pictures[..., 0].flat, shown[1:, ..., 0].flat, strict=True))
    assert len(pairs) == len({stored for stored, _ in pairs})
    assert "4 training samples" in figure.alt and "2 epochs" in figure.alt


@pytest.mark.parametrize("epochs", [1, 3, 40])
def test_learning_curves_count_epochs_in_integers(epochs):
    numbers = np.arange(1, epochs + 1)
    history = pd.DataFrame({"epoch": numbers, "train_loss": 1 / numbers, "val_loss": 0.9 / numbers})
    history["val_auroc"], history["val_balanced_accuracy"] = 1 - 0.4 / numbers, 1 - 0.5 / numbers
    figure = figures.learning_curves(history, NOTE)
    figure.draw_without_rendering()
    for axes in figure.axes:
        assert all(tick == round(tick) for tick in axes.get_xticks())
    assert f"to the kept one, {epochs}, the loss" in figure.alt
    assert f"AUROC from 0.60 to {1 - 0.4 / epochs:.2f}" in figure.alt


@given(st.permutations(CLASSES))
def test_a_confusion_matrix_means_the_same_in_whatever_order_it_comes(order):
    counts = pd.DataFrame([[8, 2, 0], [0, 0, 0], [1, 4, 5]], CLASSES, CLASSES)
    figure = figures.confusion(counts.loc[order, order].to_numpy(), order, NOTE)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["LT-HSC", "ST-HSC", "MPP"]
    texts = [text.get_text() for text in axes.texts]
    assert texts == [*"–––", "4\n40%", "5\n50%", "1\n10%", "2\n20%", "0\n0%", "8\n80%"]
    assert "5 of 10 ST-HSC, 8 of 10 MPP." in figure.alt  # of LT-HSC there is none
    assert "The commonest mistake: 4 ST-HSC taken for LT-HSC." in figure.alt


def test_a_perfect_confusion_matrix_has_no_mistake_to_tell():
    assert "mistake" not in figures.confusion(np.eye(3, dtype=int), CLASSES).alt


def test_curves_come_in_the_order_of_readers_with_their_numbers():
    line = np.linspace(0, 1, 5)
    curve = {"fpr": line, "tpr": line, "recall": line, "precision": line, "share": 0.25}
    curves = {
        name: curve | {"auroc": 0.9 + k / 100, "average_precision": 0.8}
        for k, name in enumerate(CLASSES)
    }
    figure = figures.roc_and_precision_recall(curves, NOTE)
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["LT-HSC: 0.910", "ST-HSC: 0.920", "MPP: 0.900"]
    assert "MPP: AUROC 0.90, average precision 0.80 (guessing: 0.25)" in figure.alt
    assert "of one class alone" in figures.roc_and_precision_recall({}, NOTE).alt


def test_reliability_tells_of_the_largest_group():
    table = pd.DataFrame({"confidence": [0.5, 0.9], "accuracy": [0.4, 0.75], "samples": [3, 12]})
    figure = figures.reliability(table.assign(probabilities="as predicted: error 0.050"), NOTE)
    assert "As predicted: error 0.050; of the largest group, 12 samples" in figure.alt
    assert "mean probability of 0.90, 75% are right" in figure.alt


def test_mistakes_are_named_and_counted():
    table = pd.DataFrame({"class": ["MPP"] * 7, "predicted": ["LT-HSC"] * 6 + ["ST-HSC"]})
    table["confidence"] = np.linspace(0.9, 0.6, 7)
    figure = figures.mistakes(some_pictures(7), table, NOTE)
    assert sum(len(axes.images) for axes in figure.axes) == 7
    assert "60% to 90%: 6 MPP taken for LT-HSC, 1 MPP taken for ST-HSC." in figure.alt


def test_without_a_mistake_it_says_so():
    none = pd.DataFrame({"class": [], "predicted": [], "confidence": []})
    figure = figures.mistakes(some_pictures(0), none, NOTE)
    assert "No sample is classified wrongly" in figure.alt
    assert "No sample" in figure.axes[0].texts[0].get_text()
