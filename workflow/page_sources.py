"""A Sphinx extension: pages of the book know where their source lies in the repository.

The book is built in a scratch folder, where prose lies beside the notebooks' folder; in the
repository it lies in ``book/``, and what a study wrote lies nowhere.
"""

from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    """Join in before the theme makes its buttons."""
    app.connect("html-page-context", place, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def place(_app: Sphinx, page: str, _template: str, context: dict, _doctree: object) -> None:
    """Set the folder of a page's source, or take its source away."""
    context["doc_path"] = "" if page.startswith("notebooks/") else "book"
    if page in context["pages_without_source"]:
        context["page_source_suffix"] = ""
