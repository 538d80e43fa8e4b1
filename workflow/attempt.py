"""Run one notebook; if it fails, write down why, so that what does not need it goes on.

``attempt.py STATUS NOTEBOOK …`` hands the notebook and its options to ``hsc_utils.run``. STATUS
becomes ``{"failed": null}``, or holds the reason; only an interruption ends with an error.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path

INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM)


def attempt(status: Path, arguments: list[str]) -> None:
    """Run a notebook and write its status."""
    command = [sys.executable, "-m", "hsc_utils.run", *arguments]
    finished = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    sys.stderr.write(finished.stderr)
    failed = reason(finished.returncode, finished.stderr) if finished.returncode else None
    if -finished.returncode in INTERRUPTIONS or "KeyboardInterrupt" in (failed or ""):
        sys.exit("Interrupted; start again to continue.")
    status.parent.mkdir(parents=True, exist_ok=True)
    status.write_text(json.dumps({"failed": failed}) + "\n")


def reason(code: int, messages: str) -> str:
    """Return the error sentence of a failed run: the last thing that ``hsc_utils.run`` said."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"ended by {name}" + (", probably for want of memory" if name == "SIGKILL" else "")
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    said = [number for number, line in enumerate(lines) if line.startswith("error")]
    text = " ".join(lines[said[-1] :] if said else lines[-1:])
    return text.partition(": ")[2] or f"ended with status {code}"


if __name__ == "__main__":
    attempt(Path(sys.argv[1]), sys.argv[2:])
