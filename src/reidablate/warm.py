"""Starts jobs quickly: one process imports everything once and forks each job, as imports take longer than many jobs.

`snakemake` starts one host for its own jobs and names it in the environment. A stage that is started by a shell command
asks that host to run it: the host forks, and the fork takes over arguments, folder, environment and the three standard
streams of the command. The command itself stays and waits, so that logs, exit status, signals and Snakemake's books are
those of an ordinary process:

- a signal to the command is sent on to its fork; when the command dies, by whatever signal, its fork is killed;
- when Snakemake ends, or is killed, the host takes no more jobs and ends after the last one;
- when the host dies, its forks die with it, and each command runs its stage itself;
- a command that is not of the same installation, or a host whose sources have changed, is refused; it runs by itself.

The host never touches a GPU: CUDA does not survive a fork. Its BLAS has one thread; how many PyTorch uses, a stage sets
itself. Linux only; elsewhere, with REIDABLATE_WARM=off, or for a job on another machine, every command runs by itself.
"""

import atexit
import ctypes
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import traceback
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

VARIABLE = "REIDABLATE_WARM"
STAGES = {"pretrain", "train", "transfer", "evaluate", "diagnose", "aggregate", "statistics", "report"}
_PRELOADED = ("reidablate.engine.transfer", "reidablate.metrics.evaluate", "reidablate.stats.pipeline")
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
_PACKAGE = Path(__file__).parent
_PATIENCE = 10.0  # seconds for a request to arrive whole
_PDEATHSIG, _NAME = 1, 15  # of prctl
_HOSTS: list["subprocess.Popen[bytes]"] = []  # their standard input stays open as long as this process


def start_host(*also: str) -> None:
    """Starts the host of this process's jobs and names it in the environment; does nothing where it cannot work.

    Args:
        also: Modules that it imports besides those of every study.
    """
    if sys.platform != "linux" or VARIABLE in os.environ:
        return
    name = f"reidablate-{uuid.uuid4().hex}"
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")  # a name without a file, so that no kill leaves one behind
        listener.listen(128)
        host = subprocess.Popen(
            [sys.executable, "-m", "reidablate.warm", str(listener.fileno()), *also],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
            start_new_session=True,  # Ctrl-C is for the commands, which send it on
            env={**os.environ, **threads},
        )
    _HOSTS.append(host)
    os.environ[VARIABLE] = name


def release_hosts() -> None:
    """Has the hosts of this process end, and leaves no trace of them in the environment."""
    while _HOSTS:
        os.environ.pop(VARIABLE, None)
        host = _HOSTS.pop()
        if host.stdin is not None:
            host.stdin.close()
        host.wait()


def run_by_host(arguments: Sequence[str]) -> int | None:
    """Has a stage run by the host that the environment names, and returns its exit status.

    Returns None where there is no host, it refuses, or it died: the caller then runs the stage itself.
    """
    name = os.environ.get(VARIABLE, "off")
    if name == "off" or not arguments or arguments[0] not in STAGES:
        return None
    with socket.socket(socket.AF_UNIX) as connection:
        before = {number: signal.getsignal(number) for number in _FORWARDED}
        try:
            connection.connect(f"\0{name}")
            for number in _FORWARDED:
                if before[number] is not signal.SIG_IGN:
                    signal.signal(number, lambda number, _: connection.sendall(bytes([number])))
            _send(connection, {"arguments": list(arguments), "folder": os.getcwd(), "environment": dict(os.environ)})
            status = _read(connection, 4)
        except OSError:
            return None
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    if status is None:
        return None
    ended = int.from_bytes(status, "big", signed=True)
    if ended < 0:  # killed by a signal, as this command would have been
        with suppress(OSError, ValueError):
            signal.signal(-ended, signal.SIG_DFL)
        os.kill(os.getpid(), -ended)
    return ended


def leave(status: int) -> NoReturn:
    """Ends the process as the interpreter would, but without taking apart what the kernel frees at once."""
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    atexit._run_exitfuncs()
    os._exit(status)


def _send(connection: socket.socket, request: dict[str, Any]) -> None:
    body = json.dumps({**request, "installation": _installation()}).encode()
    socket.send_fds(connection, [len(body).to_bytes(4, "big")], [0, 1, 2])
    connection.sendall(body)


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    head, descriptors, _, _ = socket.recv_fds(connection, 4, 3)
    body = _read(connection, int.from_bytes(head, "big"))
    if body is None or len(descriptors) != 3:
        raise OSError("the request is not whole")
    return json.loads(body), descriptors


def _read(connection: socket.socket, size: int) -> bytes | None:
    """Returns so many bytes, None if the other side ends before."""
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(size - len(parts))
        if not part:
            return None
        parts += part
    return bytes(parts)


def _installation() -> list[str]:
    return [sys.prefix, str(_PACKAGE), os.environ.get("PYTHONPATH", "")]


def _sources() -> dict[str, tuple[int, int]]:
    """Returns time and size of every source file of the package."""
    states = {str(path): path.stat() for path in _PACKAGE.rglob("*.py")}
    return {path: (state.st_mtime_ns, state.st_size) for path, state in states.items()}


class _Host:
    """Forks jobs until its standard input ends, then waits for the last one."""

    def __init__(self, listener: socket.socket, also: Sequence[str] = ()) -> None:
        self._sources = _sources()
        self._listener = listener
        self._jobs: dict[int, socket.socket] = {}  # by process id
        self._selector = selectors.DefaultSelector()
        for module in (*_PRELOADED, *also):
            importlib.import_module(module)
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        reader.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda number, _: None)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self._wake = (reader, writer)
        self._selector.register(listener, selectors.EVENT_READ, self._take)
        self._selector.register(reader, selectors.EVENT_READ, self._reap)
        self._selector.register(sys.stdin, selectors.EVENT_READ, self._close)

    def serve(self) -> None:
        """Takes, watches and reaps jobs until the caller is gone and the last of them has ended."""
        gc.collect()
        gc.freeze()
        while self._listener.fileno() >= 0 or self._jobs:
            for key, _ in self._selector.select():
                act: Callable[[], None] = key.data
                act()

    def _close(self) -> None:
        for source in (sys.stdin, self._listener):
            self._selector.unregister(source)
        self._listener.close()

    def _take(self) -> None:
        connection, _ = self._listener.accept()
        descriptors: list[int] = []
        try:
            connection.settimeout(_PATIENCE)
            request, descriptors = _receive(connection)
            connection.settimeout(None)
            if request["installation"] == _installation() and _sources() == self._sources and not _holds_gpu():
                self._fork(connection, request, descriptors)
            else:
                connection.close()
        except (OSError, ValueError):
            connection.close()
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _fork(self, connection: socket.socket, request: dict[str, Any], descriptors: list[int]) -> None:
        host = os.getpid()
        pid = os.fork()
        if pid == 0:
            for key in list(self._selector.get_map().values()):
                if key.fileobj is not sys.stdin:
                    key.fileobj.close()  # type: ignore[union-attr]
            self._selector.close()
            signal.set_wakeup_fd(-1)
            connection.close()
            _become(host, request, descriptors)
        self._jobs[pid] = connection
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._hear(pid))

    def _hear(self, pid: int) -> None:
        """Sends a signal on to a job, or kills it when its command is gone."""
        connection = self._jobs[pid]
        try:
            numbers = connection.recv(16)
        except OSError:
            numbers = b""
        if numbers:
            for number in numbers:
                os.kill(pid, number)
        else:
            self._selector.unregister(connection)
            _kill_group(pid)

    def _reap(self) -> None:
        with suppress(BlockingIOError):
            self._wake[0].recv(4096)
        for pid in list(self._jobs):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                connection = self._jobs.pop(pid)
                with suppress(KeyError):
                    self._selector.unregister(connection)
                with suppress(OSError):
                    connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))
                connection.close()


def _kill_group(pid: int) -> None:
    """Kills a job with the processes that it started; it may not have made its group yet."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)


def _holds_gpu() -> bool:
    """Returns whether this process has opened a GPU, which no fork could use."""
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if os.readlink(link).startswith("/dev/nvidia"):
                return True
    return False


def _become(host: int, request: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """Makes this fork the process that the command asked for, runs it and ends."""
    status = 1
    try:
        os.setsid()
        libc = ctypes.CDLL(None)
        libc.prctl(_PDEATHSIG, signal.SIGKILL)
        libc.prctl(_NAME, request["arguments"][0].encode())  # what top and `ps -o comm` show
        if os.getppid() != host:  # it died in between
            os._exit(1)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        for ours, theirs in enumerate(descriptors):
            os.dup2(theirs, ours)
            os.close(theirs)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv = ["reidablate", *request["arguments"]]
        sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        gc.enable()
        from reidablate import cli

        cli.main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    leave(status)


def _main() -> None:
    gc.disable()  # nothing that is imported is garbage
    _Host(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:]).serve()


if __name__ == "__main__":
    _main()
