"""Graceful shutdown: SIGTERM, SIGUSR1 and Ctrl-C are noted, and the work under way is saved before the process ends."""

import signal
import sys
import threading
from types import FrameType, TracebackType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)  # the second announces the end of a time limit


class StopSignal:
    """While the block runs, the first of these signals is only noted; a second one acts at once, as usual.

    What is ignored stays so, as Ctrl-C is in the background of a shell. Outside the main thread, which alone may handle
    signals, nothing is noted. With `only_note`, later ones are noted too: one of several processes is sent a signal by
    its parent, and by a scheduler that signals every process of a job once more.
    """

    def __init__(self, *, only_note: bool = False) -> None:
        self.number: int | None = None
        self._only_note = only_note
        self._before: dict[int, signal.Handlers] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._note) for number in heard}  # type: ignore[misc]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()

    @property
    def came(self) -> bool:
        """Whether a signal was noted."""
        return self.number is not None

    def leave(self, name: str, position: str) -> None:
        """Says where the work stopped and ends the process with the status of its signal, such as 143."""
        assert self.number is not None
        print(
            f"reidablate: {name} was stopped by {signal.Signals(self.number).name} after {position}; "
            "the same command goes on from there.",
            file=sys.stderr,
            flush=True,
        )
        raise SystemExit(128 + self.number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        if not self._only_note:
            self._give_back()

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
