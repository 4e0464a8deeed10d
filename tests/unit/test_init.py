"""A new study folder: what is in it, and that nothing is written over."""

from pathlib import Path

import pytest

from reidablate import places
from reidablate.cells import load_cells
from reidablate.errors import UserError
from reidablate.init import write_study
from reidablate.planning import load_presets, plan
from support import ROOT, run_cli


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_new_study_plans_the_runs_of_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "a study of 10 cells" in run_cli("init", str(tmp_path / "new" / "study"))
    monkeypatch.chdir(tmp_path / "new" / "study")
    ours = plan(places.settings(Path()))
    monkeypatch.chdir(ROOT)
    theirs = plan({**places.settings(Path()), "preset": ours.preset.name, "tier": "core"})
    shipped = {cell.name: cell.config_hash for cell in theirs.cells if cell.tier == "core"}
    assert {cell.name: cell.config_hash for cell in ours.cells}.items() <= shipped.items()
    assert len(ours.cells) == 10
    assert ours.preset == theirs.preset


def test_every_tier_is_whole_and_the_empty_study_holds_the_baseline(tmp_path: Path) -> None:
    for tier, folder in {"core": "core", "extended": "extended", "optional": "optional", None: "empty"}.items():
        write_study(tmp_path / folder, tier=tier)
    found = {path.name: set(load_cells(path / "ablations", [])) for path in tmp_path.iterdir()}
    assert found["empty"] == {"naive_triplet"}
    assert found["empty"] < found["core"] < found["extended"] <= found["optional"]
    assert found["optional"] >= {"p2_patches_10", "p1_as_run"}


def test_settings_are_all_commented_out_and_can_be_uncommented(tmp_path: Path) -> None:
    write_study(tmp_path)
    path = tmp_path / places.SETTINGS
    assert all(line.startswith("# ") or not line for line in path.read_text().splitlines())
    path.write_text(path.read_text().replace("# seeds: preset", "seeds: 7"))
    assert places.settings(tmp_path) == {**places.settings(ROOT), "seeds": 7}
    assert set(load_presets(tmp_path)) == set(load_presets(ROOT))


@pytest.mark.parametrize("name", ["Snakefile", "ablations/p1.yaml", ".gitignore"])
def test_nothing_is_written_over(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    (tmp_path / "notes").write_text("mine")
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match=f"already holds {name}, and init replaces nothing; give another folder"):
        write_study(tmp_path)
    assert snapshot(tmp_path) == before


def test_other_files_of_the_folder_stay(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    write_study(tmp_path)
    assert (tmp_path / "notes").read_text() == "mine"


def test_what_is_no_folder_or_no_tier_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file; give a folder"):
        write_study(tmp_path / "file")
    with pytest.raises(UserError, match="--tier is 'main' but should be core, extended, optional"):
        write_study(tmp_path / "study", tier="main")
    assert not (tmp_path / "study").exists()
