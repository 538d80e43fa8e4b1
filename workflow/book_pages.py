"""Turn executed notebooks into pages for a reader.

On a page the conclusion stands at the top, figures have numbers, captions and a text of what is
seen, and the code of each section is folded into one bar below it. Glossary terms are linked where
a page first uses them, and articles named as *Guo et al. 2017* are cited.
"""

import base64
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell
from PIL import Image

from hsc_utils.page import BANNER, IN_SHORT

_LARGE = 50_000  # bytes of a picture that a repository keeps at single resolution
# what a step prints of its own course; all else that is printed stays where it was
_COURSE = re.compile(r"finished earlier|files: .* read now|new images are done|· epoch \d+ |^\s*$")
_FENCE = re.compile(r"^[ >]*(`{3,}|:{3,}|~{3,})")
# terms that pages use in their ordinary sense as often as in that of the glossary
_ORDINARY = ("precision", "threshold", "split", "group", "blob", "erasing", "channel")
# stretches of Markdown in which no word becomes a link
_UNTOUCHED = re.compile(
    r"\{[^}]*\}`[^`]*`|(`+).+?\1|!?\[[^\]]*\](?:\([^)]*\)|\[[^\]]*\])|<[^>]*>|https?://\S+",
    re.DOTALL,
)


@dataclass(frozen=True)
class Figure:
    """A figure of the book: its page, the label to link to, its title, the paper's counterparts."""

    page: str
    label: str
    title: str
    counterparts: str


def page_of(executed: Path, folder: Path) -> tuple[NotebookNode, list[Figure]]:
    """Lay out an executed notebook as a page.

    Parameters
    ----------
    executed : path
        The notebook.
    folder : path
        Where the page will lie; its pictures are written beside it.

    Returns
    -------
    notebook : NotebookNode
        The page: nothing in it is code that a reader must pass.
    figures : list of Figure
        In their order.
    """
    notebook = nbformat.read(executed, as_version=4)
    stem, figures, page = executed.stem, [], []
    intro, *sections = _sections(notebook.cells)
    for number, cells in enumerate([intro, *sections]):
        laid, code = [], []
        for cell, following in zip(cells, [*cells[1:], None], strict=True):
            if cell.cell_type == "markdown":
                laid.append(cell.source)
                continue
            code.append(cell.source)
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    figure, text = _figure(output, following, folder, f"{stem}-{len(figures) + 1}")
                    figures.append(figure)
                    laid.append(text)
                else:
                    laid += _shown(output)
        if number:
            page += [*laid, _folded(f"Code: {_title(cells)}", code)]
        else:
            page += _opening(laid, code)
    notebook.cells = [new_markdown_cell(text) for text in page if text]
    notebook.metadata.pop("widgets", None)
    return notebook, figures


def _sections(cells: Iterable[NotebookNode]) -> list[list[NotebookNode]]:
    """Divide cells where a heading of the second level begins."""
    sections = [[]]
    for cell in cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            sections.append([])
        sections[-1].append(cell)
    return sections


def _title(cells: Sequence[NotebookNode]) -> str:
    """Return the heading of a section."""
    return cells[0].source.splitlines()[0].removeprefix("## ")


def _opening(laid: list[str], code: list[str]) -> list[str]:
    """Put question, banner and conclusion first; files and parameters fold away below them."""
    title, files, *outputs = laid
    technical = f":::{{dropdown}} Files, parameters and set-up\n{files}\n\n{_python(code)}\n:::"
    return [title, *outputs, technical]


def _folded(name: str, code: list[str]) -> str:
    """Fold code away behind a bar with a name; no code, no bar."""
    return f":::{{dropdown}} {name}\n{_python(code)}\n:::" if code else ""


def _python(code: list[str]) -> str:
    """Write cells of code as one block."""
    source = "\n\n".join(code)
    return f"````python\n{source}\n````"


def _shown(output: NotebookNode) -> list[str]:
    """Return what is shown of an output that is no picture, as Markdown."""
    if output.output_type == "stream":
        lines = [line for line in output.text.splitlines() if not _COURSE.search(line)]
        return ["````text\n{}\n````".format("\n".join(lines))] if lines else []
    shown = output.get("data", {})
    if "text/html" in shown:
        return [f'````{{raw}} html\n<div class="cell_output">\n{shown["text/html"]}\n</div>\n````']
    if "text/markdown" not in shown:
        return [f"````text\n{shown.get('text/plain', '')}\n````"]
    markdown = shown["text/markdown"]
    box, _, rest = markdown.partition("\n\n")
    if box.startswith(BANNER):
        title, _, warned = box.removeprefix(f"{BANNER}**").partition(".** ")
        return [f":::{{admonition}} {title}\n:class: warning\n{warned}\n:::\n\n{rest}"]
    if markdown.startswith(IN_SHORT):
        text = re.sub("^> ?", "", markdown.removeprefix(IN_SHORT), flags=re.MULTILINE)
        return [f":::{{admonition}} In short\n:class: conclusion\n{text.strip()}\n:::"]
    return [markdown]


def _figure(
    output: NotebookNode, following: NotebookNode | None, folder: Path, name: str
) -> tuple[Figure, str]:
    """Write a picture, and take the first paragraph that follows it as its caption."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = _lightest(base64.b64decode(output.data["image/png"]))
    file = f"{name}.{picture[1]}"
    (folder / file).write_bytes(picture[0])
    known = output.metadata.get("image/png", {})
    caption = ""
    if following is not None and following.source.startswith("**"):
        caption, _, following.source = following.source.partition("\n\n")
    stem, _, number = name.rpartition("-")
    title = (re.match(r"\*\*(.+?)\.?\*\*", caption) or ["", ""])[1]
    if not title:  # a figure without a caption has no number
        title = f"Figure {number} of notebook {name[:2]}"
        caption = f"**{title}.**"
    # the number keeps labels apart where captions are alike
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    label = f"fig-{name[:2]}-{slug}-{number}"
    named = re.search(r"paper's (Figures? [\d and,]*\d)", caption)
    # options are YAML: a text in quotes keeps its colons and number signs
    alt = json.dumps(" ".join(known.get("alt", title).split()), ensure_ascii=False)
    options = {"name": label, "alt": alt}
    if "width" in known:
        options["width"] = f"{known['width']}px"
    lines = "\n".join(f":{option}: {value}" for option, value in options.items())
    text = f":::{{figure}} {file}\n{lines}\n\n{caption}\n:::"
    return Figure(f"notebooks/{stem}", label, title, named[1] if named else ""), text


def _lightest(png: bytes) -> tuple[bytes, str]:
    """Return a picture as PNG or as JPEG, whichever is smaller."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    jpeg, smaller = io.BytesIO(), io.BytesIO()
    picture.save(jpeg, "JPEG", quality=92, subsampling=0, optimize=True)
    picture.save(smaller, "PNG", optimize=True)
    kinds = ((smaller.getvalue(), "png"), (jpeg.getvalue(), "jpg"))
    return min(kinds, key=lambda kind: len(kind[0]))


def _of_128_colours(picture: Image.Image) -> bytes:
    """Return a picture as a PNG with a palette."""
    buffer = io.BytesIO()
    picture.convert("RGB").quantize(128).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def lightened(notebook: NotebookNode) -> NotebookNode:
    """Reduce pictures to 128 colours, and large ones to their size on the screen."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" not in output.get("data", {}):
                continue
            picture = Image.open(io.BytesIO(base64.b64decode(output.data["image/png"])))
            known = output.metadata.get("image/png", {})
            small = _of_128_colours(picture)
            if "width" in known and len(small) > _LARGE:
                shown = picture.convert("RGB").resize((known["width"], known["height"]))
                small = _of_128_colours(shown)
            output.data["image/png"] = base64.b64encode(small).decode()
    return notebook


def list_of_figures(figures: Sequence[Figure]) -> str:
    """Write a page that lists figures by number, those with a counterpart in the paper first."""
    beside = [figure for figure in figures if figure.counterparts]
    rows = "\n".join(f"| {f.counterparts} | {{numref}}`{f.label}` {f.title} |" for f in beside)
    lines = ""
    for page, shown in groupby(figures, key=lambda figure: figure.page):
        lines += f"\n\n[]({page})\n\n"
        lines += "\n".join(f"- {{numref}}`{figure.label}` {figure.title}" for figure in shown)
    table = (
        "\n\n## Beside the paper's\n\nThe paper's figures themselves are not "
        "shown: they are its authors'. What stands here was made by the same kind of analysis "
        "from the data of this book.\n\n"
        f"| The paper's | Here |\n|---|---|\n{rows}"
    )
    return f"# List of figures{table * bool(beside)}\n\n## All figures of the analysis{lines}\n"


def terms_of(glossary: str) -> list[str]:
    """Return the terms that a page with a Sphinx glossary defines."""
    (body,) = re.findall(r"```\{glossary\}\n(.*?)\n```", glossary, flags=re.DOTALL)
    return [line for line in body.splitlines() if line and not line.startswith((" ", ":"))]


def link_first_uses(texts: Sequence[str], terms: Sequence[str]) -> list[str]:
    """Link each glossary term where a page, given as its texts in order, first uses it.

    Headings, tables, code, links and what stands in braces are left alone, and so are a term
    within a longer one and `_ORDINARY` words.
    """
    linked_terms = [term for term in terms if term not in _ORDINARY]
    by_words = {f"{term}s".lower(): term for term in linked_terms}
    by_words |= {term.lower(): term for term in linked_terms}
    longest_first = sorted(by_words, key=len, reverse=True)
    pattern = re.compile(
        r"(?<![\w-])(" + "|".join(map(re.escape, longest_first)) + r")(?![\w-])", re.IGNORECASE
    )
    seen: set[str] = set()

    def linked(found: re.Match) -> str:
        term = by_words[found[0].lower()]
        if term in seen or (term.isupper() and not found[0].startswith(term)):
            return found[0]
        seen.add(term)
        return f"{{term}}`{found[0]} <{term}>`"

    return [in_prose(text, lambda prose: pattern.sub(linked, prose)) for text in texts]


def cite_articles(text: str, keys: dict[str, str]) -> str:
    """Cite articles named as ``Guo et al. 2017``, by their keys in the bibliography."""

    def cited(prose: str) -> str:
        for named, key in keys.items():
            prose = prose.replace(named, f"{{cite:alp}}`{key}`")
        return prose

    return in_prose(text, cited)


def in_prose(text: str, change: Callable[[str], str]) -> str:
    """Change the plain prose of a Markdown text: no headings, tables, code, options or links."""
    return "\n".join(
        "".join(part if untouched else change(part) for part, untouched in _parts(lines))
        if prose
        else lines
        for lines, prose in _runs(text)
    )


def _runs(text: str) -> Iterable[tuple[str, bool]]:
    """Cut a text into runs of lines, and say of each whether it is prose."""
    fence = ""

    def is_prose(line: str) -> bool:
        nonlocal fence
        opened = _FENCE.match(line)
        if fence:
            fence = "" if opened and opened[1].startswith(fence) else fence
            return False
        if opened:
            fence = "" if opened[1][0] == ":" else opened[1]
            return False
        return not line.startswith(("#", "|", ":", "<", "    ", "%"))

    for prose, lines in groupby(
        [(is_prose(line), line) for line in text.split("\n")], itemgetter(0)
    ):
        yield "\n".join(line for _, line in lines), prose


def _parts(lines: str) -> Iterable[tuple[str, bool]]:
    """Cut prose into what may change and what must stay as it is."""
    end = 0
    for found in _UNTOUCHED.finditer(lines):
        yield lines[end : found.start()], False
        yield found[0], True
        end = found.end()
    yield lines[end:], False
