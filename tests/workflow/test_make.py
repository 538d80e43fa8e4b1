"""What make says and starts where a study, a folder or a configuration of one's own is named."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hsc_utils.files import ROOT

AS_ROOT = " --allow-root" if os.getuid() == 0 else ""


def make(*words, folder=ROOT, set_up=True, **environment):
    """Call make as a user does, with the environment as it is set up."""
    command = ["make", *(["--assume-old=.venv/.ready"] if set_up else []), *words]
    # `make test` is itself a make, whose level and flags would show in what this one prints
    own = ("DRY", "LEUKOCYTES", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES")
    plain = {k: v for k, v in os.environ.items() if k not in own}
    return subprocess.run(
        command,
        cwd=folder,
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
        (["lab"], f"jupyter lab{AS_ROOT} notebooks"),
        (["lab", "CONFIG=a b.yaml"], 'python workflow/open_lab.py "$CONFIG"'),
        (["leukocytes"], "python workflow/fetch_leukocytes.py ${LEUKOCYTES:+"),
        (["leukocytes"], "--configfile workflow/config/leukocytes.yaml"),
        (["site"], "python workflow/build_book.py --stored _site"),
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
    for target in ("environment", "demo", "study", "run", "lab", "leukocytes", "paper"):
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


def program(folder, name, text):
    """Put a program into a folder that comes first in the PATH returned."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.parametrize("user", [0, 1000])
def test_jupyterlab_is_told_of_root_alone(tmp_path, user):
    shown = make("--dry-run", "lab", PATH=program(tmp_path, "id", f"echo {user}"))
    assert ("jupyter lab --allow-root notebooks" in shown.stdout) == (user == 0)
    assert ("JupyterLab refuses root" in shown.stdout) == (user == 0)


@pytest.fixture
def project(tmp_path):
    """What make needs to set up the environment; one with the lock's PyTorch is there."""
    for name in ("Makefile", "requirements.txt", "pyproject.toml", ".python-version"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".ready").touch()
    # a uv that notes what it is asked for, and finds no build of PyTorch named bad
    program(tmp_path / "bin", "uv", 'echo "$*" >> asked\ncase "$*" in *compile*bad*) exit 2; esac')
    return tmp_path


def set_up(project, *words):
    """Make the environment with the uv that takes notes; return these and what make said."""
    (project / "asked").write_text("")
    said = make("environment", *words, "UV=bin/uv", folder=project, set_up=False)
    return (project / "asked").read_text().splitlines(), said


def test_the_build_of_pytorch_that_was_asked_for_stays(project):
    assert set_up(project)[0] == [], "all is there"
    asked = [line.split(" --")[0] for line in set_up(project, "TORCH=cpu")[0]]
    assert asked == ["venv", "pip compile", "pip sync", "pip install", "pip install"]
    assert set_up(project)[0] == set_up(project, "TORCH=cpu")[0] == [], "it is remembered"
    os.utime(project / "requirements.txt")
    assert any("--torch-backend cpu" in line for line in set_up(project)[0]), "another lock"
    asked = "\n".join(set_up(project, "TORCH=lock")[0])
    assert "--require-hashes requirements.txt" in asked and "torch-backend" not in asked


def test_nothing_is_fetched_for_a_build_that_cannot_be_had(project):
    asked, said = set_up(project, "TORCH=bad")
    assert said.returncode == 2 and "PyTorch's build bad cannot be had, so nothing" in said.stderr
    assert not any("sync" in line or "pip install" in line for line in asked)
    assert set_up(project)[0] == [], "what was there is still what counts"


def test_an_interrupted_set_up_goes_on_with_the_same_build(project):
    whole = (project / "bin" / "uv").read_text()
    program(project / "bin", "uv", 'case "$*" in *sync*) exit 2; esac')
    assert set_up(project, "TORCH=cpu")[1].returncode == 2
    program(project / "bin", "uv", whole)
    assert any("--torch-backend cpu" in line for line in set_up(project)[0])
    assert set_up(project)[0] == []


def test_another_build_keeps_the_rest_of_the_lock(project):
    set_up(project, "TORCH=cpu")

    def pins(path):
        return set(re.findall(r"^([\w.-]+)==", path.read_text(), flags=re.MULTILINE))

    kept, lock = pins(project / ".venv" / "others.txt"), pins(project / "requirements.txt")
    apart = ("nvidia-", "cuda-")
    assert lock - kept == {"torch", "torchvision", "triton"} | {
        name for name in lock if name.startswith(apart)
    }
    assert pins(project / ".venv" / "torch.txt") == {"torch", "torchvision"}
    hashes = (project / ".venv" / "others.txt").read_text().count("--hash=sha256:")
    assert hashes > len(kept)


def test_the_active_environment_takes_the_place_of_ours(project):
    shown = make("--dry-run", "demo", "ACTIVE=1", set_up=False).stdout
    assert "workflow/Snakefile" in shown and ".venv" not in shown
    ours = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    assert make("active", "ACTIVE=1", PATH=ours).returncode == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ACTIVE=1"], "lacks this folder's package: make and activate one as environment.yml"),
        (["ACTIVE=1", "TORCH=cpu"], "TORCH chooses the build in .venv and has no meaning with"),
    ],
)
def test_an_active_environment_that_does_not_fit_is_refused(project, words, said):
    refused = make("environment", *words, folder=project)
    assert refused.returncode == 2
    assert f"error: {said}" in re.sub(r"the active environment \(.*?\) ", "", refused.stderr)


def test_an_active_zero_is_none():
    assert make("--dry-run", "demo", "ACTIVE=0").stdout == make("--dry-run", "demo").stdout
