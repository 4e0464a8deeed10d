"""A study that is declared before its runs: what came later is told apart, and nothing can be declared afterwards."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from reidablate.artifacts import read_json
from reidablate.errors import UserError
from reidablate.freezing import FILE, describe, freeze, notice, read_frozen
from reidablate.planning import plan
from reidablate.study import Study
from support import Settings, called


def later(study: Study) -> dict[str, dict[str, dict[str, str]]]:
    frozen = read_frozen(study.root)
    assert frozen is not None
    found: dict[str, dict[str, dict[str, str]]] = describe(frozen, study)["later"]
    return found


def test_a_study_that_runs_as_declared_has_nothing_that_came_later(settings: Settings) -> None:
    line = freeze(plan({**settings, "cells": "naive_triplet,p1", "seeds": 3}))
    study = called(settings, cells="naive_triplet,p1", seeds=3)
    frozen = read_frozen(study.root)
    assert frozen is not None
    assert frozen.hash in line
    assert later(study) == {}
    assert "none was added later" in notice(describe(frozen, study))


def test_the_hash_does_not_depend_on_the_hour(settings: Settings) -> None:
    study = plan({**settings, "cells": "p1"})
    hashes: list[str] = []
    for _ in range(2):
        freeze(study)
        frozen = read_frozen(study.root)
        assert frozen is not None
        hashes.append(frozen.model_copy(update={"frozen": str(len(hashes))}).hash)
        (study.root / FILE).unlink()
    assert hashes[0] == hashes[1]


def test_cells_seeds_data_sets_and_deltas_that_came_later_are_told_apart(settings: Settings) -> None:
    freeze(plan({**settings, "cells": "naive_triplet,p1,rpe", "seeds": 3, "datasets": "market1501"}))
    called(settings, cells="naive_triplet,p1,rpe", seeds=3, datasets="market1501")
    assert later(called(settings, cells="p1_rpe", seeds=3, datasets="market1501"))["market1501"].keys() == {"p1_rpe"}
    called(settings, cells="p1", seeds=4, datasets="market1501")
    found = later(called(settings, cells="naive_triplet", seeds=3))
    assert found["market1501"]["p1"]["naive_triplet"] == "seed 3 was added later"
    assert "rpe" not in found["market1501"]
    study = called(settings, cells="rpe", seeds=3)
    assert found.keys() | later(study).keys() == {"market1501", "occluded_duke"}
    table: dict[str, Any] = dict(settings["dataset_table"])  # type: ignore[call-overload]
    table["market1501"] = {**table["market1501"], "delta": {"mAP": 5.0}}
    changed = later(plan({**settings, "cells": "rpe", "dataset_table": table}))
    assert "does not matter" in changed["market1501"]["rpe"]["naive_triplet"]


def test_a_cell_that_was_edited_later_is_told_apart(settings: Settings, project: Path) -> None:
    mine = project / "ablations" / "mine.yaml"
    mine.write_text("name: mine\nextends: p1\nlosses: {weighted_triplet: {ratio: 0.25}}\n")
    freeze(plan({**settings, "cells": "mine"}))
    mine.write_text("name: mine\nextends: p1\ntitle: Mine\nlosses: {weighted_triplet: {ratio: 0.25}}\n")
    assert later(called(settings, cells="mine")) == {}
    mine.write_text("name: mine\nextends: p1\nlosses: {weighted_triplet: {ratio: 0.75}}\n")
    found = later(called(settings, cells="mine"))
    assert {why for of in found.values() for why in of["mine"].values()} == {
        "the configuration of mine was changed later"
    }


def test_a_study_is_frozen_once_and_before_its_runs(settings: Settings) -> None:
    study = plan({**settings, "cells": "naive_triplet"})
    run = study.root / study.runs[0].id
    run.mkdir(parents=True)
    (run / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match="scored already"):
        freeze(study)
    shutil.rmtree(run)
    freeze(study)
    with pytest.raises(UserError, match="frozen once"):
        freeze(study)


def test_an_edited_declaration_is_refused(settings: Settings) -> None:
    study = plan({**settings, "cells": "naive_triplet"})
    freeze(study)
    path = study.root / FILE
    assert read_json(path)["contrasts"] == []
    path.write_text(path.read_text().replace(study.cell("naive_triplet").config_hash, "0123456789abcdef"))
    with pytest.raises(UserError, match="checksum"):
        read_frozen(study.root)
