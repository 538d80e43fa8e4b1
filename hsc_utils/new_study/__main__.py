"""Describe a folder of images or cells as a study.

``python -m hsc_utils.new_study results/mine --raw /data/mine`` looks at the folder and writes
``workflow/config/mine.yaml``, which ``make run`` takes to a book.
"""

import argparse
import signal
import sys
from collections.abc import Sequence

from hsc_utils import new_study
from hsc_utils.files import ROOT, from_caller, from_root, shown_path
from hsc_utils.run import interrupted

CONFIGS = ROOT / "workflow" / "config"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m hsc_utils.new_study", description=__doc__)
    help_study = "folder for all results, such as results/mine"
    parser.add_argument("study", type=from_caller, help=help_study)
    help_raw = "folder read: one folder per class, with images or with pictures of single cells"
    parser.add_argument("--raw", type=from_caller, required=True, help=help_raw)
    parser.add_argument("--name", help="name of the data set; by default the study's")
    help_classes = "folders that are classes, where these do not lie on top, or not all are"
    parser.add_argument("--classes", nargs="+", default=[], metavar="CLASS", help=help_classes)
    help_slices = "slices to use, by number, channel or plane, such as DIC or Z=1"
    parser.add_argument("--slices", nargs="+", default=[], metavar="SLICE", help=help_slices)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--cells", action="store_true", help="each file is one cell, cut out")
    kind.add_argument("--images", action="store_true", help="each file is a whole image")
    options = parser.parse_args(arguments)
    ready = True if options.cells else False if options.images else None
    try:
        sight = new_study.look_at(options.raw, ready, options.classes, options.slices)
        name = options.name or from_root(options.study).name
        path = new_study.write_config(sight, options.study, name, CONFIGS)
    except KeyboardInterrupt:
        return interrupted()
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        if "lies in a class folder" in str(error):
            print(
                "To predict images without classes use a trained run: "
                "python -m hsc_utils.new_images RUN FOLDER",
                file=sys.stderr,
            )
        if "class_names" in str(error):
            print("Here class_names is --classes, such as --classes A B.", file=sys.stderr)
        if "`slices`" in str(error):
            print("Here slices is --slices, such as --slices Z=1 or --slices 0 2.", file=sys.stderr)
        return 2
    print(*new_study.seen(sight), "", "What these data cannot tell:", sep="\n")
    print(*(f"  {line}" for line in new_study.limits(sight)), "", sep="\n")
    print(f"wrote {shown_path(path)}. Read it, and change what you know better.")
    print(*new_study.next_steps(path, from_root(options.study)), sep="\n")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
