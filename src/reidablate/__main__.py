"""The command `reidablate`: hands a job to its study's running host, and imports the command line only without one."""

import os
import sys

_NO_MEMORY = (
    "reidablate: memory is used up while Python starts; close other programs, start fewer jobs at once (--cores), or "
    "raise the limit (ulimit -v)."
)

# What else than a MemoryError the loader of libraries and CPython's compiler raise where an allocation has failed.
_OUT_OF_MEMORY = ("failed to map segment", "returned NULL without setting an exception")


def main() -> None:
    """Runs the command line and ends the process with its exit status; 2 also where Python cannot import it."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller, and its number free for the next file that is opened
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    try:
        from reidablate.warm import leave, run_by_host

        status = run_by_host(sys.argv[1:])
        if status is None:
            from reidablate.provenance import limit_blas

            limit_blas()
            from reidablate import cli
    except MemoryError:
        print(_NO_MEMORY, file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        print(_why_no_import(error), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    if status is None:
        try:
            cli.main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
    leave(status or 0)


def _why_no_import(error: Exception) -> str:
    """Returns the sentence for what Python raised while it imported the package or what it needs."""
    if any(words in str(error) for words in _OUT_OF_MEMORY):
        return _NO_MEMORY
    words = " ".join(f"{type(error).__name__}: {error}".split())
    return f"reidablate: the installation cannot be used ({words}); install the package again with all it needs."


if __name__ == "__main__":
    main()
