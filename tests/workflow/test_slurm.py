"""A real SLURM, started here for these tests: what its jobs make, and what becomes of lost ones.

`make slurm` runs them, and needs root and Debian's packages ``slurm-wlm`` and ``munge``. The node
is this machine, said to be larger than it is so that the profile fits as it stands; its GPU is no
device, and there is no accounting.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import step
import yaml

from hsc_utils.files import ROOT
from hsc_utils.simulation import write_demo
from hsc_utils.study import Study, failure_of

PROFILE = ROOT / "workflow" / "profiles" / "slurm"
DAEMONS = ("munged", "slurmctld", "slurmd")
SLURM_CONF = """
ClusterName=test
SlurmctldHost=localhost
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
# a job whose node was lost starts again after this time
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
SlurmUser=root
FirstJobId={first}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
ReturnToService=2
SlurmdTimeout=5
# a job that holds more memory than it asked for is ended
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
KillWait=2
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=200000 Gres=gpu:1
PartitionName=cpu Nodes=localhost Default=YES
PartitionName=gpu Nodes=localhost
"""
TINY = {
    "workflow": {"cell_models": ["resnet18", "resnet18-slice0"], "image_models": ["resnet18"]},
    "02_blob_tuning": {
        "truth_csv": None,
        "tuning_images": 3,
        "sizes": {"smallest": [8.0], "largest": [13.0, 16.0]},
    },
    "03_image_level_training": {"weights": "none", "input_size": 64, "max_epochs": 1},
    "04_cell_level_training": {"weights": "none", "input_size": 64, "max_epochs": 10},
    "05_comparison_wang_et_al": {"models": ["resnet18"], "ablation": "resnet18"},
    "06_grad_cam": {"cell_model": "resnet18", "image_model": "resnet18"},
    "07_shortcuts": {"retrain_epochs": 1},
    "08_new_images": {"cell_model": "resnet18", "image_model": "resnet18"},
}


def documented_command(config):
    """Take the command from the page that describes it, for another configuration."""
    page = (ROOT / "book" / "cluster.md").read_text()
    command = re.search(r"^snakemake --workflow-profile(?:.*\\\n)*.*", page, re.MULTILINE)[0]
    words = command.replace("\\\n", " ").split()
    return [str(config) if word.endswith("paper.yaml") else word for word in words]


def test_the_documented_command_starts_as_it_is_printed(tmp_path):
    sections = yaml.safe_load((ROOT / "workflow" / "config" / "paper.yaml").read_text())
    sections["study"] = str(tmp_path / "study")
    (tmp_path / "raw" / "MPP").mkdir(parents=True)
    (tmp_path / "raw" / "MPP" / "one.oir").write_bytes(b"")
    sections["01_data_preparation"]["raw_dir"] = str(tmp_path / "raw")
    config = tmp_path / "paper.yaml"
    config.write_text(yaml.safe_dump(sections))
    own = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [*documented_command(config), "--nolock", "--dry-run"],
        cwd=ROOT,
        env=os.environ | {"PATH": own},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "06 Explaining" in done.stdout + done.stderr


def test_what_asks_for_a_gpu_goes_to_its_partition_and_nothing_else_does():
    text = (ROOT / "workflow" / "Snakefile").read_text()
    rules = re.findall(r"^ *rule (\w+):\n(.*?)(?=^ *rule |\Z)", text, re.DOTALL | re.MULTILINE)
    asking = {rule for rule, content in rules if "gpu=SWEEP" in content}
    chosen = yaml.safe_load((PROFILE / "config.yaml").read_text())["set-resources"]
    assert asking == {rule for rule in chosen if chosen[rule]["slurm_partition"] == "gpu"}
    assert set(chosen) < {rule for rule, _ in rules}


def test_the_last_retry_of_the_profile_writes_the_reason():
    assert yaml.safe_load((PROFILE / "config.yaml").read_text())["retries"] == step.TRIES


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (
            "slurmstepd-node1: error: *** JOB 7 ON node1 CANCELLED AT 2026 DUE TO TIME LIMIT ***\n"
            "srun: error: node1: task 0: Exited with exit code 1\n",
            "JOB 7 ON node1 CANCELLED AT 2026 DUE TO TIME LIMIT; "
            "node1: task 0: Exited with exit code 1",
        ),
        ("chatter\nsrun: error: node1: task 0: Killed\n", "node1: task 0: Killed"),
        ("chatter\n", "nothing"),
    ],
)
def test_a_training_ended_too_often_quotes_what_slurm_said_last(tmp_path, monkeypatch, log, said):
    (tmp_path / "7.log").write_text(log)
    (tmp_path / "8.log").write_text("")
    os.utime(tmp_path / "7.log", (1, 1))
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f"#!/bin/sh\necho JobId=$3\necho '   StdOut={tmp_path}/8.log'\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    status = tmp_path / "status.json"
    for attempt, failed in ((step.TRIES, "No notebook is called"), (step.TRIES + 1, said)):
        monkeypatch.setenv("HSC_ATTEMPT", str(attempt))
        assert step.main(["--status", str(status), "hsc_utils.run", "99_no_such_notebook"]) == 0
        assert failed in failure_of(tmp_path)
    assert failure_of(tmp_path).endswith(f"7.log says: {said}")


@dataclass
class Cluster:
    """Where a SLURM lives, and what a shell needs to reach it."""

    folder: Path
    environment: dict[str, str]

    def call(self, *command):
        """Run one of SLURM's commands and return what it says."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def stop(self, daemon, how=signal.SIGTERM):
        """End a daemon by its own number, and wait until it is gone."""
        pid = int((self.folder / f"{daemon}.pid").read_text())
        with suppress(ProcessLookupError):
            os.kill(pid, how)
        until(lambda: not Path(f"/proc/{pid}").exists() or state_of(pid) == "Z", daemon)

    def running(self):
        """List the numbers of the running jobs."""
        return self.call("squeue", "--noheader", "--states=RUNNING", "--format=%A").split()

    def processes(self, job):
        """List the processes that a job started; SLURM's own, which watches them, is not among."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"SLURM_JOB_ID={job}\0".encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
        return found


def state_of(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def until(happened, what, seconds=90):
    """Wait for something, and say what did not come."""
    end = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.3)
    return found


def free_ports():
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if missing := [name for name in DAEMONS if not shutil.which(name)]:
        pytest.skip(f"{', '.join(missing)} not found; Debian has them in slurm-wlm and munge")
    if os.geteuid() != 0:
        pytest.skip("SLURM's daemons are started as root, and this is another user")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("munge", "state", "spool", "bin"):
        (folder / name).mkdir()
    (folder / "munge").chmod(0o700)
    (folder / "munge" / "key").write_bytes(os.urandom(1024))
    (folder / "munge" / "key").chmod(0o600)
    conf = folder / "slurm.conf"
    conf.write_text(
        SLURM_CONF.format(
            folder=folder, ports=free_ports(), host=socket.gethostname(), first=os.getpid()
        )
    )
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")
    # within a job Snakemake's plugin forgets SLURM_CONF; a real cluster's lies where srun looks
    srun = folder / "bin" / "srun"
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={conf} exec {shutil.which("srun")} "$@"\n')
    srun.chmod(0o755)
    own = os.pathsep.join([str(srun.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    # a cluster's shells know nothing of these tests
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "OMP_", "HSC_"))}
    made = Cluster(folder, kept | {"SLURM_CONF": str(conf), "PATH": own})
    munge = folder / "munge"
    munged = ["munged", "--force", f"--socket={munge}/socket", f"--key-file={munge}/key"]
    munged += [f"--log-file={munge}/log", f"--pid-file={folder}/munged.pid"]
    munged += [f"--seed-file={munge}/seed"]
    with ExitStack() as ended:
        for daemon, command in zip(DAEMONS, (munged, ["slurmctld"], ["slurmd"]), strict=True):
            made.call(*command)
            ended.callback(made.stop, daemon)
        until(lambda: "idle" in made.call("sinfo", "--noheader"), "an idle node")
        ended.callback(made.call, "scancel", "--user=root")
        yield made


def config_of(folder, study, **changes):
    """Write a tiny configuration of its own study, on the raw data in a folder."""
    sections = TINY | {"study": str(folder / study)}
    sections["01_data_preparation"] = {"raw_dir": str(folder / "raw"), "simulate_demo": False}
    for section, content in changes.items():
        sections[section] = sections[section] | content
    path = folder / f"{study}.yaml"
    path.write_text(yaml.safe_dump(sections))
    return path


def named(path):
    """Name a file as the workflow does."""
    return os.path.relpath(path, ROOT)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The tiny study, trained without SLURM."""
    folder = tmp_path_factory.mktemp("studies")
    counts = {"LT-HSC": 6, "ST-HSC": 6, "MPP": 6}
    write_demo(folder / "raw", folder / "truth", counts=counts, size=320, workers=1)
    config, study = config_of(folder, "local"), Study(folder / "local")
    wanted = [study.run("cell", model, 0) for model in TINY["workflow"]["cell_models"]]
    command = ["snakemake", "--snakefile", "workflow/Snakefile", "--configfile", str(config)]
    command += ["--cores", "2", "--nolock", "--", *(named(run.status_file) for run in wanted)]
    own = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PATH": own}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return study


def copy_of(local, name, *parts):
    """Begin another study with parts of the local one."""
    study = Study(local.root.with_name(name))
    for part in parts:
        shutil.copytree(local.root / part, study.root / part)
    return study


def submit(cluster, config, target, *more):
    """Start the documented command; it looks at its jobs after seconds, and not after 40."""
    options = ["--nolock", "--slurm-init-seconds-before-status-checks", "2"]
    options += ["--slurm-logdir", str(cluster.folder / "logs" / config.stem)]
    options += ["--slurm-keep-successful-logs", *more, "--", os.path.relpath(target, ROOT)]
    with config.with_suffix(".log").open("w") as stream:
        return subprocess.Popen(
            [*documented_command(config), *options],
            cwd=ROOT,
            env=cluster.environment,
            stdout=stream,
            stderr=stream,
        )


def kill(processes):
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def lose_node(cluster):
    """End all that runs on the node, as a crash does; when SLURM has noticed, start it anew."""
    cluster.stop("slurmd", signal.SIGKILL)
    for job in cluster.running():
        found = subprocess.run(
            ["pgrep", "--full", rf"^slurmstepd: .{job}\."], capture_output=True, text=True
        )
        kill([*map(int, found.stdout.split()), *cluster.processes(job)])
        for log in (cluster.folder / "logs").rglob(f"{job}.log"):
            log.unlink()  # tells the first start from the next
    until(lambda: "down" in cluster.call("sinfo", "--noheader"), "the node to be missed")
    cluster.call("slurmd")


def exceed_time(cluster, job):
    """Let a job stand still until its time is over: a minute is the least that SLURM knows."""
    for pid in cluster.processes(job):
        os.kill(pid, signal.SIGSTOP)
    cluster.call("scontrol", "update", f"JobId={job}", "TimeLimit=1")


@pytest.fixture(scope="module")
def told(cluster, local):
    """Call the documented command for three studies at once, as SLURM takes time to notice things.

    ``struck`` loses its node, then one training is late and the other preempted; ``ended`` is
    killed, cancelled, and short of memory; ``promised`` wants a GPU that PyTorch can use. Returned
    is what each call said, and what SLURM knew of the job with a GPU.
    """
    one = {"cell_models": ["resnet18"]}
    changes = {"struck": {}, "ended": one, "promised": one | {"gpus_per_run": 1}}
    configs, calls = {}, {}
    for name, changed in changes.items():
        trained = () if name == "promised" else ("runs/image",)
        study = copy_of(local, name, "prepared", "cells", *trained)
        run = study.run("image", "resnet18", 0)
        configs[name] = config_of(local.root.parent, name, workflow=changed)
        target = study.tables / "tables.md" if trained else run.status_file
        memory = "train_cell_level:mem_mb=50 if attempt == 3 else 8000"
        more = ("--set-resources", memory) if name == "ended" else ()
        calls[name] = submit(cluster, configs[name], target, *more)
    logs, done, gpu = cluster.folder / "logs", set(), []
    killed = []

    def played():
        running = cluster.running()
        for log in logs.rglob("*.log"):
            if (job := log.stem) not in running:
                continue
            study, _, model, _ = log.relative_to(logs).parts
            if study == "ended":
                if job not in killed and len(killed) < 2 and "Job 0" in log.read_text():
                    killed.append(job)
                    cluster.call("scancel", job) if killed[1:] else kill(cluster.processes(job))
            elif study == "promised":
                gpu.append(cluster.call("scontrol", "--details", "show", "job", job))
            elif not done and "epoch 2" in log.read_text():
                done.add("lost")
                return lose_node(cluster)
            elif done and model not in done and "train_loss" in log.read_text():
                done.add(model)
                if model == "resnet18_0":
                    exceed_time(cluster, job)
                else:
                    cluster.call("scontrol", "requeue", job)  # what preemption does
        return all(call.poll() is not None for call in calls.values())

    try:
        until(played, "three calls to end", seconds=900)
    finally:
        for call in calls.values():
            call.terminate()
    said = {name: config.with_suffix(".log").read_text() for name, config in configs.items()}
    return said | {"gpu": gpu[0]}


def last_log(cluster, study, model):
    """Read what the last job of a training wrote."""
    logs = (cluster.folder / "logs" / study).glob(f"rule_train_cell_level/{model}_0/*.log")
    return max(logs, key=lambda log: log.stat().st_mtime).read_text()


@pytest.mark.slurm
def test_lost_late_and_preempted_jobs_go_on_where_they_were(cluster, local, told):
    assert "TIMEOUT" in told["struck"] and "Trying to restart" in told["struck"]
    began_again = (cluster.folder / "slurmctld.log").read_text().count("Requeuing JobId")
    assert began_again >= 3, "two whose node was lost, and one that was preempted"
    for model in TINY["workflow"]["cell_models"]:
        reference, run = (
            study.run("cell", model, 0) for study in (local, Study(local.root.with_name("struck")))
        )
        assert run.failure is None
        assert run.predictions_file.read_bytes() == reference.predictions_file.read_bytes()
        assert run.weights_file.read_bytes() == reference.weights_file.read_bytes()
        assert "continuing after epoch" in last_log(cluster, "struck", model)


@pytest.mark.slurm
def test_a_training_that_is_ended_every_time_says_how_and_stops_nothing(local, told):
    study = Study(local.root.with_name("ended"))
    failure = failure_of(study.run("cell", "resnet18", 0).directory)
    assert f"SLURM ended it {step.TRIES} times" in failure
    assert failure in (study.tables / "tables.md").read_text()


@pytest.mark.slurm
def test_a_training_on_a_gpu_gets_one_from_slurm_and_says_that_pytorch_sees_none(local, told):
    assert "TresPerJob=gres:gpu:1" in told["gpu"] and "Partition=gpu" in told["gpu"]
    run = Study(local.root.with_name("promised")).run("image", "resnet18", 0)
    assert "A GPU was asked for, but PyTorch" in failure_of(run.directory)
    assert "the same command tries these again" in told["promised"]
