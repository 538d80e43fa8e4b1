"""What is published agrees: versions, names, licences, and every command and file that is named."""

import json
import re
import subprocess
import tomllib

import pytest
import yaml

from hsc_utils.files import ROOT, shown_path

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
ZENODO = json.loads((ROOT / ".zenodo.json").read_text())
TARGETS = set(re.findall(r"^([a-z]+):(?!=)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=[path.stem for path in WORKFLOWS])
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"]
PAGES += [f"book/{path.name}" for path in (ROOT / "book").glob("*.md")]
SETTINGS = (
    "Dockerfile",
    "environment.yml",
    ".devcontainer/devcontainer.json",
    ".pre-commit-config.yaml",
)


def steps_of(path):
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


def read(path):
    # "on" is true to YAML 1.1, which PyYAML speaks and GitHub does not
    return yaml.load(path.read_text(), yaml.BaseLoader)


def test_versions_agree():
    newest = re.search(r"^## \[(\d.*?)\] - \d{4}-\d\d-\d\d$", changelog(), flags=re.MULTILINE)
    versions = {PROJECT["project"]["version"], CITATION["version"], ZENODO["version"], newest[1]}
    assert len(versions) == 1, versions


def changelog():
    return (ROOT / "CHANGELOG.md").read_text()


def test_title_authors_and_licence_agree():
    assert CITATION["title"] == ZENODO["title"]
    cited = [
        author.get("name") or f"{author['family-names']}, {author['given-names']}"
        for author in CITATION["authors"]
    ]
    assert cited == [creator["name"] for creator in ZENODO["creators"]]
    assert CITATION["license"] == ZENODO["license"] == PROJECT["project"]["license"]
    licence = (ROOT / "LICENSE").read_text()
    assert licence.startswith(f"{CITATION['license']} License") and cited[0] in licence
    paper = CITATION["references"][0]
    described = ZENODO["description"]
    assert paper["title"] in described and paper["number"] in described
    assert all(author["family-names"] in described for author in paper["authors"])


def test_every_package_of_the_project_is_installed():
    """Besides the editable install that make does, which finds any folder."""
    folders = {path.parent.relative_to(ROOT) for path in ROOT.glob("hsc_utils/**/__init__.py")}
    packages = {".".join(folder.parts) for folder in folders}
    assert packages == set(PROJECT["tool"]["setuptools"]["packages"])


@pytest.mark.parametrize("name", [*PAGES, *SETTINGS, *map(shown_path, WORKFLOWS)])
def test_every_make_that_is_named_exists(name):
    text = (ROOT / name).read_text()
    if name.endswith(".md"):  # its code alone: "make sure" is no target
        text = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text, flags=re.DOTALL))
    named = set(re.findall(r"\bmake ([a-z]+)\b", text))
    assert named <= TARGETS, f"{name} names {named - TARGETS}"


def test_every_file_that_contributing_names_exists():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"`((?:[\w.]+/)+[\w.]*)`", text)) | set(re.findall(r"\]\((.*?)\)", text))
    there = {name for name in named if (ROOT / name).exists()}
    assert len(named) > 10 and named - there <= {".venv/bin/pytest"}


def test_every_function_that_contributing_names_exists():
    recipes = (ROOT / "CONTRIBUTING.md").read_text().partition("## Add a backbone")[2]
    named = set(re.findall(r"`(_?[a-z]+_[a-z_]+|_?[A-Z_]{5,})`", recipes))
    named -= {"image_models", "cell_models"}  # settings of a configuration
    folders = (ROOT / name for name in ("hsc_utils", "tests", "benchmarks"))
    code = "".join(path.read_text() for folder in folders for path in folder.rglob("*.py"))
    found = re.findall(r"^(?:    )?(?:def |class )(\w+)|^(\w+) *[:=]", code, flags=re.MULTILINE)
    defined = {name for pair in found for name in pair}
    assert len(named) > 15 and named <= defined, named - defined


@each_workflow
def test_workflows_trust_nothing_that_others_write(path):
    workflow = read(path)
    assert workflow["permissions"] == {} and workflow["concurrency"]["group"]
    assert "pull_request_target" not in workflow["on"]
    for job in workflow["jobs"].values():
        assert job["permissions"] and int(job["timeout-minutes"]) <= 90
    for step in steps_of(path):
        # what an expression holds would be run: it goes through the environment instead
        assert "${{" not in step.get("run", "")
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"])
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] == "false"


def test_one_action_has_one_version():
    pins = re.findall(
        r"uses: (\S+)@(\w+) # (v[\d.]+)$", "".join(p.read_text() for p in WORKFLOWS), re.M
    )
    assert len(pins) == sum("uses" in step for path in WORKFLOWS for step in steps_of(path))
    assert len({name for name, *_ in pins}) == len(set(pins))


def test_forms_and_settings_can_be_read():
    for path in (ROOT / ".github").rglob("*.yml"):
        assert read(path), path
    forms = [read(path) for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml")]
    assert len(forms) == 3 and all(form["name"] and form["body"] for form in forms)
    hooks = [
        hook for repo in read(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]
    ]
    assert len({hook["id"] for hook in hooks}) == len(hooks)


def test_the_container_is_that_of_the_demo():
    settings = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    recipe = (ROOT / "Dockerfile").read_text()
    python = (ROOT / ".python-version").read_text().strip()
    stage, user = settings["build"]["target"], settings["remoteUser"]
    assert f"FROM python:{python}-slim" in recipe and f" AS {stage}\n" in recipe
    assert f"USER {user}\n" in recipe and recipe.rstrip().endswith('CMD ["make", "demo"]')


def test_no_image_holds_what_git_ignores():
    """What the commands make, and raw data, stay out of containers too."""
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}
    kept_out = (ROOT / ".dockerignore").read_text().splitlines()
    kept_out = {line.removeprefix("**/").strip("/") for line in kept_out}
    assert {line for line in ignored if not line.startswith("#")} <= kept_out


def test_the_archive_holds_results_and_book_alone(tmp_path):
    """Packed as a release does; neither raw images nor caches of any depth."""
    for name in ("demo/book/index.html", "demo/raw/a.oir", "demo/new_day/raw/b.oir"):
        (tmp_path / "results" / name).parent.mkdir(parents=True)
        (tmp_path / "results" / name).touch()
    shown = subprocess.run(
        ["make", "--dry-run", "--assume-old=.venv/.ready", "archive"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    (pack,) = [line for line in shown.stdout.splitlines() if line.startswith("tar ")]
    subprocess.run(pack, shell=True, cwd=tmp_path, check=True)
    archive = tmp_path / f"results/demo-{PROJECT['project']['version']}.tar.gz"
    listed = subprocess.run(["tar", "-tzf", archive], capture_output=True, text=True, check=True)
    files = {line for line in listed.stdout.split() if not line.endswith("/")}
    assert files == {"demo/book/index.html"}
