import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from hsc_utils import paper
from hsc_utils.comparison import ComparisonError, paper_tables
from hsc_utils.study import Run, RunConfig, parse_model_name, tabulate_runs


def finish(run_dir, balanced_accuracy, auroc, failed=None):
    run = Run(run_dir)
    run_dir.mkdir(parents=True)
    architecture, channels = parse_model_name(run.model)
    RunConfig(
        architecture=architecture,
        weights="none",
        input_size=64,
        batch_size=8,
        max_epochs=1,
        patience=1,
        learning_rate=1e-3,
        channels=channels,
        level=run.level,
        class_names=("a", "b"),
        weights_used="none",
        mean=(0.5,) * len(channels),
        std=(0.2,) * len(channels),
        samples_sha256="",
        code_sha256="",
    ).write(run.config_file)
    test = {"balanced_accuracy": balanced_accuracy, "auroc": auroc}
    record = {"seconds": 1.0, "weights": "none", "simulated": True, "inputs": {}}
    run.scores_file.write_text(json.dumps({"test": test}))
    run.record_file.write_text(json.dumps(record))
    run.status_file.write_text(json.dumps({"failed": failed}))
    return run_dir


def tabulated(runs):
    return tabulate_runs(map(Run, runs))


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
    table = paper_tables.summarise(tabulated(runs)).set_index(["table", "model"])
    row = table.loc[("image", "densenet169")]
    assert row["balanced_accuracy"] == pytest.approx(0.85)
    assert row["balanced_accuracy_sd"] == pytest.approx(np.std([0.8, 0.9], ddof=1))
    assert row["auroc_paper"] == paper.scores().loc[("image", "densenet169"), "auroc"]
    assert np.isnan(table.loc[("image", "resnet18"), "auroc_paper"])
    assert np.isnan(table.loc[("cell", "resnet18"), "auroc_sd"])


def test_a_failed_or_absent_run_counts_for_nothing_and_says_why(runs):
    table = paper_tables.summarise(tabulated(runs)).set_index(["table", "model"])
    row = table.loc[("image", "resnet18")]
    assert (row["finished"], row["seeds"]) == (1, 2)
    assert row["balanced_accuracy"] == 0.84
    assert row["missing"] == "seed 1: MemoryError: too big. Lower it."
    assert table.loc[("cell", "resnet50"), "missing"] == "seed 0: not trained yet, or interrupted"


def test_fewer_slices_stand_apart_beside_the_whole(runs):
    table = paper_tables.summarise(tabulated(runs))
    assert set(table.loc[table["table"] == "slices", "model"]) == {"resnet18-slice0+2", "resnet18"}
    assert set(table.loc[table["table"] == "cell", "model"]) == {"resnet18", "resnet50"}


def test_the_page_sets_the_best_in_bold_and_keeps_its_tables_whole(runs, tmp_path):
    failed = json.dumps({"failed": "OSError: a|b\nc. More."})
    (runs[3] / "status.json").write_text(failed)
    paper_tables.write_tables(tmp_path / "tables", runs)
    text = re.sub(" +", " ", (tmp_path / "tables" / "tables.md").read_text())
    assert "| DenseNet-169 | 2 | **0.850 ± 0.071** | 0.910 ± 0.014 | |" in text
    assert "| ResNet-18 | 1 of 2 | 0.840 | **0.950** |" in text
    assert "| DenseNet-169 in the paper, on its own data | – | 0.869 | 0.977 | |" in text
    assert "not given" not in text
    assert "seed 1: OSError: a/b c |" in text
    assert "| ResNet-50 | 0 of 1 | missing |" in text
    assert "Simulated demo data" in text and "2 of 7 runs are missing" in text
    written = {path.name for path in (tmp_path / "tables").iterdir()}
    tables = {"runs.csv", "image.csv", "cell.csv", "slices.csv", "tables.md"}
    assert written == {*tables, "best_image.csv", "best_cell.csv"}
    # without predictions there is nothing to compare, and nothing is said
    assert pd.read_csv(tmp_path / "tables" / "best_image.csv").empty
    assert "Is the best better" not in text


@pytest.mark.parametrize("name", ["config.json", "metrics.json", "provenance.json", "status.json"])
@pytest.mark.parametrize("content", ["", '{"test": {"auroc": 0.', "[]", "{}"])
def test_a_damaged_run_is_listed_as_such_and_the_others_are_shown(runs, tmp_path, name, content):
    (runs[0] / name).write_text(content)
    paper_tables.write_tables(tmp_path / "tables", runs)
    rows = pd.read_csv(tmp_path / "tables" / "runs.csv", keep_default_na=False)
    assert len(rows) == len(runs)
    assert name in rows["missing"].iloc[0] and rows["auroc"].iloc[0] == ""
    text = re.sub(" +", " ", (tmp_path / "tables" / "tables.md").read_text())
    assert "| DenseNet-169 | 1 of 2 |" in text and "3 of 7 runs are missing" in text


def test_cut_predictions_count_as_damage_too(runs, tmp_path):
    Run(runs[4]).predictions_file.write_bytes(b"PAR1")
    Run(runs[5]).config_file.unlink()
    paper_tables.write_tables(tmp_path / "tables", runs)
    rows = pd.read_csv(tmp_path / "tables" / "runs.csv", keep_default_na=False)
    assert "predictions.parquet is empty, cut short or damaged" in rows["missing"].iloc[4]
    assert "holds no config.json" in rows["missing"].iloc[5]


def test_simulated_beside_real_and_no_runs_are_refused(runs, tmp_path):
    record = Run(runs[4]).record_file
    record.write_text(json.dumps(json.loads(record.read_text()) | {"simulated": False}))
    with pytest.raises(ComparisonError, match="learnt from simulated and from real data"):
        paper_tables.write_tables(tmp_path / "tables", runs)
    with pytest.raises(ComparisonError, match="No run was given"):
        paper_tables.write_tables(tmp_path / "tables", [])


def test_the_page_says_where_the_validation_subset_stands_in_for_a_test(runs, tmp_path):
    for path in runs:
        if (path / "metrics.json").exists():
            scores = json.loads((path / "metrics.json").read_text())
            (path / "metrics.json").write_text(json.dumps({"validation": scores["test"]}))
    paper_tables.write_tables(tmp_path / "tables", runs)
    text = re.sub(" +", " ", (tmp_path / "tables" / "tables.md").read_text())
    assert "Scores on the validation subset" in text and "so those scores flatter" in text
    assert "| DenseNet-169 | 2 | **0.850 ± 0.071** |" in text


def test_the_command_line_means_the_callers_folder_and_says_what_is_missing(runs, tmp_path):
    command = [sys.executable, "-m", "hsc_utils.comparison.paper_tables", "my tables"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "Give the folder to write, and the run directories" in refused.stderr
    subprocess.run([*command, "image/densenet169/seed0"], check=True, cwd=tmp_path)
    assert "0.800" in (tmp_path / "my tables" / "tables.md").read_text()
