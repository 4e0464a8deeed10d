"""What a job on another machine is told, and what it asks of the scheduler there."""

import json
from pathlib import Path

import pytest

from reidablate import sent
from reidablate.errors import UserError
from reidablate.runs import Provenance
from reidablate.standing import Standing
from reidablate.study import Run
from support import Settings, called


def test_a_job_has_the_plan_of_its_call_whatever_the_files_say_by_then(settings: Settings, project: Path) -> None:
    study = called(settings, cells="naive_triplet,p1", results="a results#1")
    words = sent.with_plan(["preset=tiny.yaml"], study)
    for cell in (project / "ablations").glob("*.yaml"):
        cell.write_text("no cell")
    told = sent.sent_study(words)
    assert told == study
    assert told.path == study.path


def test_a_job_without_a_plan_is_refused(project: Path) -> None:
    with pytest.raises(UserError, match="without the plan of its call"):
        sent.sent_study(["preset=tiny.yaml"])


def test_a_job_may_be_any_that_its_call_needs(settings: Settings) -> None:
    study = called(settings, cells="naive_triplet,p1", datasets="market1501")
    needed, possible = Standing(study).needs, sent.anything(study)
    for name in ("datasets", "indexes", "caches", "train", "transfer", "evaluate", "floors"):
        assert set(getattr(needed, name)) <= set(getattr(possible, name)), name
    assert needed.pretrain <= possible.pretrain
    assert len(possible.train) == 4


def test_a_training_asks_for_the_hours_of_the_preset_or_twice_what_was_measured(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = called(settings, cells="naive_triplet,p1", datasets="market1501")
    execution = study.preset.execution.model_copy(update={"hours": 1.5})
    study = study.model_copy(update={"preset": study.preset.model_copy(update={"execution": execution})})
    assert sent.RunMinutes(study).on("market1501") == 90
    for seed, wall_s, status in ((0, 601.0, "finished"), (1, 90.0, "finished"), (2, 2000.0, "diverged")):
        record(study.root / Run(dataset="market1501", cell="p1", seed=seed).id, seed, wall_s, status)
    assert sent.RunMinutes(study).on("market1501") == 30 + 21
    assert sent.RunMinutes(study).on("occluded_duke") == 90
    record(study.root / Run(dataset="market1501", cell="p1", seed=3).id, 3, 7200.0, "finished")
    assert sent.RunMinutes(study).on("market1501") == 90


def record(run: Path, seed: int, wall_s: float, status: str) -> None:
    """Writes a record with the time that a run took, and nothing else that matters."""
    empty = {name: None for name, field in Provenance.model_fields.items() if field.is_required()}
    facts = {"dataset": "market1501", "cell": "p1", "seed": seed, "status": status, "wall_s": wall_s}
    known = {
        "config": {"model": {"test_feature": "before_neck"}},
        "config_hash": "",
        "data_fingerprint": "",
        "versions": {},
    }
    run.mkdir(parents=True)
    (run / "provenance.json").write_text(json.dumps({**empty, **known, **facts}))
