"""Run one step of the workflow and say little: ``step.py [--status FILE] COMMAND ARGUMENT…``.

COMMAND is a module, such as ``hsc_utils.run``, or a script, such as ``workflow/build_book.py``.

Of what the step prints, only the epochs are shown: the executed notebook holds the rest. With
``--status`` a step that fails does not end the workflow: FILE becomes ``{"failed": null}``, or
holds the reason. Without, its error is shown and handed on. Where SLURM has ended a step three
times (``HSC_ATTEMPT`` is 4), it is not tried again, and FILE holds SLURM's reason. Where the
environment says ``HSC_GPU=required`` and the machine has several GPUs, each step gets one of them
for itself.
"""

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from hsc_utils.files import ROOT, shown_path, write_json

INTERRUPTED = 130
_MOST_SHARES = 64  # steps on one GPU at a time
TRIES = 3  # the retries of workflow/profiles/slurm, so that the last one writes the reason


def main(arguments: list[str]) -> int:
    """Run a step and return the exit status."""
    status = None
    if arguments[0] == "--status":
        status, arguments = Path(arguments[1]), arguments[2:]
        if "SLURM_JOB_ID" in os.environ and int(os.environ.get("HSC_ATTEMPT", "1")) > TRIES:
            write_json(status, {"failed": how_slurm_ended_it()})
            return 0
    try:
        module = [] if arguments[0].endswith(".py") else ["-m"]
        with own_gpu() as environment:
            command = [sys.executable, *module, *arguments]
            code, messages = watch(command, own_cores() | environment)
    except KeyboardInterrupt:
        return INTERRUPTED
    if code == INTERRUPTED or -code in (signal.SIGINT, signal.SIGTERM):
        return INTERRUPTED
    sys.stderr.write(messages)
    if status is None:
        return code
    write_json(status, {"failed": reason(code, messages) if code else None})
    return 0


def how_slurm_ended_it() -> str:
    """Quote what SLURM's log of the job before this one, for the same step, says of its end."""
    shown = subprocess.run(
        ["scontrol", "show", "job", os.environ["SLURM_JOB_ID"]], capture_output=True, text=True
    )
    named = re.search(r"StdOut=(.+)", shown.stdout)
    if not named:
        return f"SLURM ended it {TRIES} times, and cannot be asked why"
    own = Path(named[1])
    earlier = sorted(set(own.parent.glob("*.log")) - {own}, key=lambda log: log.stat().st_mtime)
    log = [own, *earlier][-1]
    said = re.findall(r"^(?:slurmstepd|srun).*?: error: (.+)", log.read_text(), re.MULTILINE)
    words = "; ".join(dict.fromkeys(line.strip(" *") for line in said)) or "nothing"
    return f"SLURM ended it {TRIES} times; of the last time {shown_path(log)} says: {words}"


def own_cores() -> dict[str, str]:
    """Let joblib start as many processes as Snakemake gave cores, not one per core of a node."""
    given = os.environ.get("OMP_NUM_THREADS")
    return {"LOKY_MAX_CPU_COUNT": given} if given else {}


@contextmanager
def own_gpu() -> Iterator[dict[str, str]]:
    """Reserve one of several GPUs for a step; yield the environment that names it.

    The GPUs are those of CUDA_VISIBLE_DEVICES, or all. Where more steps run at a time than there
    are GPUs, they are shared evenly. Under SLURM, which has chosen already, nothing is done.
    """
    environment = dict(os.environ)
    wanted = environment.get("HSC_GPU") == "required" and shutil.which("nvidia-smi")
    if not wanted or "SLURM_JOB_ID" in environment:
        yield environment
        return
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    count = len(re.findall("^GPU ", listed.stdout, re.MULTILINE))  # parts of one have lines, too
    chosen = environment.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count))))
    for share, gpu in itertools.product(range(_MOST_SHARES), filter(None, chosen.split(","))):
        lock = FileLock(ROOT / ".snakemake" / f"gpu{gpu}-{share}.lock", timeout=0)
        try:
            with lock:
                yield environment | {"CUDA_VISIBLE_DEVICES": gpu}
                return
        except Timeout:
            continue
    yield environment


def watch(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Run a command, passing on its lines about epochs; return its status and its messages."""
    with tempfile.TemporaryFile("w+", errors="replace") as messages:
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=messages, errors="replace", env=environment
        ) as step:
            for line in step.stdout:
                if re.search(r"\bepoch \d", line):
                    print(f"    {line}", end="", flush=True)
        messages.seek(0)
        return step.returncode, messages.read()


def reason(code: int, messages: str) -> str:
    """Return the error sentence of a failed step: the last thing that ``hsc_utils.run`` said."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"ended by {name}" + (", probably for want of memory" if name == "SIGKILL" else "")
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    said = [number for number, line in enumerate(lines) if line.startswith("error")]
    text = " ".join(lines[said[-1] :] if said else lines[-1:])
    return text.partition(": ")[2] or f"ended with status {code}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
