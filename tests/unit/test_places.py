"""A study folder over the package: what is found where, and what is refused."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from reidablate import __version__, places
from reidablate.cli import app
from reidablate.data.table import layout_of, shipped_table
from reidablate.errors import UserError
from reidablate.planning import load_presets, plan
from reidablate.published import load_claims, study_claims
from support import ROOT, run_cli


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A new study folder of the core cells, away from the working directory."""
    run_cli("init", str(tmp_path / "study"))
    return tmp_path / "study"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_folder_without_files_of_its_own_has_the_packages(tmp_path: Path) -> None:
    assert places.settings(tmp_path) == yaml.safe_load((ROOT / places.SETTINGS).read_text())
    assert {path.name for path in places.templates(tmp_path)} == {
        path.name for path in (ROOT / "report_templates").iterdir()
    }
    assert set(load_presets(tmp_path)) == {"quickstart", "paper", "paper_vits", "paper_vitb_imagenet"}
    assert places.calibration(tmp_path) == [ROOT / places.CALIBRATION]


def test_the_repository_is_one_layer_not_two() -> None:
    assert places.layers(places.CLAIMS, ROOT) == [ROOT / places.CLAIMS]


def test_settings_are_laid_over_key_by_key(study: Path) -> None:
    entry = {"title": "Mine", "format": "manifest", "folders": ["mine"]}
    write(study / places.SETTINGS, yaml.safe_dump({"results": "out", "dataset_table": {"mine": entry}}))
    found = places.settings(study)
    assert found["results"] == "out"
    assert found["preset"] == "auto"
    assert list(found["dataset_table"]) == [*places.settings(ROOT)["dataset_table"], "mine"]
    assert found["dataset_table"]["mine"] == entry


def test_templates_are_laid_over_file_by_file(study: Path) -> None:
    write(study / "report_templates" / "cost.html.j2", "mine")
    write(study / "report_templates" / ".cost.html.j2.swp", "an editor's")
    found = {path.name: path.parent for path in places.templates(study)}
    assert found.pop("cost.html.j2") == study / "report_templates"
    assert set(found.values()) == {ROOT / "report_templates"}
    assert ".cost.html.j2.swp" not in found


def test_a_preset_of_the_study_is_added(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(study / places.PRESETS / "tiny.yaml", (ROOT / "tests" / "tiny.yaml").read_text())
    monkeypatch.chdir(study)
    assert plan({**places.settings(study), "preset": "tiny"}).preset.name == "tiny"


@pytest.mark.parametrize("place", [f"{places.PRESETS}/quickstart.yaml", "elsewhere/quickstart.yaml"])
def test_a_preset_that_shadows_a_packaged_one_is_refused(
    study: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    tiny = (ROOT / "tests" / "tiny.yaml").read_text()
    write(study / place, tiny.replace("name: tiny", "name: quickstart"))
    monkeypatch.chdir(study)
    with pytest.raises(UserError) as caught:
        plan({**places.settings(Path()), "preset": place})
    assert str(caught.value) == (
        f"{place}: another preset 'quickstart' comes with the package, and results are kept by that name; "
        "rename this one and its file."
    )
    shutil.copy(ROOT / places.PRESETS / "quickstart.yaml", study / place)  # a mere copy means the same
    assert plan({**places.settings(Path()), "preset": place}).preset.name == "quickstart"


def test_claims_of_the_study_are_added_or_replace_by_name_and_those_of_absent_cells_are_left_out(study: Path) -> None:
    packaged = {claim.name: claim for claim in load_claims(ROOT / places.CLAIMS)}
    assert study_claims(study, []) == []  # all are about cells as run, and a new study has the core cells
    for path in (ROOT / "ablations").glob("*_as_run*.yaml"):
        shutil.copy(path, study / "ablations")
    assert {claim.name for claim in study_claims(study, [])} == set(packaged)
    (study / "ablations" / "p1_as_run.yaml").unlink()
    kept = {name for name, claim in packaged.items() if claim.cell != "p1_as_run"}
    assert {claim.name for claim in study_claims(study, [])} == kept < set(packaged)
    assert {claim.name for claim in study_claims(study, ["p1_as_run"])} == set(packaged)
    entry: dict[str, Any] = {
        "title": "t",
        "dataset": "market1501",
        "reference": "naive_triplet",
        "metric": "mAP",
        "source": "s",
    }
    entry |= {"presets": ["paper"], "weights": ["*"], "gain_points": 1.0}
    replaced = sorted(kept)[0]
    own = [{"name": "mine", "cell": "mine", **entry}, {"name": replaced, "cell": "p2", **entry}]
    write(study / places.CLAIMS, yaml.safe_dump({"claims": own}))
    found = {claim.name: claim for claim in study_claims(study, [])}
    assert set(found) == {*kept, "mine"}
    assert found[replaced].cell == "p2"


def test_a_study_is_found_upwards_and_by_name(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(study)
    assert places.find_study() == Path()
    monkeypatch.chdir(study / "ablations")
    assert places.find_study() == study
    assert places.study_of(Path("x")) == study
    monkeypatch.chdir(study.parent)
    assert places.find_study(Path("study")) == Path("study")
    assert places.study_of(study / "results" / "tiny") == study
    with pytest.raises(UserError, match="nor a folder above it holds a study; name one with --study DIR, or make one"):
        places.find_study()
    with pytest.raises(UserError, match="there is no folder nowhere; make a study there"):
        places.find_study(Path("nowhere"))


@pytest.mark.parametrize("where", ["above", "below"])
def test_cells_are_shown_and_made_from_any_working_directory(
    study: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    folder, option = (study.parent, ["--study", "study"]) if where == "above" else (study / "ablations", [])
    monkeypatch.chdir(folder)
    assert "mine.yaml written" in run_cli("cells", "new", "mine", "--from", "p1", *option)
    assert (study / "ablations" / "mine.yaml").is_file()
    assert run_cli("cells", "diff", "p1", "mine", *option) == "p1 and mine are the same.\n"
    assert "mine" in run_cli("cells", "list", *option)
    assert "name: mine" in run_cli("cells", "show", "mine", *option)


def test_what_the_package_recorded_is_found_away_from_it(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(study)
    assert run_cli("cells", "recorded").splitlines()[1].startswith("|---")  # a new study has no cell as run
    for path in (ROOT / "ablations").glob("*_as_run*.yaml"):
        shutil.copy(path, study / "ablations")
    assert "| `p1_as_run` | market1501 |" in run_cli("cells", "recorded")


def test_the_table_of_data_sets_is_that_of_the_study_over_the_packages(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {"title": "Mine", "format": "market1501", "folders": ["mine"]}
    write(study / places.SETTINGS, yaml.safe_dump({"dataset_table": {"mine": entry}}))
    monkeypatch.chdir(study.parent)
    shipped = set(shipped_table())
    assert {"market1501", "occluded_duke"} <= shipped
    monkeypatch.chdir(study / "ablations")
    assert set(shipped_table()) == {*shipped, "mine"}
    assert layout_of("mine").grammar == layout_of("market1501").grammar


@pytest.mark.parametrize(
    ("version", "sentence"),
    [
        ("99.0.0", f"was made by reidablate 99.0.0 and this is {__version__}"),
        ("newest", f"should hold a version such as {__version__} but holds 'newest'."),
    ],
)
def test_a_study_of_a_newer_version_is_refused(study: Path, version: str, sentence: str) -> None:
    write(study / places.VERSION_FILE, f"{version}\n")
    with pytest.raises(UserError, match=sentence):
        places.settings(study)
    done = CliRunner().invoke(app, ["cells", "list", "--study", str(study)])
    assert sentence in str(done.exception)


@pytest.mark.parametrize(
    ("path", "relative", "base"),
    [
        ("/a/study/results/tiny/plans/0.json", "results/tiny/plans/0.json", "/a/study"),
        ("/a/study/results/tiny/plans/0.json", "/a/study/results/tiny/plans/0.json", "."),
        ("/copied/0.json", "results/tiny/plans/0.json", "."),
    ],
)
def test_a_plan_knows_its_study_by_its_place(path: str, relative: str, base: str) -> None:
    assert places.base_of(Path(path), Path(relative)) == Path(base)
