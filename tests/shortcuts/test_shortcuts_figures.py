"""Figures of step 07: what the audit's numbers look like, and what is told of them."""

import numpy as np
import pandas as pd
import pytest

from hsc_utils.shortcuts import figures

NOTE = "Simulated demo data, not the paper's"


def scores(level, names, key, aurocs):
    table = pd.DataFrame({key: names, "auroc": aurocs, "level": level})
    return table.assign(low=table["auroc"] - 0.1, high=table["auroc"] + 0.1)


@pytest.mark.parametrize("key", ["known", "view"])
def test_levels_share_their_rows_and_what_is_unknown_is_said(key):
    draw = figures.facts if key == "known" else figures.view_scores
    cells = scores("cell", ["day", "hour"], key, [0.9, np.nan])
    images = scores("image", ["day", "size"], key, [0.4, 0.5])
    figure = draw(pd.concat([cells, images], ignore_index=True), NOTE)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["day", "hour", "size"]
    assert [text.get_text() for text in axes.texts] == ["cells: not known"]
    assert "Cells: day 0.90, hour not known; images: day 0.40, size 0.50." in figure.alt
    assert figure.get_figwidth() <= 8


def test_thirds_name_level_property_and_score():
    third = ["lowest", "middle", "highest"]
    parts = [
        scores("cell", third, "third", [0.7, 0.8, 0.9]).assign(property=name)
        for name in ["sharpness", "neighbours", "distance from the border", "size", "hour"]
    ]
    figure = figures.thirds(pd.concat(parts), NOTE)
    assert len([axes for axes in figure.axes if axes.axison]) == 5
    assert "Cells by sharpness (lowest, middle, highest): 0.70, 0.80, 0.90;" in figure.alt
    assert figure.get_figwidth() <= 8


def test_verdicts_are_counted_and_alarms_are_named():
    row = {"level": "cell", "key": "count", "question": "Does the number tell?", "reference": 0.5}
    row |= {"measured": "AUROC of the number", "estimate": 0.9, "low": 0.8, "high": 0.95}
    untold = {"key": "day", "verdict": "cannot be told", "estimate": np.nan, "low": np.nan}
    rows = [
        row | {"verdict": "alarm"},
        row | {"level": "image", "verdict": "no sign", "estimate": 0.4, "low": 0.3},
        row | untold | {"high": np.nan, "question": "Does the day tell?"},
        row | {"key": "lean", "reference": 0.0, "verdict": "no sign", "estimate": 0.1, "low": 0},
    ]
    figure = figures.verdicts(pd.DataFrame(rows), NOTE)
    assert "by verdict: 1 alarm, 2 no sign, 1 cannot be told." in figure.alt
    told = "Alarm for cells: Does the number tell? AUROC of the number: 0.90."
    assert told in figure.alt and "nan" not in figure.alt
    questions = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert questions == ["Does the day tell?", "Does the number tell?"]
