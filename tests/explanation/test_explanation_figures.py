"""Figures of step 06: what a reader must be able to tell from them."""

import numpy as np
import pandas as pd

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
    drawn = figures.shares(means, claims, NOTE).axes
    heights = [[bars[0].get_ydata().item() for bars in axes.containers] for axes in drawn]
    assert heights == [[0, 0.1], [0.2, 0.3, 0.4]]
    names = [text.get_text() for text in drawn[-1].get_legend().get_texts()]
    assert names == ["Grad-CAM", "by chance", "another cell's map"]


def test_classes_with_odd_names_are_written_as_they_are():
    names = ["CD34+", "CD34-", "NO", 'mouse\'s "old" $B$ cells']
    rows = [(name, number, 0.5, 0.4, 0.6) for name in names for number in ("share", "area")]
    means = pd.DataFrame(rows, columns=["class", "number", "mean", "low", "high"])
    shares = figures.shares(means, [("inside the cell", "share", "area")], NOTE)
    shares.canvas.draw()
    assert [tick.get_text() for tick in shares.axes[0].get_xticklabels()] == names
    examples = pd.DataFrame({"class": names, "predicted": names[::-1], "probability": 0.9})
    pixels, flat = np.zeros((4, 16, 16, 3), np.uint8), np.zeros((4, 16, 16))
    figure = figures.cell_examples(examples, pixels, flat, flat > 0, NOTE)
    figure.canvas.draw()
    said = [text.get_text() for axes in figure.axes[::5] for text in axes.texts]
    assert 'mouse\'s "old" \\$B\\$ cells' in said[3] and "taken for NO" in said[1]
