"""Run one step of the workflow and say little: ``step.py [--status FILE] COMMAND ARGUMENT…``.

COMMAND is a module, such as ``hsc_utils.run``, or a script, such as ``workflow/build_book.py``.

Of what the step prints, only the epochs are shown: the executed notebook holds the rest. With
``--status`` a step that fails does not end the workflow: FILE becomes ``{"failed": null}``, or
holds the reason. Without, its error is shown and handed on. Where the environment says
``HSC_GPU=required`` and the machine has several GPUs, each step gets one of them for itself.
"""

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

from hsc_utils.files import ROOT, write_json

INTERRUPTED = 130


def main(arguments: list[str]) -> int:
    """Run a step and return the exit status."""
    status = None
    if arguments[0] == "--status":
        status, arguments = Path(arguments[1]), arguments[2:]
    try:
        module = [] if arguments[0].endswith(".py") else ["-m"]
        with own_gpu() as environment:
            code, messages = watch([sys.executable, *module, *arguments], environment)
    except KeyboardInterrupt:
        return INTERRUPTED
    if code == INTERRUPTED or -code in (signal.SIGINT, signal.SIGTERM):
        return INTERRUPTED
    sys.stderr.write(messages)
    if status is None:
        return code
    write_json(status, {"failed": reason(code, messages) if code else None})
    return 0


@contextmanager
def own_gpu() -> Iterator[dict[str, str]]:
    """Reserve one of several GPUs for a step; yield the environment that names it.

    A scheduler such as SLURM has chosen already, and sets CUDA_VISIBLE_DEVICES. The workflow
    starts no more steps at a time than there are GPUs, so one is free.
    """
    environment = dict(os.environ)
    wanted = environment.get("HSC_GPU") == "required" and shutil.which("nvidia-smi")
    if not wanted or "CUDA_VISIBLE_DEVICES" in environment:
        yield environment
        return
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    gpus = len(listed.stdout.splitlines())
    for gpu in range(gpus):
        lock = FileLock(ROOT / ".snakemake" / f"gpu{gpu}.lock", timeout=0)
        try:
            with lock:
                yield environment | {"CUDA_VISIBLE_DEVICES": str(gpu)}
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
