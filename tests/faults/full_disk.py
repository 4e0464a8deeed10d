"""Lets every stage of a study that had finished run out of disk, then go on, and compares the digest of all tables.

    PYTHONPATH=tests python tests/faults/full_disk.py --finished PROJECT --folder FOLDER

Each stage first runs with ever larger limits of the size of a file, from nothing on, until it succeeds: a write beyond
fails as on a full disk. It must end in one sentence and status 2. At last the call of the README must leave the tables
of an undisturbed study.
"""

import argparse
import contextlib
import sys
from collections import Counter
from pathlib import Path

from faults.stages import SCENARIOS, all_tables, begin, commands, reference, run_stage
from support import snakemake

ROOM = (0, 200, 1_000, 5_000, 25_000, 125_000)  # bytes


def main() -> int:
    """Prints how often each stage ran out of disk; exit status 1 when the study ended with other tables."""
    parser = argparse.ArgumentParser(description="Fill the disk of a finished study.")
    parser.add_argument("--finished", type=Path, required=True, help="a project with a finished tiny study")
    parser.add_argument("--folder", type=Path, required=True, help="a new one")
    asked = parser.parse_args()
    scenario, folder = SCENARIOS["rebuilt"], asked.folder.resolve()
    expected = reference(asked.finished, scenario, folder)
    begin(asked.finished, scenario, folder / "study")
    failed: Counter[str] = Counter()
    with contextlib.chdir(folder / "study"):
        for name, each in commands(scenario).items():
            for arguments in each:
                for room in ROOM:
                    status = run_stage(arguments, file_bytes=room)
                    assert status in {0, 2}, f"{arguments}: status {status} with {room} bytes"
                    failed[name] += status == 2
                if name != "report":
                    assert run_stage(arguments) == 0, arguments
        done = snakemake(config=scenario.words)
    assert done.returncode == 0, done.stderr
    same = all_tables(folder / "study") == expected
    print(f"{failed.total()} full disks, {'same' if same else 'OTHER'} tables: {dict(failed)}")
    return 0 if same and min(failed.values()) > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
