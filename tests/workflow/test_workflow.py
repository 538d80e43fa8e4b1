"""The workflow plans every configuration, notices changed code, and speaks in few words."""

import json
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import build_book
import code_state
import nbformat
import pandas as pd
import plan
import pytest
import snakemake_logger_plugin_steps as steps
import step
import yaml
from snakemake_interface_logger_plugins.common import LogEvent

from hsc_utils import detection, provenance
from hsc_utils.files import ROOT
from hsc_utils.study import Study, failure_of

CONFIGS = ("demo", "sweep", "paper", "leukocytes")
NEW = {"new_images_dir": "data", "cell_model": "densenet169", "image_model": "densenet169"}
READY, CELLS = "02_blob_tuning", "04_cell_level_training"


def config_of(name, folder, study="study", **changes):
    """Copy a configuration with its study, and its raw data, in a private folder."""
    sections = yaml.safe_load((ROOT / "workflow" / "config" / f"{name}.yaml").read_text())
    sections["study"] = str(folder / study)
    if name in ("paper", "leukocytes"):
        (folder / "raw" / "MPP").mkdir(parents=True)
        (folder / "raw" / "MPP" / "one.oir").write_bytes(b"")
    if name == "paper":
        sections["01_data_preparation"]["raw_dir"] = str(folder / "raw")
    if name == "leukocytes":
        sections[READY]["ready_cells_dir"] = str(folder / "raw")
        for notebook in ("06_grad_cam", "07_shortcuts"):
            sections[notebook]["masks_dir"] = str(folder / "raw")
    for section, content in changes.items():
        sections[section] = sections.get(section, {}) | content
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(sections))
    return path


def snakemake(config, *options, cwd=ROOT):
    """Call Snakemake as a user does; return its exit status and what it said."""
    command = ["snakemake", "--snakefile", str(ROOT / "workflow" / "Snakefile")]
    command += ["--configfile", str(config), "--cores", "2", "--nolock", *options]
    environment = os.environ | {"XDG_CACHE_HOME": str(Path(config).parent / "cache")}
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, env=environment
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("name", CONFIGS)
def test_a_dry_run_plans_every_rule(name, tmp_path):
    config = config_of(name, tmp_path)
    code, said = snakemake(config, "--dry-run")
    assert code == 0, said[-3000:]
    table = said.split("Job stats:")[1].split("total")[0]
    counts = {
        line.split()[0]: int(line.split()[1])
        for line in table.splitlines()
        if len(line.split()) == 2 and line.split()[1].isdigit()
    }
    levels = {level: len(plan.runs_of(config, level)) for level in ("image", "cell")}
    assert counts.pop("train_image_level", 0) == levels["image"]
    assert counts.pop("train_cell_level") == levels["cell"]
    once = {"find_cells", "compare", "explain", "tables", "claims", "book", "all"}
    once |= {"overview", "audit"} | ({"prepare"} if name != "leukocytes" else set())
    once |= {"simulate", "planted", "new_images"} if name in ("demo", "sweep") else set()
    assert set(counts) == once
    assert set(counts.values()) == {1}


def test_sweep_adds_to_the_demos_study():
    """Any other setting would make the demo's results again, in the demo's own folder."""
    demo, sweep = (f"workflow/config/{name}.yaml" for name in ("demo", "sweep"))
    for notebook in plan.NOTEBOOKS:
        assert plan.settings_of(sweep, notebook) == plan.settings_of(demo, notebook)
    for level in ("image", "cell"):
        shared = {str(run) for run in plan.runs_of(demo, level)}
        assert shared < {str(run) for run in plan.runs_of(sweep, level)}


def test_each_run_is_named_once_and_the_slices_are_all_there():
    models = [run.model for run in plan.runs_of("workflow/config/sweep.yaml", "cell")]
    subsets = {f"resnet18-slice{subset}" for subset in ("0", "1", "2", "0+1", "0+2", "1+2")}
    assert set(models) == {"resnet18", "densenet121"} | subsets
    assert len(models) == 3 * len(set(models))


def test_the_book_shows_the_first_run_that_did_not_fail(tmp_path):
    config = config_of("demo", tmp_path)
    first, second, *_ = plan.runs_of(config, "cell")
    assert plan.chapters(config)[3].parent == first.directory
    second.directory.mkdir(parents=True)
    record = {"inputs": {}, "weights": "none", "simulated": True, "seconds": 1}
    second.record_file.write_text(json.dumps(record))
    assert plan.chapters(config)[3].parent == second.directory


# odd names, and what is refused before the first step


@pytest.mark.parametrize("odd", ["with space", 'o\'neil "q"', "{lab} {0}", "a&b;$c", "größe #1"])
def test_every_command_names_odd_folders_whole(odd, tmp_path):
    """The study, the configuration and the raw files have odd names; each stays one word."""
    folder = tmp_path / odd
    folder.mkdir()
    config = config_of("paper", folder, study=f"study {odd}")
    raw = folder / "raw" / "MPP"
    (raw / f"{odd} {{x}}.oir").write_bytes(b"")
    Path(os.fsdecode(os.fsencode(raw) + b"/K\xf6rper.oir")).write_bytes(b"")
    moved = folder / f"{odd}.yaml"
    config.rename(moved)
    # from another folder, where the relative path is right
    code, said = snakemake(f"{odd}/{odd}.yaml", "--dry-run", "--printshellcmds", cwd=tmp_path)
    assert code == 0, said[-3000:]
    commands = [line for line in said.splitlines() if "python workflow/step.py" in line]
    assert len(commands) > 60
    for command in commands:
        words = shlex.split(command.partition(": ")[2])
        if "hsc_utils.comparison." not in command:
            assert os.path.relpath(moved, ROOT) in words
        for status in (word for word in words if word.endswith("status.json")):
            assert (ROOT / status).parent.is_relative_to(ROOT)
            folders = (folder / f"study {odd}").resolve(), (ROOT / status).resolve()
            assert folders[1].is_relative_to(folders[0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"04_cell_level_training": {"image_model": "vgg11"}}, "image_model names vgg11"),
        ({"05_comparison_wang_et_al": {"models": ["resnet50-slice0+3"]}}, "names resnet50-slice0"),
        ({"05_comparison_wang_et_al": {"ablation": "resnet999"}}, "ablation names resnet999"),
        ({"06_grad_cam": {"cell_model": "densnet169"}}, "cell_model names densnet169"),
        ({"06_grad_cam": {"image_model": "resnet50-slice0"}}, "image_model names resnet50-slice0"),
        ({"06_grad_cam": {"run_seed": 7}}, "run_seed 7 is none of"),
        ({"07_shortcuts": {"cell_model": "vgg11"}}, "07_shortcuts: cell_model names vgg11"),
        ({"06_grad_cam": {"masks_dir": "no/masks"}}, "masks_dir: no/masks does not exist"),
        ({"04_cell_level_training": {"learning_rate": 0}}, "learning_rate: 0.0 is not above 0"),
        ({"03_image_level_training": {"channels": [3]}}, "channels: [3] must name"),
        ({"workflow": {"image_models": ["resnet18-slice"]}}, "'resnet18-slice' is no model"),
        ({"workflow": {"cell_models": ["resnet18-slice2+0"]}}, "'resnet18-slice2+0' is no model"),
        ({"workflow": {"cell_models": ["renset18"]}}, "'renset18' is no model that"),
        ({"workflow": {"seeds": []}}, "seeds is empty"),
        ({"workflow": {"seeds": [-1]}}, "seeds holds -1"),
        ({"workflow": {"cores_per_run": {"cell": 0}}}, "at least 1 each"),
        ({"workflow": {"image_models": []}}, "image_models is empty"),
        ({"08_new_images": NEW | {"image_model": "vgg11"}}, "08_new_images: image_model names vgg"),
        ({"08_new_images": NEW | {"run_seeds": [0, 9]}}, "08_new_images: run_seed 9 is none of"),
        ({"08_new_images": NEW | {"run_seeds": []}}, "08_new_images: run_seeds is empty"),
        ({"08_new_images": NEW | {"cell_model": None, "image_model": None}}, "are both null"),
        ({"08_new_images": NEW | {"name": "a/b"}}, "08_new_images: name: 'a/b' must be the name"),
        ({"08_new_images": NEW | {"name": ".."}}, "08_new_images: name: '..' must be the name"),
        ({"08_new_images": NEW | {"new_images_dir": "no"}}, "new_images_dir: no does not exist"),
    ],
)
def test_a_configuration_that_would_fail_later_is_refused_first(tmp_path, changes, said):
    config = config_of("paper", tmp_path, **changes)
    with pytest.raises(plan.ParameterError, match=re.escape(said)):
        plan.check(config)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"01_data_preparation": {}}, "01_data_preparation: cells come ready"),
        ({"03_image_level_training": {"seed": 1}}, "03_image_level_training: cells come ready"),
        ({"workflow": {"image_models": ["resnet18"]}}, "workflow: image_models must be []"),
        ({CELLS: {"image_model": "resnet18"}}, f"{CELLS}: image_model is resnet18 and must be nu"),
        ({"07_shortcuts": {"image_model": "resnet18"}}, "07_shortcuts: image_model is resnet18 "),
        ({"08_new_images": {"new_images_dir": "data"}}, "08_new_images: image_model is densenet"),
        ({"05_comparison_wang_et_al": {"level": "image"}}, "level must be cell"),
        ({"workflow": {"cell_models": []}}, "cell_models is empty"),
        (
            {READY: {"ready_cells_dir": "no"}},
            "there are no cells in no (parameter ready_cells_dir)",
        ),
        ({"06_grad_cam": {"masks_dir": "no"}}, "masks_dir: no does not exist"),
    ],
)
def test_a_study_of_ready_cells_asks_for_no_image(tmp_path, changes, said):
    config = config_of("leukocytes", tmp_path, **changes)
    with pytest.raises(plan.ParameterError, match=re.escape(said)):
        plan.check(config)


def test_the_ways_of_a_study_leave_out_what_it_has_no_use_for(tmp_path):
    """Ready cells need no 01 and 03; new images are a demo's, or somebody's folder."""
    kept = {name: plan.notebooks_of(f"workflow/config/{name}.yaml") for name in CONFIGS}
    assert kept["demo"] == kept["sweep"] == plan.NOTEBOOKS
    assert kept["paper"] == plan.NOTEBOOKS[:-1]
    assert [name[:2] for name in kept["leukocytes"]] == ["02", "04", "05", "06", "07"]
    shown = plan.chapters("workflow/config/leukocytes.yaml")
    assert [notebook.stem for notebook in shown] == list(kept["leukocytes"])
    asked = {"new_images_dir": "data", "name": "a day", "image_model": None}
    config = config_of(
        "leukocytes", tmp_path, **{"08_new_images": asked | {"cell_model": "resnet18"}}
    )
    plan.check(config)
    assert plan.chapters(config)[-1] == tmp_path / "study/new_images/a day/08_new_images.ipynb"
    code, said = snakemake(config, "--dry-run", "--printshellcmds")
    assert code == 0 and "a day/status.json' hsc_utils.run 08_new_images" in said


def test_new_images_wait_for_each_run_that_predicts_them(tmp_path):
    seeds = {"run_seeds": [0, 2, 0], "image_model": None}
    config = config_of("sweep", tmp_path, **{"08_new_images": seeds})
    runs = plan.runs_read_by(config, plan.NEW_IMAGES)
    assert [(run.level, run.model, run.seed) for run in runs] == [
        ("cell", "densenet121", 0),
        ("cell", "densenet121", 2),
    ]
    carded = [run.directory.relative_to(tmp_path).as_posix() for run in plan.carded_runs(config)]
    assert carded == [
        "study/runs/image/resnet18/seed0",
        "study/runs/cell/resnet18/seed0",
        "study/runs/cell/densenet121/seed0",
        "study/runs/cell/densenet121/seed2",
    ]


@pytest.mark.parametrize("name", CONFIGS)
def test_our_configurations_can_be_run(name, tmp_path):
    plan.check(config_of(name, tmp_path))


def test_the_workflow_says_so_in_a_sentence(tmp_path):
    """No data: where the data card is. A fault in the last section: nothing is started."""
    config = config_of("paper", tmp_path)
    (tmp_path / "raw" / "MPP" / "one.oir").unlink()
    code, said = snakemake(config)
    assert code == 1 and "Traceback" not in said and "MissingInput" not in said
    assert "there are no data in" in said and "data/README.md, the data card" in said
    change(config, "cell_model", "cel_model")
    code, said = snakemake(config)
    assert code == 1 and said.count("\n") == 1 and "did you mean 'cell_model'" in said
    assert not (tmp_path / "study").exists()


def test_any_change_below_the_raw_folder_is_noticed(tmp_path):
    (tmp_path / "A").mkdir()
    first = tmp_path / "A" / "one {x}.oir"
    first.write_bytes(b"1")
    assert plan.state_of_inputs({"masks_dir": tmp_path, "truth_csv": first, "detection_file": None})
    seen = {plan.state_of(first), plan.state_of(tmp_path)}
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/A/\xb5m.tif"))
    odd.write_bytes(b"1")
    seen.add(plan.state_of(tmp_path))
    first.write_bytes(b"12")
    seen.add(plan.state_of(tmp_path))
    os.utime(odd, ns=(1, 1))
    seen.add(plan.state_of(tmp_path))
    odd.unlink()
    seen.add(plan.state_of(tmp_path))
    assert len(seen) == 6


def test_damaged_memory_of_a_step_is_named_and_the_step_tried_again(tmp_path):
    config = config_of("demo", tmp_path)
    runs = plan.runs_of(config, "cell")[:3]
    for run, content in zip(runs, ("", '{"fail', '{"failed": null}'), strict=True):
        run.directory.mkdir(parents=True)
        run.status_file.write_text(content)
    spoilt = plan.runs_of(config, "image")[1]
    spoilt.directory.mkdir(parents=True)
    spoilt.status_file.write_text('{"failed": null}')
    spoilt.predictions_file.write_bytes(b"PAR1")
    cut = plan.chapters(config)[4]
    cut.parent.mkdir(parents=True)
    cut.write_text('{"cells": [')
    cut.with_name("status.json").write_text('{"failed": null}')
    code, said = snakemake(config, "--dry-run")
    assert code == 0 and "05_comparison_wang_et_al.ipynb is damaged and made again" in said
    assert "predictions.parquet is damaged and made again" in said
    assert not spoilt.status_file.exists()
    assert [run.status_file.exists() for run in runs] == [False, False, True]
    assert not cut.exists() and not cut.with_name("status.json").exists()


def test_cleaning_the_demo_forgets_no_other_study():
    """Without Snakemake's memory a changed setting would be "nothing to be done"."""
    recipe = subprocess.run(
        ["make", "--dry-run", "clean"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "results/demo" in recipe and ".snakemake" not in recipe


def test_make_says_which_python_is_needed(tmp_path):
    for name in ("Makefile", "requirements.txt", "pyproject.toml", ".python-version"):
        shutil.copy(ROOT / name, tmp_path / name)
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text('#!/bin/sh\necho "uv $*" >> log\nexit 2\n')
    uv.chmod(0o755)
    environment = os.environ | {"PATH": f"{uv.parent}:{os.environ['PATH']}", "HOME": "/dev/null"}
    said = subprocess.run(
        ["make", "lint"], cwd=tmp_path, capture_output=True, text=True, check=False, env=environment
    ).stderr
    assert "Python 3.12 is needed" in said and "install it" in said
    assert (tmp_path / ".home").is_dir(), "a home that cannot be written is replaced"


# changed code


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A package of one step, whose face offers two rooms, and a notebook that uses one."""
    step_folder = tmp_path / "hsc_utils" / "detection"
    step_folder.mkdir(parents=True)
    files = {
        "__init__.py": 'import lazy_loader\na = lazy_loader.attach("", ["figures"], '
        '{"blobs": ["detect"], "panel": ["show"]})\n',
        "blobs.py": "from hsc_utils import files\nSIZE = 3  # pixels\ndef detect():\n    pass\n",
        "panel.py": "def show():\n    return 2\n",
        "figures.py": "from hsc_utils.detection.panel import show\n",
    }
    for name, text in files.items():
        (step_folder / name).write_text(text)
    (tmp_path / "hsc_utils" / "files.py").write_text("ROOT = 1\n")
    (tmp_path / "notebooks").mkdir()
    code = "from hsc_utils import detection\ndetection.detect()"
    cells = [nbformat.v4.new_markdown_cell("# 02"), nbformat.v4.new_code_cell(code)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks" / "02.ipynb")
    monkeypatch.setattr(code_state, "ROOT", tmp_path)
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    return tmp_path


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("file", "old", "new", "noticed"),
    [
        ("detection/blobs.py", "# pixels", "# micrometres", False),
        ("detection/blobs.py", "detect():\n", 'detect():\n    """Say."""\n', False),
        ("detection/blobs.py", "SIZE = 3", "SIZE = 4", True),
        ("files.py", "ROOT = 1", "ROOT = 2", True),
        ("detection/panel.py", "return 2", "return 3", False),
        ("detection/figures.py", "show", "show as draw", False),
    ],
)
def test_only_code_that_the_notebook_reaches_counts(house, file, old, new, noticed):
    before = code_state.of_notebook("02")
    change(house / "hsc_utils" / file, old, new)
    assert (code_state.of_notebook("02") != before) == noticed


def test_a_changed_cell_counts_and_a_stored_output_does_not(house):
    path = house / "notebooks" / "02.ipynb"
    before = code_state.of_notebook("02")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text="seen")]
    nbformat.write(notebook, path)
    assert code_state.of_notebook("02") == before
    change(path, "# 02", "# 02, revised")
    assert code_state.of_notebook("02") != before


def test_a_face_is_seen_through_and_other_names_are_left_alone():
    found = code_state.imported_modules(
        "import subprocess\nfrom hsc_utils import detection as d, manifest\n"
        "from hsc_utils.study import Study\nfrom hsc_utils.training import figures, train\n"
        "d.detect_cells(1)\nsubprocess.run([])\n"
    )
    room = detection.detect_cells.__module__.removeprefix("hsc_utils.")
    assert found == {room, "training.figures", "training.train", "manifest", "study"}


@pytest.mark.parametrize("notebook", plan.NOTEBOOKS)
def test_every_notebook_reaches_its_step(notebook):
    cells = nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    reached = code_state.reached(code_state.imported_modules(code))
    assert {"files", "provenance", "study"} <= set(reached)
    own = ["preparation", "detection", "training", "training", "comparison", "explanation"]
    own += ["shortcuts", "new_images"]
    step_of = dict(zip(plan.NOTEBOOKS, own, strict=True))[notebook]
    assert sum(name.startswith(f"{step_of}.") for name in reached) >= 2
    assert "run" not in reached


# a step and its words


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
    assert step.reason(code, messages).startswith(reason)


def test_a_step_that_fails_is_written_down_and_ends_well(tmp_path, capfd):
    status = tmp_path / "run" / "status.json"
    missing = ["hsc_utils.run", "99_no_such_notebook"]
    assert step.main(["--status", str(status), *missing]) == 0
    assert "99_no_such_notebook" in failure_of(status.parent)
    assert step.main(missing) == 2
    assert "No notebook is called" in capfd.readouterr().err


def test_of_a_step_only_the_epochs_are_shown(tmp_path, monkeypatch, capfd):
    (tmp_path / "chatty.py").write_text(
        'import sys\nprint("resnet18 on cells, seed 0 · epoch 3  loss 1")\nprint("wrote a file")\n'
        'print("careful", file=sys.stderr)\n'
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert step.main(["--status", str(tmp_path / "status.json"), "chatty"]) == 0
    said = capfd.readouterr()
    assert said.out == "    resnet18 on cells, seed 0 · epoch 3  loss 1\n"
    assert said.err == "careful\n"
    assert failure_of(tmp_path) is None


def test_an_interrupted_step_is_silent_and_counts_as_not_tried(tmp_path):
    (tmp_path / "slow.py").write_text('import time\nprint("epoch 1", flush=True)\ntime.sleep(60)\n')
    command = [sys.executable, str(ROOT / "workflow" / "step.py"), "--status"]
    running = subprocess.Popen(
        [*command, str(tmp_path / "status.json"), "slow"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    running.stdout.readline()
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does
    assert running.communicate(timeout=30)[1] == ""
    assert running.returncode == step.INTERRUPTED
    assert not (tmp_path / "status.json").exists()


def record(event=None, message="", level=logging.INFO, created=0.0, **extra):
    found = logging.LogRecord("snakemake", level, "", 0, message, None, None)
    found.__dict__ |= {"event": event, "created": created} | extra
    return found


def test_a_line_a_step_with_its_time_and_no_internals(capsys):
    before = signal.getsignal(signal.SIGINT)
    try:
        handler = steps.LogHandler(None, None)
        for one in (
            record(message="Building DAG of jobs..."),
            record(LogEvent.RUN_INFO, stats={"prepare": 1, "book": 1, "all": 1, "total": 3}),
            record(message="Select jobs to execute..."),
            record(LogEvent.JOB_INFO, jobid=1, rule_name="prepare", rule_msg="01 Preparing"),
            record(LogEvent.JOB_FINISHED, job_id=1, created=64.2),
            record(LogEvent.JOB_INFO, jobid=2, rule_name="book", rule_msg="Building the book"),
            record(LogEvent.JOB_ERROR, level=logging.ERROR, jobid=2, created=5.0),
            record(LogEvent.ERROR, "CalledProcessError in file …", logging.ERROR),
            record(LogEvent.ERROR, "LockException: the directory is locked", logging.ERROR),
        ):
            handler.emit(one)
        assert capsys.readouterr().err.splitlines() == [
            "2 steps to do",
            "[1 of 2] 01 Preparing … 1 min 4 s",
            "[failed] Building the book … 5 s",
            "LockException: the directory is locked",
        ]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        handler.emit(record(LogEvent.JOB_ERROR, level=logging.ERROR, jobid=2))
        assert capsys.readouterr().err == "\nInterrupted; start again to continue.\n"
    finally:
        signal.signal(signal.SIGINT, before)


def test_each_step_gets_a_gpu_of_its_own(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho GPU 0: a\necho GPU 1: b\necho '  MIG 1g'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(step, "ROOT", tmp_path)
    (tmp_path / ".snakemake").mkdir()
    with step.own_gpu() as of_cpu_run:
        assert "CUDA_VISIBLE_DEVICES" not in of_cpu_run
    monkeypatch.setenv("HSC_GPU", "required")
    with step.own_gpu() as first, step.own_gpu() as second:
        assert [each["CUDA_VISIBLE_DEVICES"] for each in (first, second)] == ["0", "1"]
    with step.own_gpu() as again:
        assert again["CUDA_VISIBLE_DEVICES"] == "0"
    with ExitStack() as running:  # more at a time than there are: shared evenly
        given = [running.enter_context(step.own_gpu()) for _ in range(4)]
        assert [each["CUDA_VISIBLE_DEVICES"] for each in given] == ["0", "1", "0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")  # a user's choice
    with step.own_gpu() as first, step.own_gpu() as second:
        assert [each["CUDA_VISIBLE_DEVICES"] for each in (first, second)] == ["5", "7"]
        monkeypatch.setenv("SLURM_JOB_ID", "1")
        with step.own_gpu() as of_job:
            assert of_job["CUDA_VISIBLE_DEVICES"] == "5,7"


def test_snakemake_finds_the_voice():
    command = ["snakemake", "--logger", "steps", "--version"]
    environment = os.environ | {"PYTHONPATH": "workflow"}
    subprocess.run(command, cwd=ROOT, check=True, env=environment, capture_output=True)


def write_cells(study, simulated):
    row = {"cell_id": "a", "image_id": "a", "class": "A", "split": "train", "group": ""}
    row |= {"y": 1, "x": 1, "sigma": 1, "row": 0, "touches": False, "simulated": simulated}
    study.cells.mkdir(parents=True)
    pd.DataFrame([row]).to_csv(study.cells / "cells.csv", index=False)
    record = {"dataset": "ready cells in mine", "git_commit": "abc", "written_at": "2026-01-02T"}
    (study.cells / "provenance.json").write_text(json.dumps(record))


def test_the_pages_that_a_study_wrote_are_gathered_with_a_record(tmp_path):
    study, pages = Study(tmp_path / "study"), tmp_path / "pages"
    for folder in (study.tables, study.truth):
        folder.mkdir(parents=True)
    for name in ("claims.md", "tables.md"):
        (study.tables / name).write_text(f"# {name}\n")
    write_cells(study, simulated=True)
    runs = [study.run("cell", name, 0) for name in ("resnet18", "densenet121")]
    build_book.gather(study, runs, pages)  # neither has a card yet, and nothing was planted
    assert {path.name for path in pages.iterdir()} == {"claims.md", "tables.md", "record.json"}
    record = json.loads((pages / "record.json").read_text())
    assert record == {
        "dataset": "ready cells in mine",
        "simulated": True,
        "commit": "abc",
        "date": "2026-01-02",
    }
    (study.truth / "planted.md").write_text("# What we planted\n")
    (study.truth / "planted.png").write_bytes(b"")
    (study.root / "overview.png").write_bytes(b"drawn")
    runs[1].directory.mkdir(parents=True)
    runs[1].card_file.write_text("# A card\n\n## Data\n")
    build_book.gather(study, runs, pages)
    assert (pages / "pipeline.png").read_bytes() == b"drawn"
    assert (pages / "planted.md").exists() and (pages / "planted.png").exists()
    cards = (pages / "model_cards.md").read_text()
    assert cards.startswith("# Model cards\n")
    assert cards.endswith("\n\n## A card\n\n::::{dropdown} Show the card\n**Data**\n::::")


def book_source(folder, notebooks=()):
    """Copy the sources of the book that a study's own pages are put beside."""
    source = folder / "book"
    ours = shutil.ignore_patterns("pipeline.png", "stored")
    shutil.copytree(ROOT / "book", source, ignore=ours)
    link = '<a href="notebooks/01_data_preparation.html#a">01</a> [3](notebooks/03_image_level'
    (source / "claims.md").write_text(f"# Claims\n{link}_training) [7](notebooks/07_shortcuts)\n")
    (source / "notebooks").mkdir()
    for name in notebooks:
        (source / "notebooks" / f"{name}.ipynb").write_text("{}")
    return source


def files_of(source):
    contents = yaml.safe_load((source / "_toc.yml").read_text())
    return [page["file"] for part in contents["parts"] for page in part["chapters"]]


REAL = {"simulated": False, "dataset": "ready cells in mine", "commit": "ab" * 20, "date": "2026-1"}


def test_a_book_names_no_page_that_its_study_does_not_have(tmp_path):
    notebooks = plan.notebooks_of("workflow/config/leukocytes.yaml")
    source = book_source(tmp_path, notebooks)
    build_book.leave_out(source, notebooks, REAL)
    listed = files_of(source)
    assert "notebooks/02_blob_tuning" in listed and "traps" in listed
    for page in ("notebooks/01_data_preparation", "notebooks/08_new_images", "model_cards"):
        assert page not in listed
    text = (source / "claims.md").read_text()
    assert text == "# Claims\n01 3 [7](notebooks/07_shortcuts)\n"
    index = (source / "index.md").read_text()
    assert "01_data_preparation" not in index and "simulated" not in index.split("##")[0]
    assert "pipeline" not in index  # another study's picture
    assert "other data than the demo's: *ready cells in mine*" in index
    assert "without notebooks 01 (its cells came ready), 03" in index


def test_a_book_of_a_whole_study_is_left_as_it_is(tmp_path):
    source = book_source(tmp_path, plan.NOTEBOOKS)
    for page in ("planted", "figures", "explore", "tables", "model_cards", "data_card"):
        (source / f"{page}.md").write_text("# Page\n")
    (source / "pipeline.png").write_bytes(b"")
    before = (source / "index.md").read_text()
    build_book.leave_out(source, plan.NOTEBOOKS, REAL | {"simulated": True})
    assert files_of(source) == files_of(ROOT / "book")
    assert (source / "index.md").read_text().split() == before.split()


def test_one_setting_for_the_address_gives_all_buttons_or_none(tmp_path):
    source = book_source(tmp_path)
    without = (source / "_config.yml").read_text()
    build_book.configure(source, REAL)
    config = yaml.safe_load((source / "_config.yml").read_text())
    assert "launch_buttons" not in config and not config["html"]["use_issues_button"]
    assert "abababababa" not in config["html"]["extra_footer"]
    assert "ababababab" in config["html"]["extra_footer"]
    assert "url =" not in config["sphinx"]["config"]["myst_substitutions"]["citation"]
    assert "uncommitted" not in config["html"]["extra_footer"]
    address = "https://example.org/github.com/a/b"
    (source / "_config.yml").write_text(without.replace('url: ""', f"url: {address}"))
    build_book.configure(source, REAL | {"commit": f"{REAL['commit']}-dirty"})
    config = yaml.safe_load((source / "_config.yml").read_text())
    assert "</code> with uncommitted changes" in config["html"]["extra_footer"]
    assert config["launch_buttons"]["binderhub_url"] and config["html"]["use_issues_button"]
    settings = config["sphinx"]["config"]
    assert settings["html_theme_options"]["repository_url"] == address
    assert f"url = {{{address}}}" in settings["myst_substitutions"]["citation"]


def test_a_folder_that_is_no_book_is_not_replaced(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit, match="something else than a book"):
        build_book.build_stored(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_articles_are_known_by_first_author_and_year():
    named = build_book.articles((ROOT / "book" / "references.bib").read_text())
    assert named["Guo et al. 2017"] == "guo2017"
    assert named["Selvaraju et al. 2017"] == "selvaraju2017"
    assert "Tukey et al. 1958" not in named


def test_the_book_stands_in_for_a_failed_step(tmp_path):
    notebook = tmp_path / "06_grad_cam.ipynb"
    text = build_book.stand_in(notebook, "no model")
    assert text.startswith("# 06") and "no model" in text
