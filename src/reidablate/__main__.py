"""The command `reidablate`: a study's host of jobs is asked before anything of the command line is imported."""

import sys

from reidablate.warm import leave, run_by_host


def main() -> None:
    """Runs the command line and ends the process with its exit status."""
    status = run_by_host(sys.argv[1:])
    if status is None:
        from reidablate import cli

        try:
            cli.main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
    leave(status or 0)


if __name__ == "__main__":
    main()
