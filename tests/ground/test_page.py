"""What notebooks show in words and tables: the box of the conclusion, and the one way of tables."""

import nbformat
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from nbclient import NotebookClient

from hsc_utils import page
from hsc_utils.study import model_words


def texts(*sources):
    """Run cells in a kernel, and return the Markdown that each shows."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=60).execute()
    return [[output["data"]["text/markdown"] for output in cell.outputs] for cell in cells]


def test_the_conclusion_stands_at_the_top_too():
    opened, concluded, found = texts(
        "from hsc_utils import page\npage.opening(dataset='mine', simulated=False, weights='none')",
        "page.conclude('One.', 'Two.')",
        "page.say()\npage.say('One finding.')\npage.say('One.', 'Two.')",
    )
    assert opened[0] == "**Data:** mine. **Starts from:** random weights."
    assert opened[1] == concluded[0] == "> **In short.** \n> \n> - One.\n> - Two."
    assert found == ["One finding.", "\n\n- One.\n- Two."]


def test_a_notebook_that_did_not_end_says_so_and_simulated_data_are_labelled():
    ((banner, waiting),) = texts(
        "from hsc_utils import page\npage.opening(dataset='demo', simulated=True)"
    )
    assert "imulated" in banner
    assert "has run to its end" in waiting


def cells_of(styler):
    rows = BeautifulSoup(styler.to_html(), "html.parser").find_all("tr")
    names, *values = ([cell.text for cell in row.find_all(["th", "td"])] for row in rows)
    return pd.DataFrame(values, columns=names)


def test_a_table_speaks_in_words_and_in_sensible_digits():
    rows = pd.DataFrame(
        {
            "model": ["resnet18-slice0+2", "densenet121"],
            "p_holm": [1e-9, 0.1234567],
            "auroc": [0.98765, np.nan],
            "judged_on": ["test", None],
            "images": [1234, 5],
            "simulated": [True, False],
            "seconds": [61.59, 9.876],
        }
    )
    shown = cells_of(page.table(rows))
    names = ["model", "p (corrected)", "AUROC", "judged on", "images", "simulated", "seconds"]
    assert list(shown) == names
    first = ["ResNet-18 on slices 0 and 2", "< 0.001", "0.988", "test", "1,234", "yes", "61.6"]
    assert shown.iloc[0].to_list() == first
    assert shown.iloc[1].to_list() == ["DenseNet-121", "0.123", "–", "–", "5", "no", "9.9"]


def test_an_index_is_shown_where_it_means_something():
    rows = pd.DataFrame({"images": [1, 2]}, index=[15, 16])
    assert list(cells_of(page.table(rows))) == ["images"]
    assert list(cells_of(page.table(rows.rename_axis("stride")))) == ["stride", "images"]
    named = page.table(rows.set_axis(["LT-HSC", "MPP"]))
    assert cells_of(named).iloc[:, 0].to_list() == ["LT-HSC", "MPP"]


def test_tables_of_many_kinds_are_laid_out():
    levels = pd.MultiIndex.from_tuples([("cell", 0), ("image", 1)], names=["level", "seed"])
    rows = pd.DataFrame(
        {
            "auroc": pd.array([0.5, None], "Float64"),
            "known": [True, None],
            "simulated": pd.array([False, None], "boolean"),
            "gap": pd.Series([-0.0001, np.inf], dtype=object).to_numpy(),
        },
        index=levels,
    )
    shown = cells_of(page.table(rows))
    assert shown.iloc[0].to_list() == ["cell", "0", "0.500", "yes", "no", "0.000"]
    assert shown.iloc[1].to_list() == ["image", "1", "–", "–", "–", "inf"]
    assert cells_of(page.table(rows.iloc[:0])).empty


def test_the_same_table_is_the_same_html_and_harmless():
    rows = pd.DataFrame({"<script>": ["<script>alert(1)</script>"]})
    assert page.table(rows).to_html() == page.table(rows.copy()).to_html()
    assert "<script>" not in page.table(rows).to_html()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("resnet50", "ResNet-50"),
        ("densenet169-slice1", "DenseNet-169 on slice 1"),
        ("vit_b_16", "vit_b_16"),
    ],
)
def test_models_have_the_names_of_the_field(model, words):
    assert model_words(model) == words


def test_written_files_counts_and_complains(tmp_path):
    (tmp_path / "a.bin").write_bytes(bytes(1_000_000))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "b.bin").write_bytes(bytes(500_000))
    table = cells_of(page.written_files(tmp_path / "a.bin", tmp_path / "folder"))
    assert table["kB"].to_list() == ["1,000", "500"]
    with pytest.raises(FileNotFoundError, match=r"missing\.csv"):
        page.written_files(tmp_path / "missing.csv")
