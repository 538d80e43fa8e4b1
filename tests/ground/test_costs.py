"""The page "What it costs" shows what was measured, and nothing else."""

import re
import sys

import pytest

from hsc_utils.files import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import costs


def test_the_page_holds_the_table_of_the_rehearsal():
    text = costs.PAGE.read_text()
    assert costs.page(text, costs.measured_rows()) == text, "Run `python benchmarks/costs.py`."


def test_every_figure_says_whether_it_was_measured():
    rows = costs.measured_rows()
    lines = costs.table(rows).splitlines()[2:]
    assert len(lines) > 10
    for line in lines:
        _, _, two_cores, gpu, memory, disk, _ = (cell.strip() for cell in line.split("|"))
        assert gpu in (costs.NO_GPU, costs.ON_GPU)
        for figure in (two_cores, memory, disk):
            mark = r"\((measured( at [\d,]+)?|extrapolated from [\d,]+)\)$"
            marked = re.search(rf"\d \w+ {mark}", figure)
            assert marked or figure in ("little", "not measured")


def test_a_measurement_is_multiplied_up_to_the_papers_count():
    assert costs.marked(costs.duration, 60, 300, 300) == "60 s (measured)"
    assert costs.marked(costs.duration, 60, 3000, 300) == "10 min (extrapolated from 300)"


def test_a_step_that_was_not_measured_is_not_guessed():
    rows = costs.measured_rows()
    line = costs.table(rows.drop("the paper's tables")).split("Tables 1 and 2")[1].splitlines()[0]
    assert line.count("not measured") == 3


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(14.2, "14 s"), (89, "89 s"), (372, "6.2 min"), (5760, "1.6 h"), (1e6, "12 days")],
)
def test_times_are_written_with_two_digits(seconds, text):
    assert costs.duration(seconds) == text


def test_a_page_without_marks_is_refused():
    with pytest.raises(ValueError, match="lacks the marks"):
        costs.page("# What it costs\n", costs.measured_rows())
