"""The paper's numbers, typed once more here from the preprint's text."""

from hsc_utils import paper


def test_counts_add_up_to_the_totals_in_the_text():
    counts = paper.counts()
    assert counts["images"].to_dict() == {"LT-HSC": 1047, "ST-HSC": 1457, "MPP": 1035}
    assert counts[["images", "cells"]].sum().tolist() == [3539, 74579]


def test_scores_hold_what_the_text_reports_and_no_more():
    scores = paper.scores()
    assert scores.loc[("image", "densenet169"), ["balanced_accuracy", "auroc"]].tolist() == [
        0.869,
        0.977,
    ]
    assert scores.loc[("cell", "densenet169"), ["balanced_accuracy", "auroc"]].tolist() == [
        0.893,
        0.995,
    ]
    assert len(scores) == 2


def test_every_row_names_its_source():
    for table in (paper.counts(), paper.scores(), paper.backbones()):
        assert table["source"].str.contains("rs-8118238").all()
