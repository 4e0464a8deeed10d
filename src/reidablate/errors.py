"""What a user is meant to read when something is wrong, and how it is found again in the log of a stage."""

import re
from pathlib import Path

_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[@-Z\\^_]?)")  # colours, moves of the cursor (ECMA-48, 5.4)


class UserError(ValueError):
    """A problem the user can solve: one sentence saying what is wrong, where, and what to do.

    The command line prints the sentence and exits with status 2, without a traceback.
    """


def sentence(error: UserError | OSError) -> str:
    """Returns the one sentence to print for an error that the user can solve."""
    if isinstance(error, OSError) and error.filename is not None:
        return printable(f"{error.filename} cannot be used: {error.strerror}; check the path, its rights and the disk.")
    return printable(str(error))


def printable(text: str) -> str:
    r"""Returns a text of others on one line, without anything that steers a terminal.

    Escape sequences are left out; other control codes and invisible marks are spelt as Python does (`\x07`).
    """
    line = " ".join(filter(None, (part.strip() for part in _ESCAPE.sub("", text).replace("\t", " ").splitlines())))
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in line)


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
    return printable(last_words(log) or f"ended without a word (killed?){last}")


def _lines(log: Path) -> list[str]:
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    return [line for line in text.splitlines() if line.strip()]
