"""The page of real cells shows what its table holds, and nothing else."""

import sys

import pandas as pd
import pytest

from hsc_utils.files import ROOT
from hsc_utils.study import Study

sys.path.insert(0, str(ROOT / "benchmarks"))

import leukocytes as page_of

HOW = ("within", "across")
GROUNDS = ("last on yellow", "first on white")
CLASSES = ("neutrophil", "lymphocyte", "monocyte", "eosinophil")


@pytest.fixture(scope="module")
def rows():
    return page_of.read_rows()


def test_the_page_is_that_of_the_table(rows):
    made = page_of.page(rows)
    assert page_of.PAGE.read_text() == made, "Run `python benchmarks/leukocytes.py`."


def test_the_table_is_of_the_listed_pictures(rows):
    listed = pd.read_csv(ROOT / "data" / "leukocytes.csv")
    counted = rows[rows["part"] == "count"]
    refused = page_of.number_of(rows, "refused", "pictures")["value"]
    assert counted["value"].sum() + refused == len(listed)
    by_class = counted.groupby(counted["what"].str.split().str[0])["value"].sum()
    short = listed["class"].value_counts() - by_class
    assert (short >= 0).all() and short.sum() == refused
    assert by_class["basophil"] == 1


def test_every_cell_is_judged_once_by_the_folds_and_the_one_of_its_class_never(rows):
    for name in page_of.MODELS:
        found = page_of.sensitivities(rows, "folds", name)
        assert "basophil" not in found.index
        total = rows.loc[rows["part"] == "count", "value"].sum()
        assert found["of"].sum() == total - 1
        scored = page_of.number_of(rows, "folds", f"{name} auroc")
        assert scored["samples"] == total - 1
        assert scored["low"] < scored["value"] < scored["high"]


def test_scores_agree_with_their_confusions(rows):
    for part in page_of.SUBSETS:
        found = page_of.sensitivities(rows, part, "resnet18")
        accuracy = page_of.number_of(rows, part, "resnet18 accuracy")["value"]
        assert found["right"].sum() / found["of"].sum() == pytest.approx(accuracy, abs=1e-4)


def test_the_ground_goes_with_the_class_and_a_network_fails_on_the_other(rows):
    """What the page says of the two grounds in words."""
    last, first = (page_of.number_of(rows, "ground", what)["value"] for what in GROUNDS)
    assert last + 1 == first
    shares = [page_of.number_of(rows, "ground", f"{c} on yellow")["value"] for c in CLASSES]
    assert max(shares) - min(shares) > 0.2
    for ground in ("yellow", "white"):
        within, across = (page_of.number_of(rows, "ground", f"{ground} auroc {how}") for how in HOW)
        assert within["samples"] == across["samples"]
        assert across["high"] < within["low"]
    assert page_of.number_of(rows, "attention", "lymphocyte excess")["high"] < 0


def test_the_page_says_what_it_does_not_know(rows):
    text = " ".join(page_of.page(rows).split())
    for words in ("not checked by experts", "one patient", "stained", "GPL-3.0", "zheng2018"):
        assert words in text
    assert "nothing here says anything about blood stem cells" in text


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.01, 0.1, "More of it"), (-0.1, 0.1, "not clearly more"), (-0.2, -0.1, "Less of it")],
)
def test_the_sentence_about_attention_follows_the_interval(rows, low, high, said):
    chosen = (rows["part"] == "attention") & (rows["what"] == "all classes excess")
    changed = rows.assign(
        low=rows["low"].where(~chosen, low), high=rows["high"].where(~chosen, high)
    )
    assert said in page_of.attention_sentence(changed)


def test_a_study_that_is_not_finished_is_named(tmp_path):
    with pytest.raises(FileNotFoundError):
        page_of.rows_of(Study(tmp_path))
