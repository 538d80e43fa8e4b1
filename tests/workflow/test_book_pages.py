"""Executed notebooks as pages: captions, boxes, folded code, linked words."""

import base64
import copy
import io
import re

import book_pages
import nbformat
import numpy as np
import page_sources
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image


def png(height, width, noise=False):
    """Return a picture as a notebook keeps it."""
    shape = (height, width, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape) if noise else np.full(shape, 200)
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def shown(alt="A curve.", noise=False):
    sizes = {"image/png": {"alt": alt, "width": 60, "height": 40}}
    return new_output("display_data", {"image/png": png(80, 120, noise)}, metadata=sizes)


def said(markdown):
    return new_output("display_data", {"text/markdown": markdown})


BANNER = "> ⚠️ **Simulated.** Nothing is real.\n\n**Data:** demo."
BOX = "> **In short.** \n> \n> - One.\n> - Two."


@pytest.fixture
def executed(tmp_path):
    """A notebook with a banner, a box, two figures, a table, printed lines and code."""
    html = "<table><tr><th>AUROC</th></tr></table>"
    cells = [
        new_markdown_cell("# 03 · Training\n\n**Can it?**"),
        new_markdown_cell("**Reads** a table. **Writes** a model."),
        new_code_cell("seed: int = 0", metadata={"tags": ["parameters"]}),
        new_code_cell("page.opening()", outputs=[said(BANNER), said(BOX)]),
        new_markdown_cell("## Curves"),
        new_code_cell("figures.curves()", outputs=[shown(), said("A finding.")]),
        new_markdown_cell("**ROC curves.** High (the paper's Figures 1 and 2).\n\nMore prose."),
        new_code_cell(
            "train()",
            outputs=[
                new_output("stream", name="stdout", text="run0: finished earlier, nothing to do\n"),
                new_output("stream", name="stdout", text="Caution: it is dark.\n"),
                new_output("execute_result", {"text/html": html, "text/plain": "x"}),
            ],
        ),
        new_markdown_cell("## Pictures"),
        new_code_cell("figures.cells()", outputs=[shown("Cells.", noise=True)]),
        new_markdown_cell("**Ten cells.** Of each class."),
    ]
    path = tmp_path / "03_training.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


def test_a_page_tells_the_conclusion_first_and_folds_the_code_by_section(executed, tmp_path):
    page, _ = book_pages.page_of(executed, tmp_path / "pages")
    assert {cell.cell_type for cell in page.cells} == {"markdown"}
    texts = [cell.source for cell in page.cells]
    assert texts[0].startswith("# 03")
    assert texts[1] == (
        ":::{admonition} Simulated\n:class: warning\nNothing is real.\n:::\n\n**Data:** demo."
    )
    assert texts[2] == ":::{admonition} In short\n:class: conclusion\n- One.\n- Two.\n:::"
    assert texts[3].startswith(":::{dropdown} Files, parameters and set-up\n**Reads** a table.")
    assert "seed: int = 0\n\npage.opening()" in texts[3]
    bars = [text for text in texts if text.startswith(":::{dropdown} Code")]
    assert [bar.splitlines()[0] for bar in bars] == [
        ":::{dropdown} Code: Curves",
        ":::{dropdown} Code: Pictures",
    ]
    assert "figures.curves()\n\ntrain()" in bars[0]
    assert texts.index(bars[0]) < texts.index("## Pictures")


def test_figures_get_caption_alt_text_and_the_papers_counterpart(executed, tmp_path):
    page, figures = book_pages.page_of(executed, tmp_path / "pages")
    first, second = figures
    assert first.page == "notebooks/03_training"
    assert (first.label, first.counterparts) == ("fig-03-roc-curves-1", "Figures 1 and 2")
    assert (second.label, second.counterparts) == ("fig-03-ten-cells-2", "")
    text = next(cell.source for cell in page.cells if "fig-03-roc" in cell.source)
    assert text == (
        ":::{figure} 03_training-1.png\n:name: fig-03-roc-curves-1\n"
        ':alt: "A curve."\n:width: 60px\n\n'
        "**ROC curves.** High (the paper's Figures 1 and 2).\n:::"
    )
    assert "More prose." in [cell.source for cell in page.cells]
    # a drawing stays lossless, a noisy micrograph becomes a JPEG
    kinds = {path.suffix for path in (tmp_path / "pages").iterdir()}
    assert kinds == {".png", ".jpg"}
    listed = book_pages.list_of_figures(figures)
    assert "| Figures 1 and 2 | {numref}`fig-03-roc-curves-1` ROC curves |" in listed
    assert listed.count("fig-03-ten-cells-2") == 1


def test_figures_without_a_caption_or_with_odd_texts_stop_no_book(tmp_path):
    """Labels that are alike, numbers that are missing and texts that are no YAML would."""
    twice = [shown('Of "donor #2": a b'), shown()]
    cells = [new_markdown_cell("# 03"), new_markdown_cell("**Reads** nothing.")]
    cells += [new_markdown_cell("## A"), new_code_cell("a", outputs=twice)]
    cells += [new_markdown_cell("**Same.** x"), new_code_cell("b", outputs=[shown()])]
    cells += [new_markdown_cell("**Same.** y")]
    path = tmp_path / "03_odd.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    page, figures = book_pages.page_of(path, tmp_path)
    labels = [figure.label for figure in figures]
    assert len(set(labels)) == 3
    assert {figure.title for figure in figures} == {"Same", "Figure 2 of notebook 03"}
    text = "\n".join(cell.source for cell in page.cells)
    assert r':alt: "Of \"donor #2\": a b"' in text
    listed = book_pages.list_of_figures(figures)
    assert "Beside the paper" not in listed and "**Figure 2 of notebook 03.**" in text


def test_what_is_printed_is_shown_unless_it_is_a_steps_course(executed, tmp_path):
    page, _ = book_pages.page_of(executed, tmp_path / "pages")
    text = "\n".join(cell.source for cell in page.cells)
    assert "````text\nCaution: it is dark.\n````" in text  # what is printed is no Markdown
    assert "finished earlier" not in text
    assert "<table>" in text and "{raw} html" in text


def test_a_notebook_to_download_is_light_and_otherwise_the_same(executed):
    before = nbformat.read(executed, as_version=4)
    sizes = {"image/png": {"alt": "", "width": 300, "height": 200}}
    large = new_output("display_data", {"image/png": png(400, 600, noise=True)}, metadata=sizes)
    before.cells[9].outputs = [large]
    after = book_pages.lightened(copy.deepcopy(before))
    assert [cell.source for cell in after.cells] == [cell.source for cell in before.cells]
    pictures = [after.cells[k].outputs[0].data["image/png"] for k in (5, 9)]
    seen = [Image.open(io.BytesIO(base64.b64decode(picture))) for picture in pictures]
    # a small drawing keeps its double resolution, a large micrograph does not
    assert [picture.size for picture in seen] == [(120, 80), (300, 200)]
    assert all(picture.mode == "P" for picture in seen)


GLOSSARY = """# Glossary

```{glossary}
:sorted:

AUROC
area under the curve
  How well it ranks.

slice
  A plane.

ROC curve
  A curve.
```
"""


def test_terms_are_linked_once_where_a_page_first_uses_them():
    terms = book_pages.terms_of(GLOSSARY)
    assert terms == ["AUROC", "area under the curve", "slice", "ROC curve"]
    texts = [
        "# A slice\n\n| slice |\n\nOne slice, `AUROC`, [AUROC](x), {term}`AUROC`.\n",
        "```python\nROC curve\n```\nIts AUROC, two ROC curves; "
        "Slices, curves, areas under the curve. auroc",
    ]
    first, second = book_pages.link_first_uses(texts, terms)
    assert first == texts[0].replace("One slice", "One {term}`slice <slice>`")
    assert second == (
        "```python\nROC curve\n```\nIts {term}`AUROC <AUROC>`, two {term}`ROC curves <ROC curve>`; "
        "Slices, curves, areas under the curve. auroc"
    )


def test_nothing_is_linked_within_links_and_code_that_go_over_lines():
    text = (
        "[the AUROC\nof all](x.md) `the\nAUROC` [AUROC][ref]\n  ```\n  AUROC\n  ```\n> ```\nAUROC"
    )
    assert book_pages.link_first_uses([text], ["AUROC"]) == [text]
    assert book_pages.link_first_uses(["$5 of AUROC, $6"], ["AUROC"]) == [
        "$5 of {term}`AUROC <AUROC>`, $6"
    ]


def test_articles_that_a_page_names_are_cited():
    cited = book_pages.cite_articles("scaling (Guo et al. 2017)", {"Guo et al. 2017": "guo2017"})
    assert cited == "scaling ({cite:alp}`guo2017`)"
    code = "````python\n# Guo et al. 2017\n````"
    assert book_pages.cite_articles(code, {"Guo et al. 2017": "guo2017"}) == code


def test_the_glossary_of_the_book_defines_each_term_once():
    glossary = (book_pages.Path(__file__).parents[2] / "book" / "glossary.md").read_text()
    terms = [term.lower() for term in book_pages.terms_of(glossary)]
    assert len(terms) == len(set(terms)) > 40
    assert not [term for term in terms if re.search(r"[`_{]", term)]


@pytest.mark.parametrize(
    ("page", "folder", "suffix"),
    [("notebooks/03_x", "", ".md"), ("index", "book", ".md"), ("claims", "book", "")],
)
def test_pages_know_where_their_source_lies(page, folder, suffix):
    context = {"pages_without_source": ["claims"], "page_source_suffix": ".md"}
    page_sources.place(None, page, "", context, None)
    assert (context["doc_path"], context["page_source_suffix"]) == (folder, suffix)
