"""Build the Jupyter Book of the study that a configuration file names, ``build_book.py CONFIG``.

Pages of prose, pages that the study wrote and executed notebooks are put side by side in a scratch
folder, so that the sources stay clean and any study can be published with the same pages. A
simulated study may tell what was planted, ``truth/planted.md`` with ``planted*.png`` beside it.
What a study has no page for, such as a notebook that it leaves out, is taken from the contents
and is linked nowhere.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nbformat
import plan
import yaml

from hsc_utils import provenance
from hsc_utils.files import ROOT
from hsc_utils.manifest import read_cells
from hsc_utils.study import Run, Study, failure_of

# what a study may go without, and why
LEFT_OUT = {
    plan.PREPARATION: "its cells came ready",
    plan.IMAGE_LEVEL: "they came without whole images",
    plan.NEW_IMAGES: "it was given no new images",
}
# the sentence of index.md that is true of a simulated study alone
SIMULATED_PAGES = r"The pages you see here were made from \*\*simulated.*?look like\."
CARDS = (
    "What each model that this book audits, or predicts new images with, was trained on and is "
    "good for, written from its record. The same text lies beside the model, as `MODEL_CARD.md`."
)


def folded(path: Path) -> nbformat.NotebookNode:
    """Read an executed notebook with its code folded away, one click from the reader."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), "hide-input"]
    return notebook


def stand_in(notebook: Path, reason: str) -> str:
    """Write the page of a notebook that failed."""
    title = nbformat.read(ROOT / "notebooks" / notebook.name, as_version=4).cells[0].source
    return (
        f"{title.splitlines()[0]}\n\nThis step has no results here, because it failed:\n\n"
        f"```text\n{reason}\n```\n\nThe same command tries it again.\n"
    )


def copy_pages(study: Study, source: Path) -> None:
    """Copy the pages that a study wrote to the book's own, with a place in the contents."""
    for name in ("claims.md", "tables.md"):
        shutil.copy(study.tables / name, source)
    overview = study.root / "overview.png"
    if overview.exists():
        shutil.copy(overview, source / "pipeline.png")
    else:  # never another study's picture
        (source / "pipeline.png").unlink()
        index = source / "index.md"
        shown = re.sub(r"```{image} pipeline.*?```\n", "", index.read_text(), flags=re.DOTALL)
        index.write_text(shown)
    if not (planted := study.truth / "planted.md").exists():
        return
    for path in [planted, *study.truth.glob("planted*.png")]:
        shutil.copy(path, source)
    contents = yaml.safe_load((source / "_toc.yml").read_text())
    part = next(part for part in contents["parts"] if {"file": "claims"} in part["chapters"])
    part["chapters"].insert(part["chapters"].index({"file": "claims"}) + 1, {"file": "planted"})
    (source / "_toc.yml").write_text(yaml.safe_dump(contents, sort_keys=False))


def write_cards(runs: Sequence[Run], source: Path) -> None:
    """Put the model cards of runs, those that have one, on a page of their own."""
    # each a level lower: the page has a title of its own
    cards = [
        re.sub("^#", "##", run.card_file.read_text(), flags=re.MULTILINE)
        for run in runs
        if run.card_file.exists()
    ]
    if cards:
        page = ["# Model cards", CARDS, *cards]
        (source / "model_cards.md").write_text("\n\n".join(page))


def leave_out(source: Path, study: Study, notebooks: Sequence[str]) -> None:
    """Take notebooks and cards that a study does not have from the contents and from all links.

    The first page says which notebooks those are, and why; of a study that is not simulated also
    what it is of.
    """
    absent = {name: why for name, why in LEFT_OUT.items() if name not in notebooks}
    pages = [f"notebooks/{name}" for name in absent]
    pages += ["model_cards"] * (not (source / "model_cards.md").exists())
    contents = yaml.safe_load((source / "_toc.yml").read_text())
    for part in contents["parts"]:
        part["chapters"] = [page for page in part["chapters"] if page["file"] not in pages]
    (source / "_toc.yml").write_text(yaml.safe_dump(contents, sort_keys=False))
    for page in source.glob("*.md"):
        text = page.read_text()
        for name in pages:
            text = re.sub(rf"\[([^][]*)\]\({name}(#[^)]*)?\)", r"\1", text)
            text = re.sub(rf'<a href="{name}\.html[^"]*">(.*?)</a>', r"\1", text)
        page.write_text(text)
    index = source / "index.md"
    said = [f"{name[:2]} ({why})" for name, why in absent.items()]
    left_out = f"This study goes without notebooks {', '.join(said)}." if said else ""
    text = index.read_text()
    if not read_cells(study.cells)["simulated"].any():
        dataset = provenance.dataset_name(study.prepared, study.cells)
        own = f"This book was made from other data than the demo's: *{dataset}*."
        text, found = re.subn(SIMULATED_PAGES, own, text, flags=re.DOTALL)
        if not found:
            raise ValueError("index.md lacks the sentence about simulated acquisitions.")
    head, where, rest = text.partition("## Where to start")
    index.write_text(f"{head}{left_out}\n\n{where}{rest}")


def build(output: Path, study: Study, notebooks: list[Path], runs: Sequence[Run]) -> None:
    """Render pages and notebooks as HTML into a folder, warnings being errors.

    The model cards of the runs given stand among them.
    """
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "book"
        shutil.copytree(ROOT / "book", source)
        shutil.copy(ROOT / "data" / "README.md", source / "data_card.md")
        copy_pages(study, source)
        write_cards(runs, source)
        leave_out(source, study, [notebook.stem for notebook in notebooks])
        (source / "notebooks").mkdir()
        for notebook in notebooks:
            page = source / "notebooks" / notebook.name
            reason = failure_of(notebook.parent)
            if not notebook.exists() or plan.unreadable(notebook):
                reason = reason or "its executed notebook is missing or damaged"
            if reason:
                page.with_suffix(".md").write_text(stand_in(notebook, reason))
            else:
                nbformat.write(folded(notebook), page)
        command = ["jupyter-book", "build", "--warningiserror", "--keep-going", str(source)]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        if finished.returncode:
            sys.exit(f"The book could not be built:\n{finished.stdout}\n{finished.stderr}")
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(source / "_build" / "html", output)


if __name__ == "__main__":
    config = sys.argv[1]
    study, runs = plan.study_of(config), plan.carded_runs(config)
    build(study.book, study, plan.chapters(config), runs)
