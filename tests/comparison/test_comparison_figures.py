"""Figures of step 05: what a reader must be able to tell from them."""

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from hsc_utils.comparison import figures
from hsc_utils.study import SLICES

NOTE = "Simulated demo data, not the paper's"


def text_boxes(figure: Figure) -> list:
    """Return where legends, axis labels and the note lie, as drawn."""
    figure.canvas.draw()
    texts = [*figure.texts]
    for axes in figure.axes:
        texts += [axes.get_legend()] if axes.get_legend() else []
        texts += [label for label in (axes.xaxis.label, axes.title) if label.get_text()]
    return [text.get_window_extent() for text in texts]


def scores_of(models: list[str], classes: list[str]) -> pd.DataFrame:
    names = ["auroc", "balanced_accuracy", *(f"auroc {name}" for name in classes)]
    rows = [(m, "", s, 0.8, 0.7, 0.9, np.nan, 1, 0.8, 0.8) for m in models for s in names]
    columns = [*("model", "against", "score", "estimate", "low", "high", "p_holm")]
    return pd.DataFrame(rows, columns=[*columns, "seeds", "seed_low", "seed_high"])


@pytest.mark.parametrize("count", [1, 3, 7])
@pytest.mark.parametrize("classes", [["a", "b"], ["LT-HSC", "ST-HSC", "MPP", "other"]])
def test_nothing_lies_over_a_legend_of_the_roc_curves(count, classes):
    models = [f"resnet18-slice{k}" for k in range(count)]
    line = np.array([0.0, 1.0])
    curves = dict.fromkeys(itertools.product(models, classes), (line, line))
    figure = figures.roc_curves(curves, scores_of(models, classes), NOTE)
    boxes = text_boxes(figure)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_slices_without_a_run_are_named_and_seeds_are_shown():
    runs = pd.DataFrame({"model": ["r", "r-slice0"], "channels": ["0+1+2", "0"]})
    table = scores_of(["r", "r-slice0"], [])
    table["seeds"], table["seed_low"], table["seed_high"] = 3, 0.75, 0.85
    gap = table.iloc[:1].assign(against="r-slice0", estimate=0.1, p_holm=0.01)
    figure = figures.slices(pd.concat([table, gap]), runs)
    left, right = figure.axes
    assert [text.get_text() for text in left.texts] == ["not trained"] * 5
    places = {round(text.get_position()[1]) for text in left.texts}
    assert places == {k for k, s in enumerate(SLICES) if s not in ("0", "0+1+2")}
    ticks = [line for axes in (left, right) for line in axes.lines if line.get_marker() == "|"]
    assert [list(line.get_xdata()) for line in ticks] == [[0.75, 0.85]] * 3
