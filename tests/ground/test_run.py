"""Parameters are checked before a notebook starts, and the executed copy is kept."""

import os
import signal
import subprocess
import sys

import nbformat
import papermill
import pytest

from hsc_utils import run
from hsc_utils.files import ROOT

PARAMETERS = """
# where
study: str = "unused"  # folder
seed: int = 0  # any
learning_rate: float = 1e-3  # above 0
channels: list[int] = [0, 1, 2]  # slices
truth_csv: str | None = "truth.csv"  # or null
resume: bool = True  # yes or no
ranges: dict[str, float] = {"flip": 0.5, "zoom": 0.2}  # likewise
class_names: list[str] = []  # any
search: dict = {"image": "mean", "flatten": True, "sizes": [7.0, 8.0], "depth": None}  # likewise
raw_dir: str | None = None  # folder
"""


@pytest.fixture
def notebook(tmp_path):
    """A notebook that writes its parameters, and fails when told a negative seed."""
    cells = [
        nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(
            "from pathlib import Path\n"
            "if seed < 0: raise ValueError('seed must not be negative')\n"
            "_ = (Path(study) / 'seen.txt').write_text(repr((seed, learning_rate, channels)))"
        ),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path = tmp_path / "99_example.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


def test_declared_parameters_have_types_and_defaults(notebook):
    declared = run.declared_parameters(notebook)
    assert declared["learning_rate"] == (float, 1e-3)
    assert declared["channels"] == (list[int], [0, 1, 2])
    assert declared["truth_csv"] == (str | None, "truth.csv")


def test_misspelt_parameter_is_refused_with_the_nearest_name(notebook):
    declared = run.declared_parameters(notebook)
    with pytest.raises(run.ParameterError, match=r"'lerning_rate'.*did you mean 'learning_rate'"):
        run.check_parameters(declared, {"lerning_rate": 1.0}, "here")
    with pytest.raises(run.ParameterError, match=r"'zzz'.*known are study, seed"):
        run.check_parameters(declared, {"zzz": 1.0}, "here")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", "one"),
        ("seed", 1.5),
        ("seed", True),
        ("learning_rate", "fast"),
        ("channels", 0),
        ("channels", ["a"]),
        ("resume", 2),
        ("study", 3),
        ("study", None),
    ],
)
def test_ill_typed_parameter_is_refused_by_name(notebook, name, value):
    with pytest.raises(run.ParameterError, match=f"{name!r} in here must be .*, not"):
        run.check_parameters(run.declared_parameters(notebook), {name: value}, "here")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("seed", "3", 3),
        ("learning_rate", "1e-4", 1e-4),
        ("channels", "[0, 2]", [0, 2]),
        ("truth_csv", "null", None),
        ("truth_csv", "3", "3"),
        ("resume", "false", False),
        ("study", "2024", "2024"),
        ("study", "NO", "NO"),
        ("channels", "2", [2]),
        ("class_names", "[1, 2]", ["1", "2"]),
        ("class_names", "[007, 1e-4, null, 1:30, 2024-03-04]", None),
        ("class_names", "[on, Off, ~, 0x1F]", None),
        ("class_names", "[CD34+, CD34-]", None),
        ("class_names", "yes", ["yes"]),
        ("class_names", "*c-kit", ["*c-kit"]),
        ("class_names", "Lin-, Sca-1+: #2", ["Lin-, Sca-1+: #2"]),
        ("class_names", "['a, b', c]", ["a, b", "c"]),
        ("ranges", "{zoom: 1e-1}", {"flip": 0.5, "zoom": 0.1}),
    ],
)
def test_command_line_text_becomes_the_declared_type(notebook, name, text, value):
    declared = run.declared_parameters(notebook)
    values = run.parse_command_line_values(declared, [(name, text)])
    value = text.strip("[]").split(", ") if value is None and name == "class_names" else value
    assert run.check_parameters(declared, values, "-p") == {name: value}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("class_names: [NO, 007, 1e-4, null, ON]", ["NO", "007", "1e-4", "null", "ON"]),
        ("class_names: NO", ["NO"]),
        ("class_names: [CD34+, CD34-, +, -1]", ["CD34+", "CD34-", "+", "-1"]),
        ("study: 2024-03-04", "2024-03-04"),
        ("study: 'null'", "null"),
        ("seed: 010", 10),
        ("learning_rate: 1e-4", 1e-4),
        ("learning_rate: 5", 5.0),
        ("resume: no", False),
        ("truth_csv: ~", None),
        ("truth_csv:", None),
        ("channels: [2, 0]", [2, 0]),
        (
            "search: {image: off, flatten: off, sizes: [9, 1e1], depth: 12}",
            {"image": "off", "flatten": False, "sizes": [9.0, 10.0], "depth": 12},
        ),
    ],
)
def test_a_configuration_is_taken_as_written(notebook, tmp_path, monkeypatch, written, value):
    monkeypatch.setattr(run, "NOTEBOOKS_DIR", notebook.parent)
    config = tmp_path / "c.yaml"
    config.write_text(f"99_example:\n  {written}\n")
    assert run.read_config(config, "99_example") == {written.partition(":")[0]: value}


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("study: null", "'study'.*must be str, not None"),
        ("study: ''", "'study'.*must be str, not ''"),
        ("class_names: ", "'class_names'.*must be .*, not None"),
        ("learning_rate: nan", "'learning_rate'.*must be float"),
        ("learning_rate: .inf", "'learning_rate'.*must be float"),
        ("seed: 1.5", "'seed'.*must be int"),
        ("seed: true", "'seed'.*must be int"),
        ("search: {flatten: 2.5}", "'flatten' in 'search' in .* must be bool"),
        ("search: {sizes: [big]}", r"'sizes' in 'search' in .* must be list\[float\]"),
        ("seed: 1\n  seed: 2", "'seed' stands there twice"),
    ],
)
def test_what_cannot_be_meant_is_refused(notebook, tmp_path, monkeypatch, written, said):
    monkeypatch.setattr(run, "NOTEBOOKS_DIR", notebook.parent)
    config = tmp_path / "c.yaml"
    config.write_text(f"99_example:\n  {written}\n")
    with pytest.raises(run.ParameterError, match=said):
        run.read_config(config, "99_example")


def test_a_word_of_a_few_is_refused_with_the_nearest(capsys):
    assert run.main(["05_comparison_wang_et_al", "-p", "subset", "tset"]) == 2
    assert "Unknown subset 'tset'" in capsys.readouterr().err


def test_a_mapping_names_only_what_differs(notebook):
    declared = run.declared_parameters(notebook)
    checked = run.check_parameters(declared, {"ranges": {"zoom": 0}}, "here")
    assert checked == {"ranges": {"flip": 0.5, "zoom": 0}}
    with pytest.raises(run.ParameterError, match="'zoon' of 'ranges' in here; did you mean 'zoom'"):
        run.check_parameters(declared, {"ranges": {"zoon": 0}}, "here")


@pytest.mark.parametrize(
    ("notebook_name", "place"),
    [
        ("01_data_preparation", "prepared"),
        ("02_blob_tuning", "cells"),
        ("03_image_level_training", "runs/image/resnet50-slice0+2/seed7"),
        ("04_cell_level_training", "runs/cell/resnet50-slice0+2/seed7"),
        ("05_comparison_wang_et_al", "comparison"),
        ("06_grad_cam", "grad_cam"),
    ],
)
def test_the_executed_copy_lies_where_the_notebook_writes(tmp_path, notebook_name, place):
    parameters = {"study": str(tmp_path), "architecture": "resnet50", "seed": 7, "channels": [0, 2]}
    assert run.output_directory(notebook_name, parameters) == tmp_path / place


def test_a_configuration_names_its_study_once(tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text("study: results/mine\n02_blob_tuning: {side: 32}\nworkflow: {seeds: [0]}\n")
    assert run.read_config(config, "02_blob_tuning") == {"study": "results/mine", "side": 32}
    assert run.read_config(config, "06_grad_cam") == {"study": "results/mine"}


def test_runs_and_keeps_the_executed_copy(notebook, tmp_path, capsys):
    where = ["-p", "study", str(tmp_path / "out"), "-p", "learning_rate", "1e-4"]
    (tmp_path / "out").mkdir()
    assert run.main([str(notebook), *where]) == 0
    assert (tmp_path / "out" / "seen.txt").read_text() == "(0, 0.0001, [0, 1, 2])"
    executed = nbformat.read(tmp_path / "out" / notebook.name, as_version=4)
    assert all(cell.execution_count for cell in executed.cells)
    assert "wrote" in capsys.readouterr().out


def test_failure_is_one_sentence_and_keeps_what_was_there(notebook, tmp_path, capsys):
    run.main([str(notebook), "-p", "study", str(tmp_path)])
    assert run.main([str(notebook), "-p", "study", str(tmp_path), "-p", "seed", "-1"]) == 1
    assert "ValueError: seed must not be negative" in capsys.readouterr().err
    assert (tmp_path / notebook.with_suffix(".failed.ipynb").name).exists()
    assert (tmp_path / "seen.txt").exists()
    with pytest.raises(papermill.PapermillExecutionError):
        run.run_notebook(str(notebook), None, [("study", str(tmp_path)), ("seed", "-1")])


def test_unknown_notebook_and_bad_configuration(tmp_path, capsys):
    assert run.main(["04_cell_level_trainin"]) == 2
    assert "did you mean '04_cell_level_training'" in capsys.readouterr().err
    with pytest.raises(run.ParameterError, match="does not exist"):
        run.read_config(tmp_path / "none.yaml", "04_cell_level_training")
    config = tmp_path / "bad.yaml"
    config.write_text("04_cell_level_trainin: {}")
    with pytest.raises(run.ParameterError, match="did you mean '04_cell_level_training'"):
        run.read_config(config, "04_cell_level_training")
    with pytest.raises(run.ParameterError, match="cannot be read"):
        run.read_config(tmp_path, "04_cell_level_training")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: [", "not valid YAML"),
        (b"", "must map notebook names"),
        (b"\0" * 100, "not valid YAML"),
        (b"dataset: K\xf6rper", "not valid YAML"),
        (b"\tstudy: a", "not valid YAML"),
        (b"workflow: [1]", "must map names to values"),
        (b"workflow: {seed: [1]}", "did you mean 'seeds'"),
        (b"workflow: {cores_per_run: {cells: 1}}", "did you mean 'cell'"),
        # a fault in another section than the one that is run
        (b"04_cell_level_training: {pacience: 3}", "did you mean 'patience'"),
        (b"06_grad_cam: {cell_stride: 12}", "known are 32, 16, 8"),
        (b"study: a\n02_blob_tuning: {study: b}", "several studies: a, b"),
    ],
)
def test_a_damaged_or_wrong_configuration_is_named(tmp_path, capsys, content, said):
    config = tmp_path / "bad.yaml"
    config.write_bytes(content)
    assert run.main(["01_data_preparation", "--config", str(config)]) == 2
    error = capsys.readouterr().err
    assert "bad.yaml" in error and said in error


@pytest.mark.parametrize("content", [b"", b'{"cells": [', b"\xff\xfe", b"[]", b'{"cells": []}'])
def test_a_damaged_notebook_is_named(tmp_path, capsys, content):
    path = tmp_path / "99_cut.ipynb"
    path.write_bytes(content)
    assert run.main([str(path)]) == 2
    assert "99_cut.ipynb is damaged" in capsys.readouterr().err


# paths


def test_a_path_on_the_command_line_counts_from_the_callers_folder(
    notebook, tmp_path, monkeypatch, capsys
):
    mine = tmp_path / "my lab's {data}"
    (mine / "raw").mkdir(parents=True)
    monkeypatch.chdir(mine)
    assert run.main([str(notebook), "-p", "study", "out {1}", "-p", "raw_dir", "./raw"]) == 0
    assert (mine / "out {1}" / "seen.txt").exists()
    assert run.main([str(notebook), "-p", "study", "no", "-p", "raw_dir", "mydata"]) == 2
    assert "{data}/mydata does not exist" in capsys.readouterr().err
    assert not (mine / "no").exists(), "nothing is made before the inputs are there"
    assert run.main([str(notebook), "--config", "my.yaml"]) == 2
    assert "{data}/my.yaml does not exist" in capsys.readouterr().err
    monkeypatch.chdir(ROOT / "data")
    declared = {"raw_dir": (str | None, None)}
    assert run.main([str(notebook), "-p", "raw_dir", "../none", "-p", "study", str(mine)]) == 2
    assert "raw_dir: none does not exist" in capsys.readouterr().err
    assert run.check_parameters(declared, {"raw_dir": "null"}, "-p") == {"raw_dir": None}


def test_a_path_in_a_configuration_counts_from_the_repository(tmp_path, monkeypatch, capsys):
    config = tmp_path / "mine.yaml"
    config.write_text("study: results/none\n01_data_preparation: {raw_dir: mydata}\n")
    (tmp_path / "mydata").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run.main(["01_data_preparation", "--config", "mine.yaml"]) == 2
    error = capsys.readouterr().err
    assert "mydata does not exist" in error and "repository" in error
    assert not (ROOT / "results" / "none").exists()


# what the machine does


def test_an_interruption_is_one_sentence(notebook, tmp_path):
    slow = nbformat.read(notebook, as_version=4)
    slow.cells[1].source = "import time\nprint('started', flush=True)\ntime.sleep(60)"
    nbformat.write(slow, notebook)
    command = [sys.executable, "-m", "hsc_utils.run", str(notebook), "-p", "study", str(tmp_path)]
    for wait in (True, False):  # in the notebook, and while the libraries load
        running = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
            start_new_session=True,
        )  # fmt: skip
        if wait:
            running.stdout.readline()
        else:
            with pytest.raises(subprocess.TimeoutExpired):
                running.wait(0.7)
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does
        said = running.communicate(timeout=60)[1]
        assert said.strip() == "Interrupted; start again to continue."
        assert running.returncode == 130
    assert not (tmp_path / notebook.name).with_name(f".{notebook.name}").exists()


def test_a_home_that_cannot_be_written_is_no_hindrance(notebook, tmp_path):
    command = [sys.executable, "-m", "hsc_utils.run", str(notebook), "-p", "study", str(tmp_path)]
    for home in ("/dev/null", str(tmp_path / "none")):
        done = subprocess.run(
            command, env=os.environ | {"HOME": home}, cwd=ROOT, capture_output=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, b"")


def test_windows_is_refused_in_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "win32")
    assert run.main(["01_data_preparation"]) == 2
    assert "Windows is not supported" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["02_blob_tuning", "04_cell_level_training", "08_new_images"])
def test_parameters_are_listed_with_what_they_mean(name, capsys):
    assert run.main([name, "--list"]) == 0
    said = capsys.readouterr().out
    declared = run.declared_parameters(run.find_notebook(name))
    for parameter, (_, default) in declared.items():
        assert f"  {parameter}: " in said
        for entry in default if isinstance(default, dict) else ():
            assert f'"{entry}":' in said
    assert "results/demo" in said
    assert run.main(["04_cell_level_trainin", "--list"]) == 2


def test_a_part_of_a_mapping_leaves_the_rest_as_it_is():
    """Also entries whose default is an empty text, when the mapping is checked a second time."""
    declared = run.declared_parameters(run.find_notebook("02_blob_tuning"))
    once = run.check_parameters(declared, {"ready_cells": {"small_classes": "train"}}, "a file")
    assert once["ready_cells"]["dataset"] == ""
    assert run.check_parameters(declared, once, "a file") == once
