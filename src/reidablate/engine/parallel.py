"""One training on several GPUs: a process each, that share every batch.

The P x K images of a batch stay what they are; each process computes the network on an equal part of them and the loss
on all (`models/global_batch.py`), so the number of processes is no part of the science. Rank 0 writes.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn

from reidablate.engine.state import TrainingState
from reidablate.engine.stopping import StopSignal
from reidablate.errors import UserError, refusal
from reidablate.models.global_batch import see_global_batch
from reidablate.models.local_features import BNNeck

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue

Array = TypeVar("Array", bound=Any)

POLL_S = 0.2
_PDEATHSIG = 1  # of prctl
_PATIENCE = timedelta(hours=1)  # of a process that waits for the others


def rank() -> int:
    """Returns the number of this process among those of its training, 0 where it is the only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def num_processes() -> int:
    """Returns how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def share(batch: Array) -> Array:
    """Returns this process's part of the first axis of a batch, which all processes divide equally."""
    size = len(batch) // num_processes()
    part: Array = batch[rank() * size : (rank() + 1) * size]
    return part


def prepare(state: TrainingState, device: torch.device) -> None:
    """Lets a training see the whole batch where several processes share it; changes its network in place.

    Raises:
        UserError: A layer of the network would see only a part of the batch.
    """
    if not dist.is_initialized():
        return
    see_global_batch(state.model, known=(BNNeck,))
    ours = state.model.transformer is not None and all(plugin.code is None for plugin in state.used)
    # Without these the losses may leave out what is behind the neck, or the feature of the whole image.
    whole = state.loss.config.identity is not None and state.model.local_features is None
    state.forward = nn.parallel.DistributedDataParallel(
        state.forward,
        device_ids=[torch.cuda.current_device()] if device.type == "cuda" else None,
        find_unused_parameters=not (ours and whole),  # what others wrote may have parameters that a step does not use
    )


def all_say(yes: bool) -> bool:
    """Returns whether every process says yes; each has to ask."""
    return _largest(int(not yes)) == 0


def agree_to_stop(stop: StopSignal) -> bool:
    """Returns whether any process was sent a signal, which all then know of, so that they stop after the same step."""
    number = _largest(stop.number or 0)  # what comes meanwhile was not told the others: it stays for the next time
    if number:
        stop.number = number
    return bool(number)


def _largest(number: int) -> int:
    if not dist.is_initialized():
        return number
    found = torch.tensor(number)  # on the CPU, so that the device is not waited for
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


@contextmanager
def in_turn() -> Iterator[None]:
    """Lets rank 0 go through the block before the others, which then find what it has left."""
    if rank() > 0:
        dist.barrier()
    yield
    if dist.is_initialized() and rank() == 0:
        dist.barrier()


def run_on_each(gpus: tuple[str, ...], meeting: Path, work: Callable[..., str], *arguments: Any) -> str:
    """Returns what `work(*arguments)` returns on rank 0, after running it in one process for each GPU at once.

    They are forks, so this process must not have computed anything. A signal reaches all of them; if one fails, the
    others are ended, and none outlives this process.

    Args:
        gpus: Names of the GPUs.
        meeting: A file through which the processes find each other; it is removed.
        work: What to do.
        arguments: Of it.

    Raises:
        UserError: What the first process that failed was refused.
        SystemExit: It ended otherwise; what it had to say is in the log.
    """
    context = multiprocessing.get_context("fork")
    words: SimpleQueue[tuple[bool, str]] = context.SimpleQueue()
    meeting.unlink(missing_ok=True)
    group = [partial(_enter, rank, len(gpus), os.getpid(), meeting) for rank in range(len(gpus))]
    processes = [context.Process(target=_one, args=(enter, words, partial(work, *arguments))) for enter in group]
    try:
        for process in processes:
            process.start()
        with StopSignal() as stop:
            _watch(processes, stop)
    finally:
        ended = sorted(process.exitcode for process in processes if process.exitcode)  # killed ones before the others
        for process in processes:
            process.kill()
            process.join()
        meeting.unlink(missing_ok=True)
    said: dict[bool, str] = {}
    while not words.empty():
        good, text = words.get()
        said.setdefault(good, text)
    if False in said:
        raise UserError(said[False])
    if ended and ended[0] == -(stop.number or 0):  # before it could note the signal
        raise SystemExit(128 - ended[0])
    if ended and ended[0] < 0:
        killer = signal.Signals(-ended[0]).name
        raise UserError(
            f"one of the {len(gpus)} processes of the training was ended by {killer}, often for lack of memory; look "
            "at the system's log, and start the same command again."
        )
    if ended or True not in said:
        raise SystemExit(ended[0] if ended else 1)
    return said[True]


def _watch(processes: list[ForkProcess], stop: StopSignal) -> None:
    """Returns when all have ended as they should or one has not; a signal that comes meanwhile is sent on, once."""
    running, good = processes, {None, 0}
    while running and all(process.exitcode in good for process in processes):
        wait([process.sentinel for process in running], timeout=POLL_S)
        if stop.number is not None and len(good) == 2:
            good.add(128 + stop.number)
            for process in running:
                with suppress(ProcessLookupError):
                    os.kill(cast(int, process.pid), stop.number)
        running = [process for process in running if process.exitcode is None]


def _one(enter: Callable[[], None], words: "SimpleQueue[tuple[bool, str]]", work: Callable[[], str]) -> None:
    """Does the work as one of several processes and leaves its result, or why there is none, in `words`."""
    errors = sys.stderr
    try:
        enter()
        result = work()
        if rank() == 0:
            words.put((True, result))
        dist.destroy_process_group()
    except Exception as error:
        if (sentence := refusal(error)) is None:
            traceback.print_exc(file=errors)
            errors.flush()
        else:
            words.put((False, sentence))
        os._exit(1 if sentence is None else 2)


def _enter(own: int, number: int, parent: int, meeting: Path) -> None:
    """Makes this process one of the group, on a GPU of its own where PyTorch can use one."""
    os.setsid()  # Ctrl-C reaches it through its parent, once
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died in between
        os._exit(1)
    if own > 0:  # the first one speaks for all
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # they are on one machine
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(own)
    store = dist.FileStore(str(meeting), number)  # type: ignore[attr-defined]  # a `file:` URL would keep %20 for a space
    store.set_timeout(_PATIENCE)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=store,
        rank=own,
        world_size=number,
        timeout=_PATIENCE,
    )
