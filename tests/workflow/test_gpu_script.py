"""What `make gpu` makes of its measurements, and how it goes on where it was cut off."""

import sys

import pandas as pd
import pytest
import yaml

from hsc_utils import paper
from hsc_utils.files import ROOT, write_json


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu

    yield gpu
    for name in ("gpu", "machine"):
        sys.modules.pop(name, None)


def test_the_hours_of_the_paper_follow_from_images_a_second(gpu):
    text = (ROOT / "workflow/config/paper.yaml").read_text()
    names = yaml.safe_load(text)["workflow"]["image_models"]
    measured = pd.DataFrame({"model": [*names] * 2, "px": [512] * len(names) + [64] * len(names)})
    measured = measured.assign(ours=[100.0] * len(names) + [10_000.0] * len(names), store_s=10)
    explained = pd.DataFrame({"seconds": [20, 10], "cells": [1000, 1000]})
    hours = gpu.paper_estimate(measured, explained).set_index("step")["hours"]
    counts = paper.counts().sum()
    passes = 40 * (0.6 + 0.2 / 3) + 2 / 3
    of_image_run = counts["images"] * passes / 100 + 30
    of_cell_run = counts["cells"] * passes / 10_000 + 30
    assert hours["image level"] == pytest.approx(45 * of_image_run / 3600, abs=1e-3)
    assert hours["cell level"] == pytest.approx(75 * of_cell_run / 3600, abs=1e-3)
    assert hours["06"] == pytest.approx(0.02 * 9000 / 3600, abs=1e-3)
    assert hours["07"] == pytest.approx(3 * (of_image_run + of_cell_run) / 3600, abs=1e-3)


def test_a_step_is_kept_only_with_the_same_code_and_device(gpu, tmp_path):
    made_on, steps = {"device": "X", "code_sha256": "1"}, {"tests": {"end": "status 0"}}
    assert gpu.earlier_steps(tmp_path / "gpu.json", made_on) == {}
    write_json(tmp_path / "gpu.json", made_on | {"steps": steps})
    assert gpu.earlier_steps(tmp_path / "gpu.json", made_on) == steps
    assert gpu.earlier_steps(tmp_path / "gpu.json", made_on | {"code_sha256": "2"}) == {}
