"""The committed record of `make traps`: what the audit found in studies whose shortcut is known."""

import re

import pandas as pd
import pytest

from hsc_utils.files import ROOT

RECORD, PAGE = ROOT / "book" / "traps.csv", ROOT / "book" / "traps.md"
TRAPS = ("day", "background", "density", "border")


@pytest.fixture(scope="module")
def rows():
    found = pd.read_csv(RECORD)
    return found.assign(alarm=found["verdict"] == "alarm")


def test_every_trap_was_set_as_often_as_none(rows):
    studies = rows.groupby("trap")["seed"].nunique()
    assert set(studies.index) == {"clean", *TRAPS}
    assert len(set(studies)) == 1
    assert studies.min() >= 10
    assert len(set(rows["code"])) == 1


def test_false_alarms_are_as_rare_as_the_audit_says(rows):
    silent = rows[rows["expected"] == "false"]
    assert silent["alarm"].mean() < 0.02
    # all questions of a study together: one in twenty, here of few studies
    assert silent[silent["trap"] == "clean"].groupby("seed")["alarm"].any().mean() <= 0.2


@pytest.mark.parametrize("trap", TRAPS)
def test_no_trap_is_overlooked(rows, trap):
    right = rows[(rows["trap"] == trap) & (rows["expected"] != "false")]
    assert right.groupby("seed")["alarm"].any().mean() >= 0.9


def test_days_held_out_show_what_a_splendid_score_hides(rows):
    of_cells = rows[rows["level"] == "cell"].drop_duplicates(["trap", "seed"])
    reached = of_cells.groupby("trap")["network_auroc"].mean()
    assert reached["day"] > reached["clean"]
    loss = rows[rows["key"] == "day_held_out"].groupby("trap")["estimate"].mean()
    assert loss["day"] > 0.1
    assert loss.drop("day").abs().max() < 0.1


def test_the_page_says_what_the_table_holds(rows):
    silent = rows.loc[rows["expected"] == "false", "alarm"]
    missed = ~rows.loc[rows["expected"] == "must", "alarm"]
    said = re.findall(r"\| (\d+) of (\d+) \(", PAGE.read_text())
    assert (str(silent.sum()), str(len(silent))) == said[0]
    assert (str(missed.sum()), str(len(missed))) == said[3]
