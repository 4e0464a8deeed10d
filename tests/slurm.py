"""A real Slurm on this machine alone, whose four GPUs are the null device: Debian's slurm-wlm and munge, as root.

Everything it has is in one folder: sockets, keys, state, logs, and two commands: `srun` for jobs, whose steps lose
`SLURM_CONF`, and `snakemake`, which asks for their states every second, not less and less often.
"""

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

SBIN = "/usr/sbin"
START_S = 90.0  # for all daemons, on a machine that is busy with other things
NODE = "localhost"  # whether the name of this machine can be resolved or not
DAEMONS = ("munged", "slurmctld", "slurmd")


def missing() -> str | None:
    """Returns what keeps Slurm from being started here, None if nothing does."""
    lacking = [name for name in (*DAEMONS, "sbatch", "srun") if _program(name) is None]
    if lacking:
        return f"{', '.join(lacking)} not found; apt-get install slurm-wlm munge"
    return "Slurm's daemons have to be started by root" if os.getuid() else None


@contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """Yields the environment of a user of the cluster, whose node is idle; afterwards nothing of it runs.

    What the daemons said is printed at the end, for the report of a test that failed.

    Raises:
        AssertionError: Slurm does not start; the sentence has the last words of the daemon that ended.
    """
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)  # in /tmp, because the path of a socket must be short
        environment = _prepare(folder)
        daemons: dict[Path, subprocess.Popen[bytes]] = {}

        def running(condition: Callable[[], object]) -> bool:
            for log, daemon in daemons.items():
                assert daemon.poll() is None, f"{log.stem} ended with status {daemon.returncode}: {_last_line(log)}"
            return bool(condition())

        try:
            for command in _daemons(folder):
                log = folder / f"{command[0]}.out"
                daemons[log] = _start(command, log, environment)
                if command[0] == "munged":
                    wait_until(lambda: running((folder / "munge.socket").exists), START_S, "munged does not answer")
            wait_until(lambda: running(lambda: _state(environment) == "idle"), START_S, "the node of Slurm is not idle")
            yield environment
        finally:
            _kill_all(folder)
            for log, daemon in daemons.items():
                daemon.wait()
                print(f"== {log.name}", *log.read_text(errors="replace").splitlines()[-40:], sep="\n")


def wait_until(condition: Callable[[], object], seconds: float, otherwise: str) -> None:
    """Returns as soon as a condition holds.

    Raises:
        AssertionError: It does not within so many seconds.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{otherwise} after {seconds:.0f} s"
        select.select([], [], [], 0.1)


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}{os.pathsep}{SBIN}")


def _prepare(folder: Path) -> dict[str, str]:
    """Writes all files of a cluster and returns the environment of its users."""
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir()
    for number in range(4):
        (folder / f"gpu{number}").symlink_to(os.devnull)  # Slurm wants devices; who may make some differs
    ports = _free_ports(2)
    (folder / "slurm.conf").write_text(_CONFIGURATION.format(folder=folder, node=NODE, ports=ports))
    (folder / "gres.conf").write_text(f"AutoDetect=off\nNodeName={NODE} Name=gpu File={folder}/gpu[0-3]\n")
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nConstrainCores=no\nConstrainDevices=no\n")
    commands = {
        "srun": f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {_program("srun")} "$@"\n',
        "snakemake": f"#!{sys.executable}\n{_SNAKEMAKE}",
    }
    for name, text in commands.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    path = os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}


def _daemons(folder: Path) -> list[list[str]]:
    munge = [f"--{key}={folder}/munge.{kind}" for key, kind in _MUNGE.items()]
    return [["munged", "--foreground", "--force", *munge], ["slurmctld", "-D"], ["slurmd", "-D", "-N", NODE]]


_SNAKEMAKE = """\
import sys
from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
RemoteExecutor.next_seconds_between_status_checks = property(lambda self: 1, lambda self, seconds: None)
sys.exit(main())
"""
_MUNGE = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
# No time limit of its own may end what a busy machine delays. MinJobAge: how long squeue tells of a job that has ended.
_CONFIGURATION = """\
ClusterName=test
SlurmctldHost={node}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=2
BatchStartTimeout=120
KillWait=120
MessageTimeout=60
MinJobAge=900
SlurmdTimeout=0
TCPTimeout=30
UnkillableStepTimeout=300
NodeName={node} NodeAddr=127.0.0.1 CPUs=16 RealMemory=256000 Gres=gpu:4
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def _start(command: list[str], log: Path, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    """Starts a daemon, which ends with this process, however that ends."""
    words = ["setpriv", "--pdeathsig", "KILL", _program(command[0]) or command[0], *command[1:]]
    with log.open("w") as stream:
        return subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _last_line(log: Path) -> str:
    return next(reversed(log.read_text(errors="replace").splitlines()), "it said nothing")


def _state(environment: dict[str, str]) -> str:
    done = subprocess.run(
        ["sinfo", "--noheader", "--format=%T"], check=False, capture_output=True, text=True, env=environment
    )
    return done.stdout.strip()


def _kill_all(folder: Path) -> None:
    """Kills every process that has the folder in its environment: daemons, jobs, and whatever these started."""
    for _ in range(3):  # a daemon may be starting a job just now
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if os.fsencode(folder) in (entry / "environ").read_bytes() and int(entry.name) != os.getpid():
                    os.kill(int(entry.name), signal.SIGKILL)
