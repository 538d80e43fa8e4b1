"""The scripts in workflow/ import each other by their bare names, as when they are run."""

import sys

from hsc_utils.files import ROOT

sys.path.insert(0, str(ROOT / "workflow"))
