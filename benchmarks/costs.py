"""The table of the book's page "What it costs", from ``results/rehearsal.csv``.

``python benchmarks/costs.py`` writes it into ``book/costs.md``, between the two marks there. No
figure of the table is typed: each is a row of the rehearsal, or one multiplied up to the paper's
counts, and says which. What was not measured is not guessed.
"""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import yaml

from hsc_utils import paper
from hsc_utils.files import ROOT

ROWS = ROOT / "benchmarks" / "results" / "rehearsal.csv"
PAGE = ROOT / "book" / "costs.md"
BEGIN, END = "<!-- written by benchmarks/costs.py -->", "<!-- end -->"
COLUMNS = ("Step", "Two cores", "One GPU", "Memory", "Disk")
NO_GPU, ON_GPU = "needs none", "not measured: `make gpu` measures it"
TEST_SCORES = "scores of the test cells with intervals"
EXPLAINED = "densenet169, 1000 cells a class at three depths"


def measured_rows() -> pd.DataFrame:
    """Read the rehearsal, indexed by what was measured."""
    return pd.read_csv(ROWS).set_index("what")


def duration(seconds: float) -> str:
    """Write a time with two digits: 14 s, 6.2 min, 1.6 h, 12 days."""
    for unit, length, most in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 48)):
        if seconds < most * length:
            return f"{_two_digits(seconds / length)} {unit}"
    return f"{_two_digits(seconds / 86400)} days"


def size(megabytes: float) -> str:
    """Write a size with two digits: 850 MB, 2.1 GB."""
    if megabytes < 1000:
        return f"{_two_digits(megabytes)} MB"
    return f"{_two_digits(megabytes / 1000)} GB"


def _two_digits(number: float) -> str:
    return f"{float(f'{number:.2g}'):g}"


def steps(rows: pd.DataFrame) -> list[tuple[str, str, int, str]]:
    """List the table's steps: in words, the row that measured it, the paper's count, on a GPU."""
    counts = paper.counts().sum()
    images, cells = int(counts["images"]), int(counts["cells"])
    settings = yaml.safe_load((ROOT / "workflow/config/paper.yaml").read_text())
    tuning = settings["02_blob_tuning"]["tuning_images"]
    most = rows[rows["part"] == "prepare"]["count"].max()
    tried = rows[rows["part"] == "cells"]["count"].min()
    test, explained = (int(rows["count"].get(what, 0)) for what in (TEST_SCORES, EXPLAINED))
    listed = [
        (
            f"01: {images:,} acquisitions to images",
            f"{most} acquisitions to images",
            images,
            NO_GPU,
        ),
        (f"02: settings tried on {tuning} images", f"tuning on {tried} images", tuning, NO_GPU),
        (f"02: cells of {images:,} images", f"cells of {most} images", images, NO_GPU),
        (f"03: {images:,} images to 512 px, once", f"{most} images to 512 px", images, NO_GPU),
    ]
    for step, name, level, count in (
        ("03", "DenseNet-169", "images", images),
        ("04", "ResNet-18", "cells", cells),
    ):
        for part in ("the epoch", "the prediction of all"):
            shown = f"{step}: {name} on {count:,} {level}, {part.replace('the epoch', 'one epoch')}"
            listed.append((shown, f"{name} on {level}, {part}", count, ON_GPU))
    listed += [
        (f"04: scores of {test:,} test cells with intervals", TEST_SCORES, test, NO_GPU),
        ("05: comparison of three models and seven choices of slices", "notebook 05", 1, NO_GPU),
        (
            f"06: Grad-CAM of {explained:,} cells at three depths, DenseNet-169",
            EXPLAINED,
            explained,
            ON_GPU,
        ),
        ("Tables 1 and 2, of 120 runs", "the paper's tables", 120, NO_GPU),
        ("Page of claims", "the page of claims", len(paper.claims()), NO_GPU),
    ]
    return listed


def table(rows: pd.DataFrame) -> str:
    """Write the table in Markdown."""
    lines = []
    for shown, what, count, gpu in steps(rows):
        time = memory = disk = "not measured"
        if what in rows.index:
            row = rows.loc[what]
            time = marked(duration, row["seconds"], count, row["count"])
            at = "measured" if count == row["count"] else f"measured at {row['count']:,.0f}"
            memory = f"{size(row['peak_own_mb'])} ({at})"
            disk = "little"
            if what.startswith("cells of"):  # patches grow with the cells, not with the images
                count, row["count"] = int(paper.counts()["cells"].sum()), row["found"]
            if row["disk_mb"] > 0:
                disk = marked(size, row["disk_mb"], count, row["count"])
        lines.append((shown, time, gpu, memory, disk))
    return pd.DataFrame(lines, columns=COLUMNS).to_markdown(index=False)


def marked(write: Callable[[float], str], value: float, count: int, of: float) -> str:
    """Multiply a measurement of so many up to a count, and say which of the two it is."""
    mark = "measured" if count == of else f"extrapolated from {of:,.0f}"
    return f"{write(value * count / of)} ({mark})"


def page(text: str, rows: pd.DataFrame) -> str:
    """Put the table, and what it was measured on, between the marks of the page."""
    before, _, rest = text.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"{PAGE.name} lacks the marks {BEGIN} and {END}, one a line.")
    machines = sorted({f"{row.cores} cores of {row.processor}" for row in rows.itertuples()})
    versions = sorted(set(rows["versions"]))
    measured_on = f"*Measured on {' and '.join(machines)}, with {' and '.join(versions)}.*"
    return f"{before}{BEGIN}\n\n{table(rows)}\n\n{measured_on}\n\n{END}{after}"


def main() -> None:
    """Write the page."""
    Path(PAGE).write_text(page(PAGE.read_text(), measured_rows()))


if __name__ == "__main__":
    main()
