"""A finished run or a whole study, sent to Weights & Biases from its files."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reidablate.artifacts import read_json, read_record, read_table
from reidablate.engine.tracking import Mode, Tracker, card_of_run, study_id
from reidablate.errors import UserError, reason
from reidablate.outcome import read_outcome
from reidablate.runs import SIDES, Metrics, Provenance

_TOLD = ("estimate", "low", "high", "p_adjusted", "verdict", "informative")  # of a contrast


def push_run(results: Path, run: Path, mode: Mode) -> None:
    """Sends a scored run: every step and epoch, and the scores of both sides, also those on other data sets.

    Args:
        results: The folder `results/<preset>`.
        run: The run's folder.
        mode: Where to.

    Raises:
        UserError: The run is not scored, or Weights & Biases does not work.
    """
    made = read_record(run / "provenance.json", Provenance)
    values: dict[str, Any] = {"status": made.status, "wall_s": made.wall_s, **_scores(run)}
    for other in sorted(run.glob("on_*/metrics.json")):
        values[other.parent.name] = _scores(other.parent)
    history = read_table(run / "history.parquet")
    tracker = Tracker(mode, results, **card_of_run(results, made).options)
    tracker.history({str(name): column.to_numpy() for name, column in history.items()})
    tracker.summary(values)
    tracker.finish()


def push_scored(results: Path, run: Path, mode: Mode) -> None:
    """Sends a run that has just been scored; whatever goes wrong is said, and the run stands all the same."""
    if run.name.startswith("on_"):  # on another data set: `reidablate wandb push` sends it with the run
        return
    try:
        push_run(results, run, mode)
    except Exception as error:
        print(f"{run}: not sent to Weights & Biases: {reason(error)}", file=sys.stderr, flush=True)


def _scores(folder: Path) -> dict[str, Any]:
    metrics = read_record(folder / "metrics.json", Metrics)
    return {"headline": metrics.headline, **{side: getattr(metrics, side) for side in SIDES if getattr(metrics, side)}}


def push_verdicts(results: Path, mode: Mode) -> None:
    """Sends the study as a run of its own: every verdict on mAP, how many of each word, and images of the diagnostics.

    Raises:
        UserError: There are no tables, or Weights & Biases does not work.
    """
    about = read_json(results / "tables" / "study.json")
    table = read_table(results / "tables" / "contrasts.parquet")
    table = table[table["headline"] & (table["metric"] == "mAP")]
    verdicts: dict[str, Any] = {}
    for row in table.astype(object).where(table.notna(), None).to_dict("records"):
        cells = verdicts.setdefault(row["dataset"], {})
        cells.setdefault(row["cell"], {})[row["reference"]] = {name: row[name] for name in _TOLD}
    study, preset = study_id(results), results.absolute().name
    config = {"study": study, "preset": preset, "plan_hash": about.get("plan_hash"), "code": about.get("code")}
    tracker = Tracker(
        mode,
        results,
        id=f"{study}-verdicts",
        name=f"{preset}: verdicts",
        job_type="study",
        config=config,
        tags=[preset],
    )
    tracker.images(results / "report" / "diagnostics")
    tracker.summary({"counts": table["verdict"].value_counts().to_dict(), "verdicts": verdicts})
    tracker.finish()


def push_study(results: Path, mode: Mode, progress: Callable[[int, int], None]) -> str:
    """Sends every scored run of a study and its verdicts, and returns the line that sums it up.

    Args:
        results: The folder `results/<preset>`.
        mode: Where to.
        progress: Told how many runs are sent, and of how many.

    Raises:
        UserError: Nothing is scored yet, or Weights & Biases does not work.
    """
    runs = sorted(path.parent for path in results.glob("*/*/seed*/metrics.json") if read_outcome(path.parent))
    if not runs:
        raise UserError(f"{results} holds no scored run; run snakemake first.")
    for number, run in enumerate(runs, start=1):
        push_run(results, run, mode)
        progress(number, len(runs))
    push_verdicts(results, mode)
    return f"{len(runs)} run{'s' * (len(runs) > 1)} and the verdicts {'written' if mode == 'offline' else 'sent'}"
