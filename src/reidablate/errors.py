"""What a user is meant to read when something is wrong, and how it is found again in the log of a stage."""

from pathlib import Path


class UserError(ValueError):
    """A problem the user can solve: one sentence saying what is wrong, where, and what to do.

    The command line prints the sentence and exits with status 2, without a traceback.
    """


def sentence(error: UserError | OSError) -> str:
    """Returns the one sentence to print for an error that the user can solve."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename} cannot be used: {error.strerror}; check the path, its rights and the disk."
    return " ".join(str(error).splitlines())


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
    return last_words(log) or f"ended without a word (killed?){last}"


def _lines(log: Path) -> list[str]:
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    return [line for line in text.splitlines() if line.strip()]
