"""What a study has planned: it grows with every call and loses a cell with its file."""

from pathlib import Path

import pytest

from reidablate.artifacts import read_json, write_json
from reidablate.errors import UserError
from reidablate.planning import plan
from reidablate.scope import in_words, read_scope, restrict, union, write_scope
from reidablate.study import Study
from support import Settings, called


def test_a_union_holds_the_runs_of_either_in_order() -> None:
    first = {"a": {"p": [2, 0]}, "b": {"p": [0]}}
    second = {"a": {"p": [1, 0], "q": [5]}, "c": {"p": [3]}}
    assert union(first, second) == {"a": {"p": [0, 1, 2], "q": [5]}, "b": {"p": [0]}, "c": {"p": [3]}}
    assert union(first, {}) == {"a": {"p": [0, 2]}, "b": {"p": [0]}}


def test_a_restriction_drops_cells_data_sets_and_what_is_left_empty() -> None:
    selection = {"a": {"p": [0], "q": [0]}, "b": {"q": [0]}, "c": {"p": [0]}}
    assert restrict(selection, datasets=["a", "b"], offsets={"p": 0}) == {"a": {"p": [0]}}


@pytest.mark.parametrize(("first", "left"), [(0, [0, 1, 2]), (1, [1, 2]), (2, [2]), (7, [7, 8]), (3, None)])
def test_a_restriction_drops_the_seeds_that_a_changed_first_seed_leaves_behind(
    first: int, left: list[int] | None
) -> None:
    found = restrict({"a": {"p": [0, 1, 2, 7, 8]}}, datasets=["a"], offsets={"p": first})
    assert found == ({"a": {"p": left}} if left else {})


def test_a_selection_in_words_names_data_set_cell_and_seeds() -> None:
    assert in_words({"a": {"p": [0, 2], "q": []}}) == ["a/p seed 0, 2"]


def test_a_narrower_call_keeps_every_planned_run(settings: Settings) -> None:
    wide = called(settings, cells="naive_triplet,p1", seeds=3)
    narrow = called(settings, cells="naive_triplet", datasets="market1501", seeds=1)
    assert [run.id for run in narrow.asked_runs] == ["market1501/naive_triplet/seed0"]
    assert narrow.runs == wide.runs
    assert plan({**settings, "cells": "naive_triplet", "seeds": 1, "scope": "call"}).planned == {
        dataset: {"naive_triplet": [0]} for dataset in ("market1501", "occluded_duke")
    }


def test_a_cell_leaves_the_study_with_its_file(settings: Settings, project: Path) -> None:
    mine = project / "ablations" / "mine.yaml"
    mine.write_text("name: mine\nextends: p1\n")
    assert "mine" in called(settings, cells="mine").planned["market1501"]
    mine.unlink()
    after = plan({**settings, "cells": "p1"})
    assert "mine" not in after.planned["market1501"]
    assert "mine" not in after.palette


def test_a_cell_whose_file_broke_stays_as_it_was_last_planned(settings: Settings, project: Path) -> None:
    mine, other = (project / "ablations" / f"{name}.yaml" for name in ("mine", "other"))
    mine.write_text("name: mine\nextends: p1\nlosses: {weighted_triplet: {ratio: 0.25}}\n")
    other.write_text("name: other\nextends: p1\nreference: mine\ntrain: {lr_factor: 2}\n")
    before = called(settings, cells="mine,other", seeds=2)
    mine.write_text("losses: [\n")
    after = called(settings, cells="p1", seeds=1)
    assert after.runs == before.runs
    assert after.cell("mine").config == before.cell("mine").config
    assert after.palette == before.palette
    for name in ("mine", "other"):  # one is broken, the other is compared with it
        assert after.cell(name).unread.startswith("ablations/mine.yaml is not valid YAML")
    (line,) = [line for line in after.notices if "last planned" in line]
    assert line == "Finished runs are shown as they were last planned, and none is added, of mine, other."
    again = called(settings, cells="p1", seeds=1)
    assert again.cell("mine") == after.cell("mine")  # from the plan that showed it so
    mine.unlink()  # now `other` is compared with a cell that is gone
    left = plan({**settings, "cells": "p1"})
    assert "mine" not in left.planned["market1501"]
    assert left.cell("other").references == []
    assert "reference 'mine' is not a cell" in left.cell("other").unread


def score(study: Study, cell: str) -> None:
    """Leaves a mark of a scored run, which is all that settles what was declared of its cell."""
    folder = study.root / "market1501" / cell / "seed0"
    folder.mkdir(parents=True)
    write_json(folder / "metrics.json", {})


def primary(study: Study) -> dict[str, list[str]]:
    """The references of each primary cell that are exploratory."""
    return {cell.name: cell.exploratory for cell in study.cells if cell.primary}


def test_a_cell_is_primary_if_it_was_declared_so_before_a_run_of_it_was_scored(
    settings: Settings, project: Path
) -> None:
    files = {name: project / "ablations" / f"{name}.yaml" for name in ("early", "late", "unseen")}
    for name, path in files.items():
        path.write_text(f"name: {name}\nextends: p1\ntrain: {{lr_factor: {2 + len(name)}}}\n")
    declared = {name: path.read_text() + "primary: true\n" for name, path in files.items()}
    files["early"].write_text(declared["early"])
    first = called(settings, cells="early,late,unseen")
    assert primary(first) == {"early": []}
    for name in ("early", "late"):
        score(first, name)
    for name in ("late", "unseen"):
        files[name].write_text(declared[name])
    second = called(settings, cells="p1")
    assert primary(second) == {"early": [], "late": ["p1", "naive_triplet"], "unseen": []}
    assert "late was declared primary after a run was scored, so it is exploratory." in second.notices
    score(second, "unseen")
    assert primary(called(settings)) == primary(second)
    files["early"].write_text(declared["early"] + "reference: [naive_triplet, p1, p1_rpe]\n")
    third = called(settings, scope="call")
    assert primary(third) == {"early": ["p1_rpe"], "late": ["p1", "naive_triplet"], "unseen": []}
    assert "early over p1_rpe was declared primary after a run was scored, so it is exploratory." in third.notices


def test_a_declaration_that_is_withdrawn_after_a_run_was_scored_still_counts(settings: Settings, project: Path) -> None:
    path = project / "ablations" / "mine.yaml"
    path.write_text("name: mine\nextends: p1\nprimary: true\n")
    study = called(settings, cells="mine")
    score(study, "mine")
    called(settings, cells="p1", scope="call")  # a plan without the cell says nothing of it
    path.write_text("name: mine\nextends: p1\n")
    after = called(settings, cells="mine")
    assert primary(after) == {"mine": []}
    assert "mine was primary when its first run was scored, so it stays primary." in after.notices


def test_a_declaration_that_was_withdrawn_before_any_score_is_none(settings: Settings, project: Path) -> None:
    path = project / "ablations" / "mine.yaml"
    for text in ("name: mine\nextends: p1\nprimary: true\n", "name: mine\nextends: p1\n"):
        path.write_text(text)
        study = called(settings, cells="mine")
    assert primary(study) == {}
    score(study, "mine")
    path.write_text("name: mine\nextends: p1\nprimary: true\n")
    assert primary(plan({**settings, "cells": "mine"})) == {"mine": ["p1", "naive_triplet"]}


def test_a_broken_plan_declares_nothing(settings: Settings) -> None:
    study = called(settings, cells="p1")
    for name, text in (("a", "{"), ("b", "[]"), ("c", '{"cells": [3]}')):
        (study.root / "plans" / f"{name}.json").write_text(text)
    assert plan(settings).cell("p1") == study.cell("p1")


def test_the_plans_of_the_first_version_are_read_where_there_is_no_other_record(settings: Settings) -> None:
    for cells in ("naive_triplet", "p1"):
        study = plan({**settings, "cells": cells, "seeds": 2, "scope": "call"})
        path = study.write()
        old = {key: value for key, value in read_json(path).items() if key not in {"planned", "asked", "palette"}}
        write_json(path, old)
    found = read_scope(study.root, study.settings.ablations)
    assert found is not None
    assert found.runs["market1501"]["p1"] == [0, 1]
    assert found.runs.keys() == {"market1501", "occluded_duke"}
    assert set(found.palette) == {"naive_triplet", "p1"}


def test_a_folder_without_plans_has_planned_nothing(tmp_path: Path) -> None:
    assert read_scope(tmp_path, tmp_path) is None


def test_a_record_of_a_newer_version_is_refused(settings: Settings) -> None:
    path = called(settings, cells="p1").root / "study.json"
    write_json(path, {**read_json(path), "format": 2, "new": 1})
    with pytest.raises(UserError, match=r"study\.json was written by a newer version of reidablate; install"):
        plan(settings)


def test_the_results_of_another_study_are_refused_and_moved_ones_are_not(settings: Settings, project: Path) -> None:
    study = called(settings, cells="p1")
    other = project / "other_cells"
    (project / "ablations").rename(other)
    moved = read_scope(study.root, other)  # the folder of cells was only moved
    assert moved is not None
    (project / "ablations").mkdir()
    with pytest.raises(UserError, match=r"holds the results of another study, whose cells are in .*ablations; choose"):
        read_scope(study.root, other)


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 1, "runs": 3}', ""])
def test_a_damaged_record_loses_no_planned_run(
    settings: Settings, project: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    wide = called(settings, cells="naive_triplet,p1", seeds=3)
    path = wide.root / "study.json"
    whole = path.read_text()
    path.write_text(content or whole.replace("2", "1", 1))
    narrow = called(settings, cells="p1", seeds=1)
    assert narrow.runs == wide.runs
    assert "study.json" in capsys.readouterr().err
    assert read_json(path)["runs"] == read_json(wide.path)["planned"]


def test_looks_are_declared_before_the_first_score(settings: Settings) -> None:
    fixed = called(settings, cells="naive_triplet", datasets="market1501", seeds=3)
    added = called(settings, cells="naive_triplet", datasets="market1501", seeds="auto:7")
    assert added.looks == 7
    assert added.seeds == 3
    score(added, "naive_triplet")
    assert plan({**settings, "cells": "naive_triplet", "datasets": "market1501"}).looks == 7
    for seeds in (3, "auto"):
        with pytest.raises(UserError, match="adds seeds in looks up to 7"):
            plan({**settings, "seeds": seeds})
    write_scope(fixed)
    with pytest.raises(UserError, match="fixed number of seeds"):
        plan({**settings, "seeds": "auto"})
