"""Figures of step 05: what a reader must be able to tell from them."""

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from hsc_utils import paper
from hsc_utils.comparison import figures
from hsc_utils.study import SLICES

NOTE = "Simulated demo data, not the paper's"


def text_boxes(figure: Figure) -> list:
    """Return where legends, axis labels and the note lie, as drawn."""
    figure.draw_without_rendering()
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
@pytest.mark.parametrize("classes", [["a", "b"], ["MPP", "ST-HSC", "other", "LT-HSC"], [*"abcde"]])
def test_nothing_lies_over_a_legend_of_the_roc_curves(count, classes):
    models = [f"resnet18-slice{k}" for k in range(count)]
    line = np.array([0.0, 1.0])
    curves = dict.fromkeys(itertools.product(models, classes), (line, line))
    figure = figures.roc_curves(curves, scores_of(models, classes), NOTE)
    boxes = text_boxes(figure)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == paper.class_order(classes) and figure.get_figwidth() <= 8
    assert f"ROC curves of {count} models" in figure.alt and "ResNet-18 on slice 0: " in figure.alt
    assert "0.800 (0.700–0.900)" in figure.alt and "resnet" not in figure.alt


@pytest.mark.parametrize("lowest", [0.7, 0.42])
def test_dots_have_an_axis_from_guessing_on_unless_a_value_is_lower(lowest):
    table = scores_of(["resnet18-slice0+2", "densenet121"], ["MPP", "LT-HSC"])
    table.loc[table["score"] == "auroc MPP", ["estimate", "low"]] = lowest, np.nan
    figure = figures.auroc_dots(table, NOTE)
    (axes,) = figure.axes
    assert axes.get_xlim()[0] == pytest.approx(min(0.5, lowest) - 0.01)
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == ["mean of classes", "LT-HSC", "MPP"]
    models = [text.get_text() for text in figure.legends[0].get_texts()]
    assert models == ["ResNet-18 on slices 0 and 2", "DenseNet-121"]
    beside = [text.get_text() for text in axes.texts]
    assert beside.count(f"{lowest:.3f} (no interval)") == 2
    assert "DenseNet-121: 0.800 (0.700–0.900)" in figure.alt and NOTE in figure.alt


def test_differences_say_which_is_largest_and_how_many_are_shown():
    row = {"score": "auroc", "estimate": 0.1, "low": 0.05, "high": 0.15, "p_holm": 0.01}
    pairs = [("resnet50", "resnet18"), ("densenet121", "resnet18"), ("densenet121", "resnet50")]
    table = pd.DataFrame([row | {"model": m, "against": a, "seeds": 1} for m, a in pairs])
    table.loc[2, ["estimate", "low", "high", "p_holm"]] = -0.2, -0.5, 0.1, 0.3
    figure = figures.differences(table)
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names[1] == "DenseNet-121\nminus ResNet-18"
    assert "In AUROC, 2 of 3 differ" in figure.alt
    assert "largest is DenseNet-121 minus ResNet-50, -0.200 (-0.500–0.100)" in figure.alt


def test_slices_without_a_run_are_named_and_seeds_are_shown():
    runs = pd.DataFrame({"model": ["r", "r-slice0"], "channels": ["0+1+2", "0"]})
    table = scores_of(["r", "r-slice0"], [])
    table["seeds"], table["seed_low"], table["seed_high"] = 3, 0.75, 0.85
    gap = table.iloc[:1].assign(against="r-slice0", estimate=0.1, p_holm=0.01)
    names = ["slice 0, DIC", "slice 1, brightfield", "slice 2"]
    figure = figures.slices(pd.concat([table, gap]), runs, slice_names=names)
    rows = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert rows[3] == "slice 0, DIC\nand slice 1, brightfield" and rows[-1] == "all three"
    assert "slice 0, DIC: 0.800 (0.700–0.900)" in figure.alt
    left, right = figure.axes
    assert [text.get_text() for text in left.texts] == ["not trained"] * 5
    places = {round(text.get_position()[1]) for text in left.texts}
    assert places == {k for k, s in enumerate(SLICES) if s not in ("0", "0+1+2")}
    ticks = [line for axes in (left, right) for line in axes.lines if line.get_marker() == "|"]
    assert [list(line.get_xdata()) for line in ticks] == [[0.75, 0.85]] * 3
