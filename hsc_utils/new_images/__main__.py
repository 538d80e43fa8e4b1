"""Predict new images with trained runs.

``python -m hsc_utils.new_images RUN [RUN ...] FOLDER``, where a run is a directory such as
``results/demo/runs/cell/densenet121/seed0``, and the folder any tree of acquisitions.
"""

import argparse
import signal
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hsc_utils import new_images
from hsc_utils.files import from_caller, from_root, shown_path
from hsc_utils.run import interrupted
from hsc_utils.study import Run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m hsc_utils.new_images", description=__doc__)
    help_runs = "run directories of one study: on cells, on images, or both; seeds are averaged"
    parser.add_argument("runs", nargs="+", metavar="RUN", type=from_caller, help=help_runs)
    parser.add_argument("folder", metavar="FOLDER", type=from_caller, help="new acquisitions")
    help_to = (
        "folder to write; by default new_images/<name of FOLDER> in the study of the first run"
    )
    parser.add_argument("--to", type=from_caller, help=help_to)
    help_confidence = "a class is called from this probability on (default 0.8)"
    parser.add_argument("--confidence", type=float, default=0.8, help=help_confidence)
    options = parser.parse_args(arguments)
    try:
        target = from_root(options.to or default_target(options.runs[0], options.folder))
        predictions = new_images.predict_images(
            options.runs, options.folder, target, confidence=options.confidence
        )
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return interrupted()
    say(predictions, target, options.confidence)
    return 0


def default_target(run: str, folder: str) -> Path:
    """Return the folder in a run's study that is named after the folder predicted."""
    above = Run(run).directory.parents
    if len(above) < 4 or above[2].name != "runs":
        raise ValueError(f"{shown_path(run)} lies in no study: say with --to where results go.")
    study = above[3]  # of <study>/runs/<level>/<model>/seed<k>
    return study / "new_images" / from_root(folder).name


def say(predictions: pd.DataFrame, target: Path, confidence: float) -> None:
    """Print what differs from training, then what was called, and where the rest lies."""
    _, rejected, differing = new_images.read_tables(target)
    differing, same = new_images.differing_questions(differing)
    if len(differing):
        print(f"Before any probability: in what the {len(predictions)} images differ from training")
        for question, count, first in differing.itertuples(index=False):
            told = f"{count:6}  {question}" + f" ({first})" * bool(first)
            print(textwrap.fill(told, 100, subsequent_indent=" " * 10))
    print(same)
    said = " ".join(new_images.sentences(predictions, rejected, confidence))
    print("\n" + said.replace("**", ""))
    for name in ("predictions.csv", "cells.csv", "rejected.csv", "pictures"):
        if (target / name).exists():
            print(f"wrote {shown_path(target / name)}")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
