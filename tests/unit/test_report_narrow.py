"""A report of a part: the same numbers, fewer rows."""

from pathlib import Path

import pandas as pd
import pytest

from reidablate.artifacts import read_json
from reidablate.errors import UserError
from reidablate.report.collect import collect
from reidablate.report.figures import colour
from report_fixture import write_results
from support import run_cli


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("whole") / "quickstart", cells=4, queries=30, epochs=2)


def test_a_part_has_the_rows_of_its_cells_and_their_references_with_their_verdicts_and_colours(
    results: Path, tmp_path: Path
) -> None:
    whole = collect(results / "tables")
    cell = whole.cells[2]
    (first, second) = (dataset["name"] for dataset in whole.datasets)
    words = f"report {results} --cells {cell.name} --datasets {second} --out {tmp_path / 'part'}"
    assert "part/report/index.html" in run_cli(*words.split())
    part = collect(tmp_path / "part" / "tables")
    assert {c.name for c in part.cells} == {cell.name, *cell.references}
    assert [dataset["name"] for dataset in part.datasets] == [second]
    assert [colour(c) for c in part.cells] == [colour(whole.by_name[c.name]) for c in part.cells]
    for contrast in part.contrasts_of(second, part.cells):
        same = whole.contrast(second, whole.by_name[contrast.cell.name], whole.by_name[contrast.reference.name], "mAP")
        assert (contrast.verdict, contrast.interval) == (same.verdict, same.interval)
    assert first not in set(pd.read_parquet(tmp_path / "part" / "tables" / "runs.parquet")["dataset"])
    assert "a part of the study" in read_json(tmp_path / "part" / "tables" / "study.json")["notices"][0]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--cells p1", "needs a folder of its own; give it with --out"),
        ("--cells nothing --out {out}", "the study has no cell 'nothing'"),
        ("--datasets duke --out {out}", "the study has no data set 'duke'"),
        ("--cells p1 --out {results}", "holds the tables of the whole study"),
    ],
)
def test_what_is_not_in_the_study_is_refused(results: Path, tmp_path: Path, options: str, sentence: str) -> None:
    words = options.format(out=tmp_path / "part", results=results)
    before = (results / "tables" / "runs.parquet").read_bytes()
    with pytest.raises(UserError, match=sentence):
        run_cli("report", str(results), *words.split())
    assert (results / "tables" / "runs.parquet").read_bytes() == before
