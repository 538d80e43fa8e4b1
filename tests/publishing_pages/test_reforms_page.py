"""The page REFORMS answers every item twice, counts its answers right and links to real pages."""

import re
from collections import Counter

import pytest

from hsc_utils.files import ROOT

PAGE = (ROOT / "book" / "reforms.md").read_text()
# items by section, after Table 1 of Kapoor et al. 2024
ITEMS = {
    "1 Study goals": "abc",
    "2 Computational reproducibility": "abcde",
    "3 Data quality": "abcdefg",
    "4 Data preprocessing": "abc",
    "5 Modeling": "abcdef",
    "6 Data leakage": "abc",
    "7 Metrics and uncertainty": "abc",
    "8 Generalizability and limitations": "ab",
}
ANSWERS = ("Yes", "Partly", "No", "Unknown")
# every study's book has these, though they do not lie in book/
BUILT = {"claims", "tables", "data_card"}
SECTIONS = dict(re.findall(r"^## (.+)\n((?:(?!^## ).*\n)*)", PAGE, flags=re.MULTILINE))


def cells(line: str) -> list[str]:
    """Split a line of a table into its cells."""
    return [cell.strip() for cell in line.strip("| ").split("|")]


def items(section: str) -> list[list[str]]:
    """Return the lines of a section's table that hold an item."""
    lines = SECTIONS[section].splitlines()
    return [cells(line) for line in lines if line.startswith("| **")]


@pytest.mark.parametrize("section", ITEMS)
def test_every_item_is_answered_for_both(section):
    found = items(section)
    expected = [f"{section[0]}{letter}" for letter in ITEMS[section]]
    assert [re.match(r"\*\*(\w+)\*\* \w", row[0])[1] for row in found] == expected
    for row in found:
        assert len(row) == 3
        for answer in row[1:]:
            assert re.match(rf"\*\*({'|'.join(ANSWERS)})\.\*\* \S", answer), answer


def test_there_are_32_items_in_8_sections_and_no_other_table_holds_one():
    assert sum(len(items(section)) for section in ITEMS) == 32
    assert len(re.findall(r"^\| \*\*\d", PAGE, flags=re.MULTILINE)) == 32


@pytest.mark.parametrize(("column", "whose"), [(1, "companion"), (2, "paper")])
def test_the_summary_counts_what_the_tables_say(column, whose):
    rows = [row for section in ITEMS for row in items(section)]
    counted = Counter(re.match(r"\*\*(\w+)", row[column])[1] for row in rows)
    said = {
        row[0]: int(row[column])
        for row in map(cells, PAGE.splitlines())
        if row[0] in (*ANSWERS, "All")
    }
    assert said == {answer: counted[answer] for answer in ANSWERS} | {"All": 32}, whose


def test_every_link_leads_to_a_page_that_each_book_can_have():
    pages = {path.stem for path in (ROOT / "book").glob("*.md")} | BUILT
    pages |= {f"notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    linked = set(re.findall(r"\]\(([^)]*)\)", PAGE))
    assert linked
    assert linked <= pages


def test_a_table_fits_a_phone():
    for line in PAGE.splitlines():
        if line.startswith("| **"):
            plain = re.sub(r"\]\([^)]*\)|[*`[]", "", line)
            assert max(map(len, cells(plain))) <= 170, line


def test_files_and_folders_that_the_page_names_exist():
    named = re.findall(r"`((?:hsc_utils|tests|book|data)/[^`]*|README\.md)`", PAGE)
    assert named
    for name in named:
        assert (ROOT / name).exists(), name
