"""Figures of step 06: what a reader must be able to tell from them."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from hsc_utils import drawing
from hsc_utils.explanation import figures

NOTE = "Simulated demo data, not the paper's"


def test_every_map_has_the_same_scale_and_a_zero_map_says_so():
    examples = pd.DataFrame(
        {"class": ["a", "a"], "predicted": ["a", "b"], "probability": [0.9, 0.6]}
    )
    rng = np.random.default_rng(0)
    patches = rng.integers(0, 255, (2, 32, 32, 3), dtype=np.uint8)
    maps = np.stack([rng.random((32, 32)) * 0.2, np.zeros((32, 32))])
    figure = figures.cell_examples(examples, patches, maps, maps > 1, NOTE)
    overlays = [axes for axes in figure.axes if len(axes.images) == 2]
    assert len(overlays) == 2
    assert all(axes.images[1].get_clim() == (0, 1) for axes in overlays)
    bar = next(axes for axes in figure.axes if axes.get_label() == "<colorbar>")
    assert bar.get_ylim() == (0, 1)
    said = [[text.get_text() for text in axes.texts] for axes in overlays]
    assert said == [[], ["no positive evidence"]]
    # nothing of the zero map is coloured
    assert overlays[1].images[1].to_rgba(maps[1])[..., 3].max() == 0


def test_shares_are_drawn_beside_one_or_two_numbers_of_chance():
    numbers = ("share", "area", "share_nucleus", "area_nucleus", "other_nucleus")
    rows = [("a", number, k / 10, k / 10, k / 10) for k, number in enumerate(numbers)]
    means = pd.DataFrame(rows, columns=["class", "number", "mean", "low", "high"])
    claims = [("in the cell", "share", "area"), ("on the nucleus", *numbers[2:])]
    figure = figures.shares(means, claims, NOTE)
    heights = [[bars[0].get_ydata().item() for bars in axes.containers] for axes in figure.axes]
    assert heights == [[0, 0.1], [0.2, 0.3, 0.4]]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["Grad-CAM", "by chance", "another cell's map"]


def test_classes_with_odd_names_are_written_as_they_are():
    names = ["CD34+", "CD34-", "NO", 'mouse\'s "old" $B$ cells']
    rows = [(name, number, 0.5, 0.4, 0.6) for name in names for number in ("share", "area")]
    means = pd.DataFrame(rows, columns=["class", "number", "mean", "low", "high"])
    shares = figures.shares(means, [("inside the cell", "share", "area")], NOTE)
    shares.draw_without_rendering()
    assert [tick.get_text() for tick in shares.axes[0].get_xticklabels()] == names
    examples = pd.DataFrame({"class": names, "predicted": names[::-1], "probability": 0.9})
    pixels, flat = np.zeros((4, 16, 16, 3), np.uint8), np.zeros((4, 16, 16))
    figure = figures.cell_examples(examples, pixels, flat, flat > 0, NOTE)
    figure.draw_without_rendering()
    said = [text.get_text() for axes in figure.axes[: 4 * 6 : 6] for text in axes.texts]
    assert names[3] in said[3] and "taken for NO" in said[1]
    assert not any(text.get_parse_math() for axes in figure.axes for text in axes.texts)


@pytest.fixture
def cells():
    """Return four cells of three classes, out of the paper's order, with patches and maps."""
    examples = pd.DataFrame(
        {
            "class": ["LT-HSC", "MPP", "MPP", "ST-HSC"],
            "predicted": ["LT-HSC", "MPP", "ST-HSC", "ST-HSC"],
            "probability": [0.9, 0.8, 0.7, 0.6],
            "gini": [0.1, 0.2, 0.3, 0.4],
        }
    )
    rng = np.random.default_rng(0)
    maps = rng.random((4, 32, 32))
    return examples, rng.integers(0, 255, (4, 32, 32, 3), dtype=np.uint8), maps, maps > 0.5


def test_cells_are_shown_as_models_see_them_and_stretched_in_the_paper_s_order(cells):
    names = ("Slice 0, DIC", "Slice 1, Brightfield", "Slice 2")
    figure = figures.cell_examples(*cells, NOTE, names)
    titles = [axes.get_title().replace("\n", " ") for axes in figure.axes[:6]]
    assert titles[:2] == ["RGB, as models see it", "RGB, stretched for the eye"]
    assert titles[3:] == [*names]
    for row, position in enumerate([0, 3, 1, 2]):
        seen, eased = (axes.images[0].get_array() for axes in figure.axes[6 * row : 6 * row + 2])
        assert np.array_equal(seen, cells[1][position])
        assert np.array_equal(eased, drawing.stretched(cells[1][position]))
    said = "LT-HSC correct (p = 0.90); ST-HSC correct (p = 0.60); MPP correct (p = 0.80); MPP taken"
    assert said in figure.alt


def test_images_are_shown_as_models_see_them_and_stretched(cells):
    figure = figures.image_examples(*cells, NOTE)
    labels = [axes.texts[0].get_text().replace("\n", " ") for axes in figure.axes[:12:4]]
    assert labels == ["RGB, as models see it", "RGB, stretched for the eye", "Grad-CAM"]
    assert [axes.get_title() for axes in figure.axes[8:12]] == [
        f"Gini {gini}0" for gini in (0.1, 0.4, 0.2, 0.3)
    ]
    assert "ST-HSC correct (p = 0.60), Gini 0.40" in figure.alt


def test_axes_say_what_they_count_and_the_words_tell_all_classes():
    numbers = ("share", "area", "pointing", "pointing_chance", "gini", "gini_shifted")
    rows = [(name, n, 0.9, 0.7, 1.1) for name in ("MPP", "all classes", "LT-HSC") for n in numbers]
    means = pd.DataFrame(rows, columns=["class", "number", "mean", "low", "high"])
    claims = [("inside", *numbers[:2]), ("highest point", *numbers[2:4]), ("Gini", *numbers[4:])]
    figure = figures.shares(means, claims, NOTE)
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "Share of Grad-CAM, 0 to 1",
        "Share of cells, 0 to 1",
        "Gini, 0 (even) to 1",
    ]
    ticks = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert ticks == ["all classes", "LT-HSC", "MPP"]
    assert all(axes.get_ylim()[1] <= 1.02 for axes in figure.axes)  # a share ends at 1
    assert "For all classes, inside, Grad-CAM: 0.90" in figure.alt


def test_checks_are_told_in_numbers_and_layers_in_words():
    by_layer = pd.DataFrame({"layer": ["fc", "layer4", "conv1"], "mean": [0.5, 0.2, 0.1]})
    by_layer = by_layer.assign(low=0.0, high=0.6)
    correlations = by_layer.assign(scrambling=0, correlation=by_layer["mean"])
    figure = figures.randomisation(by_layer, correlations, 0.43, NOTE)
    told = (
        "none 1.00, classifier 0.50, block 4 0.20, first layer 0.10; with another cell's map 0.43"
    )
    assert told in figure.alt
    curve = pd.DataFrame({"mean": [0.8, 0.3], "low": [0.7, 0.2], "high": [0.9, 0.4]})
    ways = ("what Grad-CAM marks", "the same shape elsewhere", "another cell's map")
    erased = figures.deletion([0, 0.5], dict.fromkeys(ways, curve), NOTE)
    assert "up to 50% of the patch" in erased.alt
    assert "what Grad-CAM marks from 0.80 to 0.30" in erased.alt


def test_nothing_written_on_a_figure_is_cut_off(cells):
    _, patches, maps, masks = cells
    drawn = [
        figures.cell_examples(*cells, NOTE),
        figures.image_examples(*cells, NOTE),
        figures.resolutions(patches[0], {32: maps[0], 16: maps[1], 8: maps[2]}, 64, NOTE),
        figures.mask_check(patches, {"used below": masks, "segmentation": ~masks}, NOTE),
    ]
    assert "4 × 4 at stride 16 px" in drawn[2].alt
    assert f"used below, on average {masks.mean():.0%} of the patch" in drawn[3].alt
    for figure in drawn:
        assert "_" not in figure.alt and figure.get_figwidth() <= 8
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        written = [axes.title for axes in figure.axes] + [t for a in figure.axes for t in a.texts]
        for text in written:
            box = text.get_window_extent(canvas.get_renderer())
            assert box.x0 >= 0 and box.y0 >= 0, text.get_text()
            assert box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text.get_text()
