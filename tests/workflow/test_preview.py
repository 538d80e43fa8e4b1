"""What the plan says before anything is started, on studies with fabricated runs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import plan
import preview
import pytest
import store_outputs
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from hsc_utils import paper, run, training
from hsc_utils.files import ROOT, write_json
from hsc_utils.study import RunConfig, parse_model_name
from hsc_utils.training import models

CELLS = "04_cell_level_training"


@pytest.fixture
def folder(tmp_path):
    """A place with one raw file of a megabyte."""
    raw = tmp_path / "raw" / "MPP"
    raw.mkdir(parents=True)
    (raw / "one.oir").write_bytes(bytes(1_000_000))
    return tmp_path


def write_config(folder, **sections):
    """Write a configuration of three runs on each level; sections change it."""
    workflow = {"seeds": [0, 1, 2], "image_models": ["resnet18"], "cell_models": ["resnet18"]}
    content = {
        "study": str(folder / "study"),
        "01_data_preparation": {"raw_dir": str(folder / "raw"), "simulate_demo": False},
        "05_comparison_wang_et_al": {"models": ["resnet18"], "ablation": "resnet18"},
        "06_grad_cam": {"cell_model": "resnet18"},
        "workflow": workflow | sections.pop("workflow", {}),
    }
    path = folder / f"config{len(list(folder.glob('*.yaml')))}.yaml"
    path.write_text(yaml.safe_dump(content | sections))
    return str(path)


def finish(config, run, seconds=60.0):
    """Write all files of a finished run, as the configuration asks for it."""
    architecture, channels = parse_model_name(run.model)
    settings = plan.training_settings(
        config, run.level, architecture=architecture, channels=channels, seed=run.seed
    )
    made = {"level": run.level, "class_names": ["MPP", "NA"], "weights_used": "none"}
    made |= {"mean": [0.5] * 3, "std": [0.2] * 3, "samples_sha256": "", "code_sha256": ""}
    run.directory.mkdir(parents=True)
    RunConfig(**vars(settings), **made).write(run.config_file)
    run.history_file.write_text("epoch,seconds\n1,60\n")
    pd.DataFrame({"id": ["a"]}).to_parquet(run.predictions_file)
    write_json(run.scores_file, {"test": {}})
    save_file({"weight": np.zeros(1)}, run.weights_file)
    write_json(run.calibration_file, {"temperature": 1.0, "ece_before": 0.1, "ece_after": 0.1})
    record = {"inputs": {}, "weights": "none", "simulated": False, "seconds": seconds}
    write_json(run.record_file, record)


def line(name, config, cores=1, gpus=1):
    """Return one line of the plan, unbroken."""
    said = preview.overview(config, cores, gpus)
    found = re.search(rf"^  {name} +(.*(?:\n {{11}}.*)*)", said, flags=re.MULTILINE)
    return re.sub(r"\s+", " ", found[1]) if found else ""


# runs


def test_runs_are_counted_by_what_lies_in_the_study(folder):
    config = write_config(folder)
    assert line("runs", config) == "6 (3 on images, 3 on cells): 0 done, 6 to do"
    images, cells = plan.runs_of(config, "image"), plan.runs_of(config, "cell")
    for finished in (*images, *cells):
        finish(config, finished)
    assert line("runs", config) == (
        "6 (3 on images, 3 on cells): 6 done by the settings of 03 and 04, 0 to do"
    )
    assert preview.overview(config, 1, 1).count("\n") == 1  # nothing to do takes nothing
    write_json(images[0].status_file, {"failed": "no memory"})
    images[1].predictions_file.write_bytes(b"PAR1")
    images[2].weights_file.unlink()
    assert line("runs", config).endswith("3 to do (of these 1 failed before)")
    other = write_config(folder, **{CELLS: {"max_epochs": 99}})
    assert line("runs", other).endswith(
        "0 done, 6 to do (of these 1 failed before, 3 done with other settings)"
    )


def test_a_run_is_done_with_its_folds_and_takes_as_many_trainings(folder):
    plain, crossed = write_config(folder), write_config(folder, **{CELLS: {"folds": 5}})
    runs = plan.runs_of(crossed, "cell")
    needed = [preview.disk_needed(config, runs, 1, 1)["runs"] for config in (plain, crossed)]
    one = preview.weights_size("resnet18") + preview.BESIDE_WEIGHTS
    assert needed[1] - needed[0] == pytest.approx(5 * len(runs) * one)
    for done in runs[:2]:
        finish(crossed, done, 3600)
    pd.DataFrame({"id": ["a"], "fold": [0]}).to_parquet(runs[0].folds_file)
    assert list(preview.states_of_runs(crossed).values())[-3:] == ["done", "new", "new"]
    assert line("time", crossed).startswith("roughly 12.0 h of training")


def test_ready_cells_are_planned_without_images(folder):
    ready = {"02_blob_tuning": {"ready_cells_dir": str(folder / "raw"), "side": 100}}
    without = {"image_model": None}
    notebooks = dict.fromkeys((CELLS, "07_shortcuts"), without)
    config = write_config(folder, workflow={"image_models": []}, **ready, **notebooks)
    sections = yaml.safe_load(Path(config).read_text())
    del sections["01_data_preparation"]
    sections["06_grad_cam"] |= without
    Path(config).write_text(yaml.safe_dump(sections))
    plan.check(config)
    assert line("runs", config) == "3 (3 on cells): 0 done, 3 to do"
    needed = preview.disk_needed(config, plan.runs_of(config, "cell"), 1, 1)
    assert set(needed) == {"cells", "runs"} and needed["cells"] == 3 * 100**2
    (folder / "raw" / "MPP" / "one.oir").unlink()
    assert line("data", config).startswith("there are no cells in")


# time


def test_time_left_follows_from_the_runs_that_are_done(folder):
    slices = {"cell_models": ["resnet18", "resnet18-slice0", "densenet121"]}
    config = write_config(folder, workflow=slices)
    assert line("time", config) == "can be estimated once the first run is done"
    for done, seconds in zip(plan.runs_of(config, "cell")[:2], (3600, 7200), strict=True):
        finish(config, done, seconds)
    # one more of resnet18, three of its slice, three of another backbone, each 1.5 h
    said = line("time", config)
    assert said.startswith("roughly 10.5 h of training in 03 and 04")
    assert "by the 2 runs done, 1 at a time" in said
    assert said.endswith("not counted: 3 on images, of which none is done")
    assert line("time", config, cores=3).startswith("roughly 3.5 h of training")
    finish(config, plan.runs_of(config, "cell")[3], 36)  # the slice is faster than the backbone
    assert line("time", config).startswith("roughly 4.5 h of training")
    finish(config, plan.runs_of(config, "image")[0], 3600)
    assert "not counted" not in line("time", config)


@given(st.integers(1, 64), st.integers(1, 8), st.integers(1, 8), st.integers(0, 4))
def test_runs_side_by_side_fit_the_machine(cores, gpus, per_run, gpus_per_run):
    sweep = {"cores_per_run": {"image": per_run}, "gpus_per_run": gpus_per_run}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "sweep_of", lambda _: sweep)
        count = preview.runs_at_a_time("", "image", cores, gpus)
    assert count == 1 or (count * per_run <= cores and count * gpus_per_run <= gpus)
    more = (count + 1) * per_run > cores or (count + 1) * gpus_per_run > gpus
    assert count >= 1 and more


# disk


def test_disk_is_estimated_from_what_lies_there(folder):
    config = write_config(folder)
    runs = [*plan.runs_of(config, "image"), *plan.runs_of(config, "cell")]
    needed = preview.disk_needed(config, runs, 2, 1)
    counts = paper.counts()[["images", "cells"]].sum()
    assert needed["images"] == 500_000
    assert needed["cells"] == pytest.approx(2 * counts["cells"] / counts["images"] * 3 * 48**2)
    assert needed["cache"] == 3 * 128**2
    weights = 4 * 11.7e6
    assert needed["runs"] == pytest.approx(6 * (weights + preview.BESIDE_WEIGHTS) + 18 * weights)
    study = plan.study_of(config)
    for part in (study.prepared, study.cells, study.cache):
        part.mkdir(parents=True)
    (study.prepared / "images.csv").write_text("image_id\na\nb\n")
    (study.cells / "patches.npy").write_bytes(b"")
    needed = preview.disk_needed(config, runs[:1], 2, 1)
    assert set(needed) == {"cache", "runs"} and needed["cache"] == 2 * 3 * 128**2
    (study.cache / "images-128px-0.npy").write_bytes(bytes(2 * 3 * 128**2))
    assert set(preview.disk_needed(config, runs[:1], 2, 1)) == {"runs"}


def test_a_demo_that_is_not_simulated_yet_is_counted(folder):
    config = write_config(
        folder, **{"01_data_preparation": {"simulate_demo": True, "raw_dir": None}}
    )
    needed = preview.disk_needed(config, plan.runs_of(config, "cell"), 1, 1)
    assert 200e6 < needed["acquisitions"] < 400e6
    (folder / "study" / "truth").mkdir(parents=True)
    (folder / "study" / "truth" / "cells.csv").write_text("")
    assert "acquisitions" not in preview.disk_needed(config, plan.runs_of(config, "cell"), 1, 1)


def test_too_small_a_disk_is_refused_where_that_is_sure(folder, monkeypatch):
    config = write_config(folder)
    needed = preview.disk_needed(config, [*preview.states_of_runs(config)], 1, 1)
    monkeypatch.setattr(preview, "free_disk", lambda _: needed["runs"] + 1)
    assert "THAT MAY NOT BE ENOUGH" in line("disk", config)
    preview.prepare_start(config, 1, 1)
    monkeypatch.setattr(preview, "free_disk", lambda _: needed["runs"] - 1)
    with pytest.raises(plan.ParameterError, match=r"6 runs to do need .* free: make room"):
        preview.prepare_start(config, 1, 1)


def test_the_free_disk_is_that_of_the_nearest_folder(folder):
    config = write_config(folder, study=str(folder / "not" / "yet" / "there"))
    assert preview.free_disk(config) > 0


# weights


def test_every_missing_file_of_weights_is_named_before_anything_starts(folder, monkeypatch):
    """One is there, one is damaged, one is missing, and there is no network."""
    monkeypatch.setenv("TORCH_HOME", str(folder))
    monkeypatch.setattr(models, "_answers", lambda _: False)
    names = ["resnet18", "densenet121", "resnet50-slice0"]
    start = {"weights": "imagenet"}
    config = write_config(folder, **{CELLS: start}, workflow={"cell_models": names})
    to_do = plan.runs_of(config, "cell")
    places = preview.imagenet_places(config, to_do)
    assert [*places] == ["resnet18", "densenet121", "resnet50"]
    for place in [*places.values()][:2]:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"cut short")
    said = line("weights", config)
    assert "2 of 3 networks at hand; missing: resnet50-0676ba61.pth (102 MB)." in said
    assert str(folder / "hub" / "checkpoints") in said
    wrong = models._wrong_hash  # the first file stands for one that is as published
    monkeypatch.setattr(
        models, "_wrong_hash", lambda path, name: name != "resnet18" and wrong(path, name)
    )
    with pytest.raises(plan.ParameterError) as refusal:
        preview.prepare_start(config, 1, 1)
    text = str(refusal.value)
    assert "weights of densenet121, resnet50 are not at hand" in text and "resnet18" not in text
    assert text.count("https://") == 2 and str(folder / "hub" / "checkpoints") in text


def test_only_runs_to_do_need_weights(folder, monkeypatch):
    monkeypatch.setattr(training, "starting_weights", lambda *_: pytest.fail("asked for weights"))
    config = write_config(folder, **{CELLS: {"weights": "imagenet"}})
    for done in plan.runs_of(config, "cell"):
        finish(config, done)
    assert line("weights", config) == "ImageNet's if they can be had, otherwise random"
    preview.prepare_start(config, 1, 1)


def test_weights_that_torchvision_does_not_have_are_refused(folder):
    names = {"cell_models": ["resnet18", "vit_h_14"]}
    config = write_config(folder, **{CELLS: {"weights": "imagenet"}}, workflow=names)
    with pytest.raises(plan.ParameterError, match=r"no weights of vit_h_14 .* choose another"):
        preview.overview(config, 1, 1)


def test_a_file_of_weights_that_is_not_there_is_a_fault(folder):
    config = write_config(folder, **{CELLS: {"weights": "imagnet"}})
    with pytest.raises(plan.ParameterError, match=r"weights: there is no file imagnet\."):
        plan.check(config)


# the command


def call(config, *options):
    """Run preview.py as make does."""
    command = [sys.executable, "workflow/preview.py", config, *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_plan_is_shown_without_data_and_a_start_is_refused(folder):
    config = write_config(folder)
    (folder / "raw" / "MPP" / "one.oir").unlink()
    shown = call(config, "--cores", "2")
    assert shown.returncode == 0 and "  data     there are no data in" in shown.stdout
    assert "counted once the data are there" in re.sub(r"\s+", " ", shown.stdout)
    refused = call(config, "--start")
    assert refused.returncode == 1 and "  runs     6 (3 on images" in refused.stdout
    assert refused.stderr.startswith("error: ") and "there are no data in" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_faulty_file_gets_no_plan(folder):
    refused = call(write_config(folder, workflow={"seeds": []}))
    assert refused.returncode == 1 and refused.stdout == "" and "seeds is empty" in refused.stderr


def test_the_demos_plan_needs_no_torch(folder):
    """It would cost seconds at every `make demo`."""
    code = f"""import sys; sys.path.insert(0, "workflow"); import preview
sys.argv = ["preview.py", {write_config(folder)!r}, "--start"]; preview.main()
assert "torch" not in sys.modules"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("target", ["demo", "sweep", "paper", "leukocytes"])
def test_a_dry_make_starts_nothing(target):
    def recipe(*settings):
        command = ["make", "--dry-run", "--assume-old=.venv/.ready", target, *settings]
        environment = {k: v for k, v in os.environ.items() if k != "DRY"}
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment
        ).stdout

    for going in (recipe(), recipe("DRY=0")):
        assert (
            re.search(r"preview\.py .*--start && .*\bsnakemake --", going) and "The book" in going
        )
    dry = recipe("DRY=1")
    assert "preview.py" in dry and "--start" not in dry and "The book" not in dry
    assert "snakemake --" not in dry and "&& : --snakefile" in dry


# what contradicts itself, and what is not complete


def test_to_simulate_and_to_read_other_data_is_refused(folder, capsys):
    both = {"raw_dir": str(folder / "raw"), "simulate_demo": True}
    config = write_config(folder, **{"01_data_preparation": both})
    with pytest.raises(
        plan.ParameterError, match=r"01_data_preparation: raw_dir: .* simulate_demo"
    ):
        plan.check(config)
    command = ["01_data_preparation", "-p", "study", str(folder / "study")]
    assert run.main([*command, "-p", "raw_dir", str(folder / "raw")]) == 2  # true is the default
    assert "simulate_demo to false" in capsys.readouterr().err
    assert not (folder / "study").exists()


def test_half_a_study_is_not_stored(tmp_path):
    executed, overview = tmp_path / "grad_cam" / "06_grad_cam.ipynb", tmp_path / "overview.png"
    executed.parent.mkdir()
    (tmp_path / "overview.status.json").write_text(json.dumps({"failed": "no cell fits"}))
    (executed.parent / "status.json").write_text(json.dumps({"failed": "no memory"}))
    with pytest.raises(SystemExit, match=r"06_grad_cam.ipynb \(no memory\); .*\(no cell fits\)"):
        store_outputs.check_complete([executed], overview)
    executed.write_text("")
    overview.write_bytes(b"of an earlier attempt")
    write_json(executed.parent / "status.json", {"failed": None})
    with pytest.raises(SystemExit, match=r"failed: \S*overview.png \(no cell fits\)\. The same"):
        store_outputs.check_complete([executed], overview)
    (tmp_path / "overview.status.json").write_text(json.dumps({"failed": None}))
    store_outputs.check_complete([executed], overview)
