import importlib.util
import json
import subprocess
import sys

import nbformat
import numpy as np
import pytest
import yaml

from hsc_utils import paper
from hsc_utils.comparison import paper_tables
from hsc_utils.files import ROOT


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "workflow" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def finish(run_dir, balanced_accuracy, auroc, failed=None):
    run_dir.mkdir(parents=True)
    test = {"balanced_accuracy": balanced_accuracy, "auroc": auroc}
    made_by = {"seconds": 1.0, "weights": "none", "simulated": True}
    (run_dir / "metrics.json").write_text(json.dumps({"test": test}))
    (run_dir / "provenance.json").write_text(json.dumps(made_by))
    (run_dir / "status.json").write_text(json.dumps({"failed": failed}))
    return run_dir


@pytest.fixture
def runs(tmp_path):
    image, cell = tmp_path / "image", tmp_path / "cell"
    return [
        finish(image / "densenet169" / "seed0", 0.80, 0.90),
        finish(image / "densenet169" / "seed1", 0.90, 0.92),
        finish(image / "resnet18" / "seed0", 0.84, 0.95),
        finish(image / "resnet18" / "seed1", 0.99, 0.99, failed="MemoryError: too big. Lower it."),
        finish(cell / "resnet18" / "seed0", 0.7, 0.8),
        finish(cell / "resnet18-slice0+2" / "seed0", 0.6, 0.7),
        cell / "resnet50" / "seed0",
    ]


def test_means_and_spreads_over_seeds_beside_the_paper(runs):
    table = paper_tables.summarise(paper_tables.read_sweep(runs)).set_index(["table", "model"])
    row = table.loc[("image", "densenet169")]
    assert row["balanced_accuracy"] == pytest.approx(0.85)
    assert row["balanced_accuracy_sd"] == pytest.approx(np.std([0.8, 0.9], ddof=1))
    assert row["auroc_paper"] == paper.scores().loc[("image", "densenet169"), "auroc"]
    assert np.isnan(table.loc[("image", "resnet18"), "auroc_paper"])
    assert np.isnan(table.loc[("cell", "resnet18"), "auroc_sd"])


def test_a_failed_or_absent_run_counts_for_nothing_and_says_why(runs):
    table = paper_tables.summarise(paper_tables.read_sweep(runs)).set_index(["table", "model"])
    row = table.loc[("image", "resnet18")]
    assert (row["finished"], row["seeds"]) == (1, 2)
    assert row["balanced_accuracy"] == 0.84
    assert row["missing"] == "seed 1: MemoryError: too big. Lower it."
    assert table.loc[("cell", "resnet50"), "missing"] == "seed 0: not trained yet, or interrupted"


def test_fewer_slices_stand_apart_beside_the_whole(runs):
    table = paper_tables.summarise(paper_tables.read_sweep(runs))
    assert set(table.loc[table["table"] == "slices", "model"]) == {"resnet18-slice0+2", "resnet18"}
    assert set(table.loc[table["table"] == "cell", "model"]) == {"resnet18", "resnet50"}


def test_the_page_sets_the_best_in_bold_and_keeps_its_tables_whole(runs, tmp_path):
    failed = json.dumps({"failed": "OSError: a|b\nc. More."})
    (runs[3] / "status.json").write_text(failed)
    paper_tables.main([str(tmp_path / "tables"), *map(str, runs)])
    text = (tmp_path / "tables" / "tables.md").read_text()
    assert "| densenet169 | 2 | **0.850 ± 0.071** | 0.869 | 0.910 ± 0.014 | 0.977 |  |" in text
    assert "| resnet18 | 1 of 2 | 0.840 | not given | **0.950** |" in text
    assert "seed 1: OSError: a/b c |" in text
    assert "| resnet50 | 0 of 1 | missing |" in text
    assert "Simulated demo data" in text and "2 of 7 runs are missing" in text
    written = {path.name for path in (tmp_path / "tables").iterdir()}
    assert written == {"runs.csv", "image.csv", "cell.csv", "slices.csv", "tables.md"}


@pytest.mark.parametrize(
    ("code", "messages", "reason"),
    [
        (1, "chatter\nerror in 04: ValueError: a batch\ndoes not fit\n", "ValueError: a batch"),
        (2, "error: Unknown parameter 'a'.\n", "Unknown parameter 'a'."),
        (-9, "", "ended by SIGKILL, probably for want of memory"),
        (1, "Traceback\n  x\nDeadKernelError: Kernel died\n", "Kernel died"),
        (3, "", "ended with status 3"),
    ],
)
def test_the_reason_is_what_the_notebook_said_last(code, messages, reason):
    assert script("attempt").reason(code, messages).startswith(reason)


def test_an_attempt_that_fails_is_written_down_and_ends_well(tmp_path):
    status = tmp_path / "run" / "status.json"
    command = [sys.executable, ROOT / "workflow" / "attempt.py", status, "99_no_such_notebook"]
    subprocess.run(command, check=True, capture_output=True)
    assert "99_no_such_notebook" in json.loads(status.read_text())["failed"]


def test_the_book_stands_in_for_a_failed_step(tmp_path):
    book = script("build_book")
    notebook = tmp_path / "06_grad_cam.ipynb"
    nbformat.write(nbformat.v4.new_notebook(), notebook)
    assert book.failure(notebook) is None
    (tmp_path / "status.json").write_text(json.dumps({"failed": "no model"}))
    text = book.stand_in(notebook, book.failure(notebook))
    assert text.startswith("# 06") and "no model" in text


def test_the_simulated_sweep_shares_the_demos_data():
    """Any other setting would make the data again, in the demo's own folder."""
    demo, several = (
        yaml.safe_load((ROOT / "workflow" / "config" / f"{name}.yaml").read_text())
        for name in ("demo", "sweep")
    )
    for step in ("01_data_preparation", "02_blob_tuning"):
        assert several[step] == demo[step]
    for step in ("03_image_level_training", "04_cell_level_training"):
        moved = {
            name: value.replace("results/demo/runs", "results/sweep/runs")
            if isinstance(value, str)
            else value
            for name, value in demo[step].items()
        }
        assert several[step] == moved
