# What several rules need. `PLAN` is named in shell commands, not in params: its hash changes with any cell, and a
# run must be repeated only when its own configuration changes.
import os
import subprocess
from pathlib import Path

from reidablate.artifacts import read_json
from reidablate.errors import how_it_ended
from reidablate.provenance import code_hash
from reidablate.study import transfer_folder


wildcard_constraints:
    dataset="|".join(["pretrain", *(dataset.name for dataset in STUDY.datasets)]),
    other="|".join(dataset.name for dataset in STUDY.datasets),
    cell="[a-z0-9][a-z0-9_.-]*",
    seed=r"\d+",


localrules:
    all,


DATA = ROOT / "data"
LOGS = ROOT / "logs"
TABLES = ROOT / "tables"
RUN_FILES = (
    "model.safetensors",
    "features.npz",
    "history.parquet",
    "provenance.json",
    "queries.parquet",
    "camera_pairs.parquet",
    "metrics.json",
)
TRANSFER_FILES = ("features.npz", "provenance.json", "queries.parquet", "camera_pairs.parquet", "metrics.json")
RUN = str(ROOT / "{dataset}" / "{cell}" / "seed{seed}")
TRANSFER = str(transfer_folder(Path(RUN), "{other}"))


def run_files(name):
    """The file `name` of every run of the study."""
    return [ROOT / run.id / name for run in STUDY.runs]


def transfer_files(name):
    """The file `name` of every run on every other data set that it is also scored on."""
    return [ROOT / transfer.id / name for transfer in STUDY.transfers]


def gpu_limit():
    """What --resources gpu= allows; None without a limit."""
    limit = workflow.global_resources.get("gpu")
    return None if limit is None or limit.value is None else int(limit.value)


def planned_code(folder):
    """The code that a run is planned with: the current one, unless the run exists and may keep its own."""
    made = Path(folder) / "provenance.json"
    if STUDY.settings.retrain == "code" or not made.is_file():
        return code_hash()
    try:
        return read_json(made).get("planned_code_hash") or code_hash()
    except (UserError, AttributeError):  # a file that is not whole: the run is made again
        return code_hash()


def print_failures():
    """Prints the last words of every failed job, and where its log is."""
    for log in sorted(Path(log) for job in workflow.scheduler.failed for log in job.log):
        print(f"{how_it_ended(log)} [{log}]", file=sys.stderr)


def report_what_is_there():
    """Renders the runs that succeeded, so that one failing run hides nothing.

    Snakemake did not make these tables, so they are dated back: the next call gathers them again.
    """
    study = ["--study", "."]
    for command in (["aggregate", "--plan", PLAN], ["statistics", ROOT, *study], ["report", ROOT, *study]):
        subprocess.run(["reidablate", *map(str, command)], check=False)
    if (TABLES / "study.json").exists():
        os.utime(TABLES / "study.json", (1, 1))
