"""Everything that needs a GPU, in one call of nine minutes: ``make gpu``.

Each result is written as it comes, into the folder that the variable ``OUT`` names, otherwise into
``benchmarks/results``; what an earlier call finished with this code on this GPU is kept:

- ``gpu_tests.txt``: the tests marked ``gpu``;
- ``training_gpu.csv``: `training.py`, the paper's backbones at 64 px, then at 512 px;
- ``explain_gpu.csv``: `explain.py`, what notebook 06 costs;
- ``paper_gpu.csv``: an estimate of ``make paper`` from these, 07 included;
- ``gpu.json``: what was done, on what, and how long it took.

Nothing is downloaded. On a machine without this project's environment, PyTorch, Lightning, captum
and the other libraries that training imports suffice: ``PYTHONPATH=. python benchmarks/gpu.py``.
Without a GPU, ``--quick`` tries the script in a minute.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import torch
import yaml
from machine import RESULTS

from hsc_utils import paper
from hsc_utils.files import ROOT, write_csv, write_json
from hsc_utils.provenance import code_digest
from hsc_utils.study import SLICES
from hsc_utils.training import device_name

TESTS = ("tests/training/test_gpu.py", "tests/explanation/test_explain.py")
PYTEST = ("-m", "pytest", "-m", "gpu", "-rs", "-p", "no:cacheprovider", *TESTS)
# arguments of Python, and the seconds that must be left for the steps after it
STEPS = {
    "tests": (PYTEST, 380),
    "training": (("benchmarks/training.py", "--resume", "--runs", "2"), 130),
    "explain": (("benchmarks/explain.py",), 10),
}
QUICK = {
    "tests": (PYTEST, 0),
    "training": (("benchmarks/training.py", "--quick", "--resume", "--runs", "1"), 0),
    "explain": (("benchmarks/explain.py", "--cells", "64", "--backbones", "resnet18"), 0),
}
TABLES = ("training_gpu.csv", "explain_gpu.csv")
EPOCHS = 40  # of a run, our guess: the paper trains until convergence
START_SECONDS = 20  # of a notebook, to import and to read; measured on a processor


def run_step(name: str, arguments: tuple[str, ...], seconds: float) -> dict:
    """Run one step within its time, its output into a file; say how it ended."""
    log, started = RESULTS / f"gpu_{name}.txt", time.perf_counter()
    print(f"{name}: up to {seconds:.0f} s, see {log.name}", flush=True)
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with log.open("w") as output:
        step = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that its own processes end with it
        )
        try:
            end = f"status {step.wait(timeout=seconds)}"
        except subprocess.TimeoutExpired:
            end = "cut off"
        finally:
            if step.poll() is None:
                os.killpg(step.pid, signal.SIGKILL)
                step.wait()
    print("\n".join(log.read_text().splitlines()[-12:]), flush=True)
    return {"end": end, "seconds": round(time.perf_counter() - started, 1)}


def paper_estimate(training: pd.DataFrame, explained: pd.DataFrame) -> pd.DataFrame:
    """Estimate the hours of ``make paper`` from what was measured, a row each for 03, 04, 06, 07.

    A run trains on 60 % of the samples for `EPOCHS`, validates on 20 % at a third of the cost of
    training, and predicts all at that cost twice over, for single precision. 07 trains one network
    of each level again on surroundings, and four on half of the images.
    """
    settings = yaml.safe_load((ROOT / "workflow/config/paper.yaml").read_text())
    sweep, audit, again = settings["workflow"], settings["07_shortcuts"], []
    counts, rows = paper.counts().sum(), []
    for level, side in (("image", 512), ("cell", 64)):
        measured = training[training["px"] == side].set_index("model")
        if measured.empty:
            continue
        models = list(sweep[f"{level}_models"])
        if level == "cell":  # the subsets of slices, besides all three
            models += [sweep["slices"]] * (len(SLICES) - 1)
        models = pd.Series(models * len(sweep["seeds"]))
        samples = int(counts[f"{level}s"])
        passes = EPOCHS * (0.6 + 0.2 / 3) + 2 / 3
        seconds = samples * passes / models.map(measured["ours"])
        seconds += START_SECONDS + measured["store_s"].max()
        row = {"step": f"{level} level", "runs": int(seconds.notna().sum())}
        row["hours"] = seconds.sum() / 3600
        lacking = sorted(set(models[seconds.isna()]))
        rows.append(row | {"epochs": EPOCHS, "not measured": " ".join(lacking)})
        again.append((1 + 4 / 2) * seconds[models == audit[f"{level}_model"]].mean() / 3600)
    if not explained.empty:
        # three strides of 1000 cells a class; the slowest backbone measured stands for the chosen
        hours = explained["seconds"].max() / explained["cells"].max() * 9000 / 3600
        rows.append({"step": "06", "runs": 1, "hours": hours})
    if again:
        rows.append({"step": "07", "runs": 5 * len(again), "hours": sum(again), "epochs": EPOCHS})
    return pd.DataFrame(rows).round({"hours": 3})


def main() -> None:
    """Run the steps that an earlier call has not finished, then estimate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=9, help="for everything together")
    parser.add_argument("--quick", action="store_true", help="try the script, with a GPU or not")
    options, started = parser.parse_args(), time.perf_counter()
    if not (options.quick or torch.cuda.is_available()):
        sys.exit(f"PyTorch {torch.__version__} sees no GPU here. --quick tries the script without.")
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in ("gpu.json", *TABLES):  # what an earlier call left, where OUT is a new folder
        earlier = ROOT / "benchmarks/results" / name
        if earlier.exists() and not (RESULTS / name).exists():
            shutil.copy(earlier, RESULTS / name)
    rooms = [f"training.{room}" for room in ("batches", "models", "fit", "device")]
    rooms += ["explanation.maps", "explanation.checks"]
    made_on = {"device": device_name("auto"), "torch": torch.__version__}
    made_on |= {"code_sha256": code_digest(*rooms), "quick": options.quick}
    done = earlier_steps(RESULTS / "gpu.json", made_on)
    names = ("training_quick.csv", "explain_quick.csv") if options.quick else TABLES
    if not done:  # tables of other code, or of another device
        for name in names:
            (RESULTS / name).unlink(missing_ok=True)
    for name, (arguments, spared) in (QUICK if options.quick else STEPS).items():
        left = options.minutes * 60 - (time.perf_counter() - started) - spared
        if done.get(name, {}).get("end") == "status 0":
            print(f"{name}: finished by an earlier call")
        elif left < 20:
            print(f"{name}: no time left; the same command goes on with it")
        else:
            done[name] = run_step(name, arguments, left)
            write_json(RESULTS / "gpu.json", made_on | {"steps": done})
    tables = [RESULTS / name for name in names]
    tables = [pd.read_csv(table) if table.exists() else pd.DataFrame() for table in tables]
    if not tables[0].empty:
        estimate = paper_estimate(*tables).assign(device=made_on["device"])
        write_csv(RESULTS / f"paper_{'quick' if options.quick else 'gpu'}.csv", estimate)
        print(estimate.to_string(index=False))
    failed = [name for name, step in done.items() if step["end"] != "status 0"]
    if failed:
        sys.exit(f"Not finished: {', '.join(failed)}; the same command goes on.")


def earlier_steps(record: Path, made_on: dict) -> dict:
    """Read which steps an earlier call finished with this code on this device."""
    if not record.exists():
        return {}
    content = json.loads(record.read_text())
    same = all(content.get(key) == value for key, value in made_on.items())
    return content["steps"] if same else {}


if __name__ == "__main__":
    main()
