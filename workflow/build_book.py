"""Build the Jupyter Book of the study that a configuration file names, ``build_book.py CONFIG``.

Pages of prose, pages that the study wrote and executed notebooks are put side by side in a scratch
folder, so that the sources stay clean and any study can be published with the same pages. What a
study has no page for, such as a notebook that it leaves out, is taken from the contents and is
linked nowhere.

``build_book.py --stored FOLDER`` builds the book of the demo from what the repository holds alone,
``notebooks/`` and ``book/stored``: nothing is run.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import nbformat
import plan
import yaml
from book_pages import (
    Figure,
    cite_articles,
    lightened,
    link_first_uses,
    list_of_figures,
    page_of,
    terms_of,
)
from explorer import EXPLORED, copy_script, write_explorer

from hsc_utils import provenance
from hsc_utils.files import ROOT, from_caller
from hsc_utils.manifest import read_cells
from hsc_utils.run import NOTEBOOKS_DIR
from hsc_utils.study import Run, Study, failure_of

STORED = ROOT / "book" / "stored"
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
# pages that are written here, or whose file lies elsewhere: the repository has none to show
_NO_SOURCE = ("claims", "planted", "tables", "model_cards", "explore", "figures", "data_card")


def gather(study: Study, runs: Sequence[Run], folder: Path) -> None:
    """Put the pages that a study wrote into a folder, and ``record.json``: whose results they are.

    The model cards of runs, those that have one, become a page, and into the results of the first
    run on cells a reader may look.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pages = [study.tables / "claims.md", study.tables / "tables.md"]
    pages += [*study.truth.glob("planted.md"), *study.truth.glob("planted*.png")]
    for page in pages:
        shutil.copy(page, folder)
    if (overview := study.root / "overview.png").exists():
        shutil.copy(overview, folder / "pipeline.png")
    cards = [_folded_card(run.card_file.read_text()) for run in runs if run.card_file.exists()]
    if cards:
        page = ["# Model cards", CARDS, *cards]
        (folder / "model_cards.md").write_text("\n\n".join(page))
    explored = next((run for run in runs if run.level == "cell"), None)
    try:
        if explored:
            write_explorer(study, explored, folder)
    except (ValueError, FileNotFoundError) as error:  # a stale or damaged run stops no book
        text = f"# Look into the results\n\nThis page could not be made: {error}\n"
        (folder / "explore.md").write_text(text)
    records = [path / "provenance.json" for path in (study.prepared, study.cells, study.shortcuts)]
    made = [json.loads(path.read_text()) for path in records if path.exists()]
    last = max(made, key=lambda record: record["written_at"], default={})
    record = {
        "dataset": provenance.dataset_name(study.prepared, study.cells),
        "simulated": bool(read_cells(study.cells)["simulated"].any()),
        "commit": last.get("git_commit", "unknown"),
        "date": last.get("written_at", "unknown")[:10],
    }
    (folder / "record.json").write_text(json.dumps(record, indent=2) + "\n")


def _folded_card(card: str) -> str:
    """Fold a model card's sections away below its title, a level lower than on its own."""
    title, _, text = card.partition("\n")
    sections = re.sub("^## (.*)$", r"**\1**", text.strip(), flags=re.MULTILINE)
    return f"#{title}\n\n::::{{dropdown}} Show the card\n{sections}\n::::"


def stand_in(notebook: Path, reason: str) -> str:
    """Write the page of a notebook that failed."""
    title = nbformat.read(NOTEBOOKS_DIR / notebook.name, as_version=4).cells[0].source
    return (
        f"{title.splitlines()[0]}\n\nThis step has no results here, because it failed:\n\n"
        f"```text\n{reason}\n```\n\nThe same command tries it again.\n"
    )


def write_notebooks(notebooks: Sequence[Path], source: Path) -> list[Figure]:
    """Lay executed notebooks out as pages, let failed ones say why, and return their figures."""
    (source / "notebooks").mkdir()
    figures = []
    for notebook in notebooks:
        target = source / "notebooks" / notebook.name
        reason = failure_of(notebook.parent)
        if not notebook.exists() or plan.unreadable(notebook):
            reason = reason or "its executed notebook is missing or damaged"
        if reason:
            target.with_suffix(".md").write_text(stand_in(notebook, reason))
            continue
        page, shown = page_of(notebook, target.parent)
        nbformat.write(page, target)
        figures += shown
    return figures


def link_words(source: Path) -> None:
    """Link glossary terms where each page first uses them, and cite articles that are named."""
    terms = terms_of((source / "glossary.md").read_text())
    keys = articles((source / "references.bib").read_text())
    for path in [*source.glob("*.md"), *source.glob("notebooks/*.ipynb")]:
        if path.stem in ("glossary", "references", "figures", "explore"):
            continue
        if path.suffix == ".md":
            (text,) = link_first_uses([cite_articles(path.read_text(), keys)], terms)
            path.write_text(text)
            continue
        notebook = nbformat.read(path, as_version=4)
        prose = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
        linked = link_first_uses([cite_articles(cell.source, keys) for cell in prose], terms)
        for cell, text in zip(prose, linked, strict=True):
            cell.source = text
        nbformat.write(notebook, path)


def articles(bibliography: str) -> dict[str, str]:
    """Return how the text names articles of several authors, such as Guo et al. 2017, by key."""
    entries = re.findall(r"@\w+\{(\w+),(.*?)\n\}", bibliography, flags=re.DOTALL)
    named = {}
    for key, fields in entries:
        authors = re.search(r"author\s*=\s*\{(.*)\}", fields)[1]
        if " and " in authors:
            first = authors.partition(",")[0]
            named[f"{first} et al. {re.search(r'year *= *{(\d+)}', fields)[1]}"] = key
    return named


def leave_out(source: Path, notebooks: Sequence[str], record: Mapping[str, object]) -> None:
    """Take pages that a study does not have from the contents and from all links.

    The first page says which notebooks those are, and why; of a study that is not simulated also
    what it is of.
    """
    contents, absent = yaml.safe_load((source / "_toc.yml").read_text()), []
    for part in contents["parts"]:
        pages = [page["file"] for page in part["chapters"]]
        absent += [page for page in pages if not any(source.glob(f"{page}.*"))]
        part["chapters"] = [{"file": page} for page in pages if page not in absent]
    (source / "_toc.yml").write_text(yaml.safe_dump(contents, sort_keys=False))
    for page in source.glob("*.md"):
        text = page.read_text()
        for name in absent:
            text = re.sub(rf"\[([^][]*)\]\({name}(#[^)]*)?\)", r"\1", text)
            text = re.sub(rf'<a href="{name}\.html[^"]*">(.*?)</a>', r"\1", text)
        page.write_text(text)
    index = source / "index.md"
    text = index.read_text()
    if not (source / "pipeline.png").exists():  # never another study's picture
        text = re.sub(r":::\{figure\} pipeline.*?:::\n", "", text, flags=re.DOTALL)
    said = [f"{name[:2]} ({why})" for name, why in LEFT_OUT.items() if name not in notebooks]
    left_out = f"This study goes without notebooks {', '.join(said)}." if said else ""
    if not record["simulated"]:
        own = f"This book was made from other data than the demo's: *{record['dataset']}*."
        text, found = re.subn(SIMULATED_PAGES, own, text, flags=re.DOTALL)
        if not found:
            raise ValueError("index.md lacks the sentence about simulated acquisitions.")
    head, where, rest = text.partition("## Where to start")
    index.write_text(f"{head}{left_out}\n\n{where}{rest}")


def configure(source: Path, record: Mapping[str, object]) -> None:
    """Complete ``_config.yml``: the foot of each page, and what the repository's address allows.

    Without an address there are no buttons to launch, to see a source or to open an issue.
    """
    config = yaml.safe_load((source / "_config.yml").read_text())
    version, commit = metadata.version("hsc-utils"), str(record["commit"])
    config["html"]["extra_footer"] = (
        f"<p>hsc-utils {version}, results of {record['date']}, made at commit "
        f"<code>{commit.removesuffix('-dirty')[:10]}</code>"
        f"{' with uncommitted changes' * commit.endswith('-dirty')}</p>"
    )
    options = config["sphinx"]["config"]["html_theme_options"]
    if address := config["repository"]["url"]:
        options |= {"repository_url": address, "use_source_button": True}
        config["sphinx"]["local_extensions"] = {"page_sources": str(ROOT / "workflow")}
        config["sphinx"]["config"]["extensions"].append("page_sources")
        config["sphinx"]["config"]["html_context"]["pages_without_source"] = [*_NO_SOURCE]
        config["html"] |= {"use_issues_button": True, "use_repository_button": True}
    else:
        del config["launch_buttons"], config["repository"]
    cited = citation(address, str(record["date"])[:4])
    config["sphinx"]["config"]["myst_substitutions"] = {"citation": cited}
    (source / "_config.yml").write_text(yaml.safe_dump(config, sort_keys=False))


def citation(address: str, year: str) -> str:
    """Say in BibTeX how to cite this companion, from CITATION.cff."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    authors = " and ".join(_author(author) for author in cited["authors"])
    fields = {
        "author": f"{{{authors}}}",
        "title": f"{{{cited['title']}}}",
        "version": f"{{{cited['version']}}}",
        "year": f"{{{year}}}",
    } | ({"url": f"{{{address}}}"} if address else {})
    lines = ",\n".join(f"  {name} = {value}" for name, value in fields.items())
    return f"```bibtex\n@software{{hsc_companion,\n{lines}\n}}\n```"


def _author(author: Mapping[str, str]) -> str:
    """Write an author as BibTeX does; a group is kept whole."""
    if "name" in author:
        return f"{{{author['name']}}}"
    return f"{author['family-names']}, {author['given-names']}"


def build(output: Path, gathered: Path, notebooks: Sequence[Path]) -> None:
    """Render pages and notebooks as HTML into a folder, warnings being errors.

    Parameters
    ----------
    output : path
        The folder, replaced.
    gathered : path
        The folder that `gather` wrote.
    notebooks : sequence of path
        Executed, in their order.
    """
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "book"
        ours = shutil.ignore_patterns("pipeline.png", "stored")
        shutil.copytree(ROOT / "book", source, ignore=ours)
        shutil.copy(ROOT / "data" / "README.md", source / "data_card.md")
        shutil.copytree(gathered, source, dirs_exist_ok=True)
        record = json.loads((source / "record.json").read_text())
        figures = write_notebooks(notebooks, source)
        if "fig-explore" in _text_of(source / "explore.md"):
            copy_script(source)
            figures += [Figure("explore", *figure, "") for figure in EXPLORED]
        if figures:
            (source / "figures.md").write_text(list_of_figures(figures))
        leave_out(source, [notebook.stem for notebook in notebooks], record)
        link_words(source)
        configure(source, record)
        command = ["jupyter-book", "build", "--warningiserror", "--keep-going", str(source)]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        if finished.returncode:
            sys.exit(f"The book could not be built:\n{finished.stdout}\n{finished.stderr}")
        html = source / "_build" / "html"
        for notebook in notebooks:  # to download: the notebook as it ran, not its page
            if (page := html / "_sources" / "notebooks" / notebook.name).exists():
                nbformat.write(lightened(nbformat.read(notebook, as_version=4)), page)
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(html, output)


def _text_of(page: Path) -> str:
    """Return what a page says, nothing where there is none."""
    return page.read_text() if page.exists() else ""


def build_study(config: str) -> None:
    """Build the book of a study."""
    study = plan.study_of(config)
    with tempfile.TemporaryDirectory() as scratch:
        gather(study, plan.carded_runs(config), Path(scratch))
        build(study.book, Path(scratch), plan.chapters(config))


def build_stored(output: Path) -> None:
    """Build the demo's book from what the repository holds; only a book is replaced."""
    if output.exists() and any(output.iterdir()) and not (output / "index.html").exists():
        sys.exit(f"error: {output} holds something else than a book: name another folder.")
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copytree(STORED, scratch, dirs_exist_ok=True)
        shutil.copy(ROOT / "book" / "pipeline.png", scratch)
        build(output, Path(scratch), sorted(NOTEBOOKS_DIR.glob("*.ipynb")))


if __name__ == "__main__":
    if sys.argv[1] == "--stored":
        build_stored(Path(from_caller(sys.argv[2])))
    else:
        build_study(sys.argv[1])
