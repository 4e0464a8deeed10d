"""Error messages: the one sentence that a user reads when something is wrong, and how it is found in a stage's log."""

import errno
import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SHARED_MEMORY = (
    "shared memory is used up ({}); start the container with a larger --shm-size, or set execution.workers to 0 in the "
    "preset."
)
_MEMORY = "memory is used up ({}); close other programs, start fewer jobs at once (--cores), or use a larger machine."
_DEVICE = "the GPU is out of memory ({}); free it of other processes (nvidia-smi), or use one with more memory."
_LONGEST_SENTENCE = 2000  # a value of thousands of letters is not repeated whole
_LONGEST = 300  # letters of a library's message that a sentence quotes
TURNING = "".join(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))  # turn the direction of what follows
# Colours and cursor movements of a terminal, and titles of its window.
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])")


class UserError(ValueError):
    """A problem the user can solve: one sentence saying what is wrong, where, and what to do.

    The command line prints the sentence and exits with status 2, without a traceback.
    """


class Damaged(UserError):
    """An image that is broken, or is not the one that was indexed."""


def sentence(error: UserError | OSError) -> str:
    """Returns the one sentence to print for an error that the user can solve."""
    if isinstance(error, OSError):
        return plain(_of_system(error))
    return shortened(error, _LONGEST_SENTENCE)


def plain(text: str) -> str:
    """Returns text as one line: without the control codes of a terminal, and with every letter one that can be written.

    Line breaks and runs of spaces become one space; half of a surrogate pair is shown as its code.
    """
    words = " ".join(_ANSI.sub("", text).split())
    visible = "".join(c for c in words if unicodedata.category(c) != "Cc" and c not in TURNING)
    return visible.encode("utf-8", "backslashreplace").decode()


def shortened(text: object, longest: int = _LONGEST) -> str:
    """Returns the text of a library's error or of a value, on one line and cut where it is long; never fails."""
    try:
        words = plain(str(text))
    except Exception as error:  # an integer of more than 4300 digits has no text
        words = f"{type(text).__name__} ({plain(str(error))})"
    return words if len(words) <= longest else f"{words[:longest]}..."


def reason(error: BaseException) -> str:
    """Returns why a library failed, in its own words, or its exception's name where it has none."""
    if isinstance(error, OSError) and error.strerror:
        return shortened(error.strerror)
    if isinstance(error, MemoryError):
        return "it does not fit into memory"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    words = shortened(error)
    return words if words else type(error).__name__


@contextmanager
def reading(path: Path | str, form: str, *, remedy: str, missing: str = "correct the path") -> Iterator[None]:
    """Makes one sentence of whatever a library raises while it reads a file: the one door for every kind of file.

    Args:
        path: The file, or words for a part of it.
        form: What it should be, for example `a JSON file`.
        remedy: What to do about a file that is not.
        missing: What to do where there is no such file.

    Raises:
        UserError: The block raised anything but a `UserError`, which passes as it is.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {missing}.") from None
    except (IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise UserError(f"{path} cannot be read: {reason(error)}; give a file that you may read.") from None
    except Exception as error:
        raise UserError(f"{path} cannot be read as {form} ({reason(error)}); {remedy}.") from None


def check_file(path: Path, *, most_bytes: int) -> os.stat_result:
    """Returns the state of a file that can be read to its end.

    Raises:
        OSError: There is no such file, or it may not be read.
        UserError: It is a pipe, a device or a socket, which may have no end, or has more than `most_bytes`.
    """
    state = path.stat()
    if stat.S_ISDIR(state.st_mode):
        raise IsADirectoryError(21, "Is a directory", str(path))
    if not stat.S_ISREG(state.st_mode):
        raise UserError(f"{path} is a pipe, a device or a socket; give an ordinary file.")
    if state.st_size > most_bytes:
        raise UserError(f"{path} has {state.st_size:,} bytes, more than {most_bytes:,}; give a smaller one.")
    return state


def _of_system(error: OSError) -> str:
    """Returns the sentence for an error of the operating system, with the knob to turn where it names no file."""
    words = error.strerror or str(error)
    if error.errno == errno.ENOMEM:
        return _MEMORY.format(words)
    if error.filename is not None:
        return f"{error.filename} cannot be used: {words}; check the path, its rights and the disk."
    if "temporary directory" in str(error):
        return f"there is no folder for temporary files ({words}); set TMPDIR to a folder that you may write."
    if re.search(r"shared memory|\bshm\b", str(error)):
        return _SHARED_MEMORY.format(words)
    if error.errno == errno.ENOSPC:
        return (
            f"{words}, and the system does not say where; free the disk of the results and that of TMPDIR, or, where "
            "/dev/shm is full, raise --shm-size of the container or set execution.workers to 0 in the preset."
        )
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return f"{words}; raise the limit (ulimit -n) or lower execution.workers in the preset."
    if error.errno == errno.EAGAIN:
        return f"{words}: no further process or thread can be started; raise the limit (ulimit -u) or use fewer cores."
    return f"the operating system refused an operation without naming a file ({words}); check the disk and the rights."


def refusal(error: Exception) -> str | None:
    """Returns the one sentence to print for an error that the user can solve, None for a fault of the code."""
    return sentence(error) if isinstance(error, (UserError, OSError)) else knob(error)


def out_of_memory(error: BaseException) -> bool:
    """Returns whether an error of a library says that the memory of a device or of the host is used up."""
    return isinstance(error, MemoryError) or _of_device(error) or "can't allocate memory" in str(error)


def _of_device(error: BaseException) -> bool:
    words = str(error)
    named = type(error).__name__ == "OutOfMemoryError"
    return named or "CUDA out of memory" in words or "CUDA_ERROR_OUT_OF_MEM" in words


def knob(error: BaseException) -> str | None:
    """Returns the sentence for an error that is the machine's: memory, shared memory, or a broken installation.

    Libraries report these as errors of their own, some under a general name, so their words tell them apart. None for
    anything else, which is a fault of the code.
    """
    words = str(error)
    if _of_device(error):
        return plain(_DEVICE.format(shortened(words.split(". ")[0], 120)))
    if isinstance(error, RuntimeError) and re.search(r"shared memory|\bshm\b|Bus error", words):
        return plain(_SHARED_MEMORY.format(shortened(words, 120)))
    unloaded = re.search(r"[^\s/]+: failed to map segment", words) if isinstance(error, ImportError) else None
    if (
        unloaded
        or isinstance(error, MemoryError)
        or (isinstance(error, RuntimeError) and "can't allocate memory" in words)
    ):
        return plain(_MEMORY.format(unloaded[0] if unloaded else shortened(words, 120) or "an allocation failed"))
    if isinstance(error, ImportError):
        return f"the installation cannot be used ({shortened(words)}); install the package again with all it needs."
    if isinstance(error, RuntimeError) and "Could not determine home directory" in words:
        return "there is no home folder; set HOME to a folder that you may write."
    if isinstance(error, RuntimeError) and "can't start new thread" in words:
        return plain(_of_system(OSError(errno.EAGAIN, words)))
    return None


def last_words(log: Path) -> str:
    """Returns why a stage failed by its log: the last refusal or exception in it; empty if it says nothing."""
    words, in_traceback = "", False
    for line in _lines(log):
        if line.startswith("Traceback (most recent call last):"):
            in_traceback = True
        elif line.startswith("reidablate: ") or (in_traceback and not line[0].isspace()):
            words, in_traceback = line, False
    return words


def how_it_ended(log: Path) -> str:
    """Returns the last words of a failed stage, or that it had none, as when the kernel killed it for its memory."""
    last = "".join(f"; its last line: {line.strip()}" for line in _lines(log)[-1:])
    return plain(last_words(log) or f"ended without an error message (killed?){last}")


def _lines(log: Path) -> list[str]:
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    return [line for line in text.splitlines() if line.strip()]
