"""What make says and starts where a study, a folder or a configuration of one's own is named."""

import os
import subprocess
import sys

import pytest
import yaml

from hsc_utils.files import ROOT


def make(*words, **environment):
    """Call make as a user does, with the environment as it is set up."""
    command = ["make", "--assume-old=.venv/.ready", *words]
    # `make test` is itself a make, whose level and flags would show in what this one prints
    own = ("DRY", "LEUKOCYTES", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES")
    plain = {k: v for k, v in os.environ.items() if k not in own}
    return subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=plain | {"LC_ALL": "C"} | environment,
    )


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        (["study"], "NAME"),
        (["study", "NAME=mine"], "RAW"),
        (["study", "NAME=", "RAW=/data"], "NAME"),
        (["run"], "CONFIG"),
        (["run", "CONFIG= "], "CONFIG"),
    ],
)
def test_what_is_missing_is_said_in_a_sentence(words, missing):
    refused = make(*words)
    assert refused.returncode == 2 and refused.stdout == ""
    assert f"error: {missing} is missing. Say for instance: make " in refused.stderr


def test_a_name_in_the_environment_is_nobodys_study():
    """WSL, for instance, holds the computer's NAME there."""
    assert "NAME is missing" in make("study", "RAW=/data", NAME="desktop").stderr
    assert "CONFIG is missing" in make("run", CONFIG="other.yaml").stderr


def test_names_may_hold_spaces_and_quotes(tmp_path):
    folder = tmp_path / "o'neil's \"own\" data"
    folder.mkdir()
    config = folder / "my study.yaml"
    sections = yaml.safe_load((ROOT / "workflow/config/demo.yaml").read_text())
    config.write_text(yaml.safe_dump(sections | {"study": str(folder / "study")}))
    shown = make("run", f"CONFIG={config}", "DRY=1")
    assert shown.returncode == 0, shown.stderr
    assert "  runs     7 (2 on images, 5 on cells): 0 done, 7 to do" in shown.stdout
    assert "The book" not in shown.stdout and not (folder / "study").exists()
    said = subprocess.run(
        ["python", "workflow/plan.py", str(config)], cwd=ROOT, capture_output=True, text=True
    )
    assert said.stdout == f"The book: {folder}/study/book/index.html\n"


def test_a_configuration_that_is_not_there_is_named():
    refused = make("run", "CONFIG=no such.yaml")
    assert refused.returncode == 2
    assert "no such.yaml does not exist" in refused.stderr and "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("words", "started"),
    [
        (["study", "NAME=mine", "RAW=/a b"], '-m hsc_utils.new_study "results/$NAME" --raw "$RAW"'),
        (["run", "CONFIG=a b.yaml"], '--configfile "$CONFIG" --cores'),
        (["lab"], "jupyter lab notebooks"),
        (["lab", "CONFIG=a b.yaml"], 'python workflow/open_lab.py "$CONFIG"'),
        (["leukocytes"], "python workflow/fetch_leukocytes.py ${LEUKOCYTES:+"),
        (["leukocytes"], "--configfile workflow/config/leukocytes.yaml"),
    ],
)
def test_each_target_starts_what_it_says(words, started):
    assert started in make("--dry-run", *words).stdout


def test_a_dry_make_of_the_leukocytes_fetches_nothing():
    recipe = make("--dry-run", "leukocytes", "DRY=1").stdout
    assert "fetch_leukocytes.py" not in recipe and "snakemake --" not in recipe
    assert "preview.py" in recipe and "--start" not in recipe


def test_help_names_every_target_that_a_user_calls():
    said = make("help").stdout
    for target in ("demo", "study", "run", "lab", "leukocytes", "paper"):
        assert f"\nmake {target} " in f"\n{said}"


def test_notebooks_are_laid_out_for_a_study(tmp_path):
    """Copies hold the study's parameters, leave out what it has no use for, and are never lost."""
    config = tmp_path / "mine.yaml"
    study = tmp_path / "results"
    config.write_text(
        f"study: {study}\n02_blob_tuning:\n  ready_cells_dir: {tmp_path}\n"
        "04_cell_level_training:\n  image_model: null\n  max_epochs: 3\n"
    )
    command = [sys.executable, str(ROOT / "workflow" / "open_lab.py"), str(config)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == [str(study / "notebooks")]
    names = sorted(path.stem[:2] for path in (study / "notebooks").glob("*.ipynb"))
    assert names == ["02", "04", "05", "06", "07"]
    copy = study / "notebooks" / "04_cell_level_training.ipynb"
    assert "max_epochs = 3" in copy.read_text()
    copy.write_text("somebody's work")
    subprocess.run(command, capture_output=True, check=True)
    assert copy.read_text() == "somebody's work"
