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
