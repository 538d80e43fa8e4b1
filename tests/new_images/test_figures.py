import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import EllipseCollection

from hsc_utils import drawing
from hsc_utils.new_images import figures

CLASSES = ["LT-HSC", "ST-HSC", "MPP"]
NOTE = "Simulated"


def some_cells(count=40, seed=0):
    rng = np.random.default_rng(seed)
    chances = rng.dirichlet([0.4] * 3, count)
    cells = pd.DataFrame(chances, columns=[f"p_{name}" for name in CLASSES])
    cells["predicted"] = np.array(CLASSES)[chances.argmax(1)]
    cells["confidence"] = chances.max(1)
    cells["unlike"] = rng.random(count) < 0.3
    return cells.assign(y=rng.uniform(9, 90, count), x=rng.uniform(9, 110, count), sigma=8.0)


def some_pictures(*shape):
    return np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)


def drawn(figure):
    """Draw a figure to the end, as a notebook would; return its texts."""
    figure.savefig(io.BytesIO())
    assert figure.alt.endswith(f"{NOTE}.") and "_" not in figure.alt and "nan" not in figure.alt
    assert figure.get_figwidth() <= 8
    assert not plt.get_fignums()
    return {text.get_text() for text in figure.findobj(plt.Text) if text.get_text()}


def overlap(figure):
    """Tell whether a legend of the figure covers one of its panels, or its note."""
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    others = [axes.get_window_extent() for axes in figure.axes]
    others += [figure._supxlabel.get_window_extent()]
    return any(legend.overlaps(other) for other in others)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_fields_ring_each_cell_as_it_was_called(count):
    cells = some_cells()
    shown = {f"field {k}": (some_pictures(100, 120), cells) for k in range(count)}
    figure = figures.fields(shown, CLASSES, 0.8, NOTE)
    texts = drawn(figure)
    assert {*CLASSES, "undecided (below 80%)", "field 0", NOTE} <= texts
    assert not overlap(figure)
    colours = drawing.class_colours(CLASSES)
    likes, unlikes = (c for c in figure.axes[0].collections if isinstance(c, EllipseCollection))
    assert len(likes.get_offsets()) == (~cells["unlike"]).sum()
    assert likes.get_linestyle() != unlikes.get_linestyle()
    expected = cells[~cells["unlike"]]
    expected = expected["predicted"].map(colours).where(expected["confidence"] >= 0.8, "#999999")
    np.testing.assert_allclose(
        likes.get_edgecolor(), [plt.matplotlib.colors.to_rgba(c) for c in expected]
    )
    undecided = (cells["confidence"] < 0.8).sum()
    said = f"{undecided} undecided, {cells['unlike'].sum()} unlike any cell of training"
    assert figure.alt.count(said) == count


def test_a_field_without_a_cell_is_shown_as_it_is():
    figure = figures.field(some_pictures(60, 60), some_cells(0), CLASSES, 0.5, "empty", NOTE)
    assert "empty" in drawn(figure) and "Field 1: no cell." in figure.alt


def test_many_classes_keep_their_legend_off_the_field():
    names = [f"kind {k} of leukocytes" for k in range(5)]
    cells = some_cells().assign(predicted=names[0])
    figure = figures.field(some_pictures(60, 60), cells, names, 0.5, "a field", NOTE)
    drawn(figure)
    assert not overlap(figure)


def test_the_sheet_shows_each_cell_once_surest_first():
    cells = some_cells(60)
    figure = figures.sheet(some_pictures(60, 12, 12), cells, CLASSES, NOTE)
    texts = drawn(figure)
    assert "LT-HSC\nsurest" in texts and "MPP\nleast sure" in texts
    assert not overlap(figure)
    shown = [axes.get_title() for axes in figure.axes if axes.images]
    sure = [float(text.rstrip("%")) for text in shown[:8]]
    assert sure == sorted(sure, reverse=True)
    assert f"LT-HSC surest: {sure[-1]:.0f}% to {sure[0]:.0f}%" in figure.alt
    assert len(shown) <= 2 * 8 * 3


def test_a_class_of_one_cell_has_no_least_sure_one():
    cells = some_cells(1)
    texts = drawn(figures.sheet(some_pictures(1, 12, 12), cells, CLASSES, NOTE))
    assert f"{cells['predicted'][0]}\nsurest" in texts
    assert not any("least sure" in text for text in texts)


def test_coverage_marks_what_was_chosen():
    asked = np.array([0.0, 0.5, 0.8, 0.99])
    table = pd.DataFrame({"confidence": asked, "coverage": [1, 0.9, 0.6, 0.0]})
    table = table.assign(accuracy=[0.8, 0.85, 0.95, np.nan], low=np.nan, high=np.nan)
    figure = figures.coverage(table, 0.8, NOTE)
    assert "chosen: 80%" in drawn(figure)
    (marked,) = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert (marked.get_xdata().item(), marked.get_ydata().item()) == (0.6, 0.95)
    assert "60% of the samples are given a class, and 95% of these rightly." in figure.alt
    none = figures.coverage(table, 0.99, NOTE)
    assert "99% calls none" in drawn(none) and "no sample is given a class" in none.alt


def test_distances_tell_the_share_beyond():
    by_set = {"blurred": [0.1], "new images": [2.0, 3.0], "test": [0.5, 0.9, 1.2, 0.8]}
    figure = figures.distances(by_set, note=NOTE)
    assert {"25.0%", "100.0%", "0.0%", "threshold"} <= drawn(figure)
    shown = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert shown == ["test", "new images", "blurred"]  # what is real comes first
    assert "test 25.0%, new images 100.0%, blurred 0.0%" in figure.alt


def test_probabilities_say_what_is_known_and_what_is_not():
    table = some_cells(4)
    table["called"] = ["LT-HSC", "undecided", "MPP", "undecided"]
    table["class"] = ["LT-HSC", "", "ST-HSC", "MPP"]
    table["source"] = [f"{k}.oir" for k in range(4)]
    table["cells"] = pd.array([3, 1, None, 0], "Int64")
    table["warnings"] = ["", "size in pixels: 9 × 9", "", ""]
    table.loc[3, [f"p_{name}" for name in CLASSES]] = np.nan
    figure = figures.probabilities(table, CLASSES, NOTE)
    texts = drawn(figure)
    assert {"undecided", "not known", "⚠", "–", "3.oir", NOTE} <= texts
    assert not overlap(figure)
    wrong = [
        t for t in figure.findobj(plt.Text) if t.get_text() == "MPP" and t.get_color() != "0.2"
    ]
    assert any(text.get_weight() == "bold" for text in wrong)
    assert "Called are 1 LT-HSC, 1 MPP, 2 undecided." in figure.alt
    assert "Of 2 images that are called and whose class is known, 1 called wrongly" in figure.alt
