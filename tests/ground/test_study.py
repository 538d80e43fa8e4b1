"""A study's folders, and what a run directory says of itself."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from hsc_utils.study import (
    NEVER_RUN,
    Run,
    RunConfig,
    Study,
    model_name,
    parse_model_name,
    tabulate_runs,
)
from hsc_utils.study import TrainingSettings as Settings

CONFIG = RunConfig(
    architecture="resnet18",
    weights="auto",
    input_size=64,
    batch_size=8,
    max_epochs=1,
    patience=1,
    learning_rate=1e-3,
    channels=[0, 2],
    level="cell",
    class_names=["LT-HSC", "MPP"],
    weights_used="none",
    mean=[0.1, 0.2],
    std=[0.3, 0.4],
    samples_sha256="0" * 64,
    code_sha256="1" * 64,
)


def finish(run: Run) -> Run:
    """Write the results of a run as training does, with next to nothing in them."""
    run.directory.mkdir(parents=True)
    CONFIG.write(run.config_file)
    pd.DataFrame({"epoch": [1]}).to_csv(run.history_file, index=False)
    pd.DataFrame({"id": ["a"]}).to_parquet(run.predictions_file)
    save_file({"bias": np.zeros(2)}, run.weights_file)
    run.scores_file.write_text(json.dumps({"test": {"auroc": 0.75, "samples": 3}}))
    run.calibration_file.write_text(json.dumps({"temperature": 1.5}))
    record = {"inputs": {"cells/patches.npy": "ab"}, "weights": "none", "simulated": True}
    run.record_file.write_text(json.dumps(record | {"seconds": 2.5}))
    return run


@pytest.mark.parametrize(
    ("channels", "name"),
    [((0, 1, 2), "resnet50"), ((0,), "resnet50-slice0"), ([0, 2], "resnet50-slice0+2")],
)
def test_a_model_is_named_by_its_backbone_and_slices(channels, name):
    assert model_name("resnet50", channels) == name
    assert parse_model_name(name) == ("resnet50", tuple(channels))


def test_a_run_knows_its_place(tmp_path):
    run = Study(tmp_path).run("cell", "resnet50-slice0", 7)
    assert run.directory == tmp_path / "runs" / "cell" / "resnet50-slice0" / "seed7"
    assert (run.level, run.model, run.seed) == ("cell", "resnet50-slice0", 7)


def test_a_configuration_comes_back_as_it_was(tmp_path):
    CONFIG.write(tmp_path / "config.json")
    assert RunConfig.read(tmp_path / "config.json") == CONFIG
    assert CONFIG.model == "resnet18-slice0+2"
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | {"scaling": 0.2}))
    with pytest.raises(ValueError, match="adds scaling"):
        RunConfig.read(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"batch_size": 0}, "batch_size: 0 is not above 0"),
        ({"imbalance": "weight"}, "'weight' is not one of weights, sampler, none"),
        ({"channels": (3,)}, "must name one to three of 0"),
        ({"channels": ()}, "must name one to three of 0"),
    ],
)
def test_impossible_settings_are_refused(wrong, sentence):
    settings = Settings("resnet18", "none", 64, 8, 1, 1, 1e-3)
    with pytest.raises(ValueError, match=sentence):
        replace(settings, **wrong)


def test_how_a_run_ended(tmp_path):
    study = Study(tmp_path)
    run = study.run("cell", "resnet18", 3)
    assert run.failure == NEVER_RUN
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        run.check_finished()
    finish(run).check_finished()
    assert run.failure is None
    assert [r.seed for r in study.finished_runs("cell", "resnet18")] == [3]
    run.status_file.write_text(json.dumps({"failed": "no memory"}))
    assert run.failure == "no memory"
    assert study.finished_runs("cell", "resnet18") == []


def test_calibration_and_folds_are_read_and_their_damage_named(tmp_path):
    run = finish(Study(tmp_path).run("cell", "resnet18", 0))
    assert run.calibration["temperature"] == 1.5 and run.folds is None and not run.damaged()
    table = pd.DataFrame({"id": ["a"], "fold": [2]})
    table.attrs["said"] = "3 folds"
    table.to_parquet(run.folds_file)
    assert run.folds["fold"].tolist() == [2] and run.folds.attrs["said"] == "3 folds"
    run.calibration_file.write_text(json.dumps({"temperature": 0}))
    run.folds_file.write_bytes(b"PAR1")
    assert {*run.damaged().values()} == {run.calibration_file, run.folds_file}
    assert run.failure is None  # what tables of runs need is there


def test_runs_side_by_side_finished_or_not(tmp_path):
    study = Study(tmp_path)
    finish(study.run("cell", "resnet18-slice0+2", 0))
    table = tabulate_runs(study.run("cell", "resnet18-slice0+2", seed) for seed in (0, 1))
    assert table["missing"].tolist() == ["", NEVER_RUN]
    assert table.loc[0, ["channels", "pixels", "auroc"]].tolist() == ["0+2", "ab", 0.75]
    assert pd.isna(table.loc[1, "auroc"])


@pytest.mark.parametrize("content", ["", "{", "null", "{}"])
def test_a_status_that_cannot_be_read_is_named(tmp_path, content):
    run = finish(Study(tmp_path).run("cell", "resnet18", 0))
    run.status_file.write_text(content)
    assert "status.json is damaged" in run.failure


@pytest.mark.parametrize("name", ["config.json", "metrics.json", "provenance.json"])
@pytest.mark.parametrize("content", ["", "{", "null", "\0\0\0"])
def test_a_damaged_run_is_listed_with_its_reason_and_the_rest_goes_on(tmp_path, name, content):
    study = Study(tmp_path)
    runs = [finish(study.run("cell", "resnet18", seed)) for seed in (0, 1)]
    (runs[0].directory / name).write_text(content)
    table = tabulate_runs(runs)
    assert f"seed0/{name} is empty, cut short or damaged" in table.loc[0, "missing"]
    assert table.loc[1, "missing"] == "" and table.loc[1, "judged_on"] == "test"
    assert study.finished_runs("cell", "resnet18")[0].seed == 1
