"""Parameters are checked before a notebook starts, and the executed copy is kept."""

import nbformat
import papermill
import pytest

from hsc_utils import run

PARAMETERS = """
# where
study: str = "unused"  # folder
seed: int = 0  # any
learning_rate: float = 1e-3  # above 0
channels: list[int] = [0, 1, 2]  # slices
truth_csv: str | None = "truth.csv"  # or null
resume: bool = True  # yes or no
ranges: dict[str, float] = {"flip": 0.5, "zoom": 0.2}  # likewise
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
    ],
)
def test_command_line_text_becomes_the_declared_type(notebook, name, text, value):
    declared = run.declared_parameters(notebook)
    values = run.parse_command_line_values(declared, [(name, text)])
    assert run.check_parameters(declared, values, "-p") == {name: value}


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
    config.write_text("a: [")
    with pytest.raises(run.ParameterError, match="not valid YAML"):
        run.read_config(config, "04_cell_level_training")
