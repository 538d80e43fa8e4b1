import numpy as np
import pandas as pd
import pytest

from hsc_utils import metrics
from hsc_utils.training import report

CLASSES = ["a", "b"]


@pytest.fixture
def predictions():
    """Two cells in each of six images; one image of each class is wrong, with confidence."""
    rows = []
    for image, (true, p_a) in enumerate([("a", 0.9), ("a", 0.7), ("a", 0.2)]):
        rows += [(f"{image}_{k}", f"i{image}", true, "test", p_a + k / 20) for k in (0, 1)]
    for image, (true, p_a) in enumerate([("b", 0.1), ("b", 0.3), ("b", 0.9)], start=3):
        rows += [(f"{image}_{k}", f"i{image}", true, "test", p_a - k / 20) for k in (0, 1)]
    table = pd.DataFrame(rows, columns=["id", "image_id", "class", "split", "p_a"])
    return table.assign(p_b=1 - table["p_a"])


def scores_of(table):
    arguments = (table["class"], metrics.probability_matrix(table, CLASSES), CLASSES)
    intervals = metrics.intervals(*arguments, table["image_id"], resamples=200)
    return metrics.score(*arguments) | {"intervals": intervals}


def test_votes_are_the_mean_of_an_images_cells(predictions):
    votes = report.vote(predictions, CLASSES).set_index("image_id")
    assert votes.loc["i0", "p_a"] == pytest.approx(0.925)
    assert votes["cells"].tolist() == [2] * 6
    assert np.allclose(votes[["p_a", "p_b"]].sum(axis=1), 1)


def test_the_most_confident_mistakes_come_first(predictions):
    wrong = report.confident_mistakes(predictions, CLASSES, count=3)
    assert wrong["id"].tolist() == ["5_0", "5_1", "2_0"]
    assert wrong["predicted"].tolist() == ["a", "a", "b"]
    assert (predictions.loc[wrong.index, "id"] == wrong["id"]).all()


def test_the_sentence_counts_what_the_table_holds(predictions):
    text = report.sentence(scores_of(predictions), CLASSES, "cells")
    assert "Of 12 test cells, 67% are given their class" in text
    assert "(always naming the commonest would reach 50%)" in text
    assert "(2 of 6)" in text


def test_the_sentence_admits_guessing_and_absent_classes(predictions):
    guesses = predictions.assign(p_a=0.5, p_b=0.5)
    assert "includes guessing" in report.sentence(scores_of(guesses), CLASSES, "cells")
    scores = scores_of(predictions) | {"left_out": ["c"]}
    assert "No test sample belongs to c" in report.sentence(scores, CLASSES, "cells")


def test_the_papers_scores_stand_beside_its_own_model_only(predictions):
    scores = scores_of(predictions)
    ours = report.score_table(scores, "cell", "densenet169")["paper, on its own data"]
    assert ours.iloc[0] == "0.893"
    other = report.score_table(scores, "cell", "resnet18")["paper, on its own data"]
    assert set(other) == {"not given"}


def test_levels_are_compared_on_the_images_both_know(predictions, tmp_path):
    votes = report.vote(predictions, CLASSES)
    alone = report.levels_side_by_side(votes, tmp_path, CLASSES)
    assert alone.index.tolist() == ["cells, voted into images"]
    votes.drop(index=0).to_parquet(tmp_path / "predictions.parquet")
    both = report.levels_side_by_side(votes, tmp_path, CLASSES)
    assert both["images"].tolist() == [5, 5]
    votes.assign(image_id="other_" + votes["image_id"]).to_parquet(tmp_path / "predictions.parquet")
    strangers = report.levels_side_by_side(votes, tmp_path, CLASSES)
    assert strangers.index.tolist() == ["cells, voted into images"]
    votes.assign(split="train").to_parquet(tmp_path / "predictions.parquet")
    with pytest.raises(ValueError, match="another split"):
        report.levels_side_by_side(votes, tmp_path, CLASSES)


def test_curves_agree_with_the_scores(predictions):
    curves = report.curves(predictions, CLASSES)
    scores = scores_of(predictions)
    for name in CLASSES:
        area = np.trapezoid(curves[name]["tpr"], curves[name]["fpr"])
        assert area == pytest.approx(scores["per_class"][name]["auroc"])
        assert curves[name]["share"] == 0.5
    assert list(report.curves(predictions, [*CLASSES[:1]])) == ["a"]
