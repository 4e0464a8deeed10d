"""The page of a cell on a data set: `report/diagnostics/<data set>/<cell>.html`, with a thumbnail and a record."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from reidablate.artifacts import atomic_path, only_writer, read_record, write_record, write_text
from reidablate.diagnosing import compared_there, made_of, page_of
from reidablate.diagnostics import show_attention, show_positions, show_representation, show_retrieval
from reidablate.diagnostics.look import Look, Section, aside
from reidablate.diagnostics.pictures import small_jpeg
from reidablate.diagnostics.subject import AMOUNTS, Subject
from reidablate.engine.spec import be_deterministic
from reidablate.errors import UserError
from reidablate.places import TEMPLATES
from reidablate.report.render import make_environment
from reidablate.runs import Provenance
from reidablate.study import Run, Study

SECTIONS: tuple[Callable[[Look], Section | None], ...] = (
    show_retrieval.chosen_queries,
    show_retrieval.hardest_queries,
    show_retrieval.helped_and_hurt_queries,
    show_attention.attention_maps,
    show_attention.head_maps,
    show_attention.triplets,
    show_attention.distances,
    show_positions.hypothesis,
    show_positions.absolute_positions,
    show_positions.relative_positions,
    show_representation.moved_images,
    show_representation.similarity,
    show_representation.skips,
    show_representation.probes,
    show_representation.receptive_field,
    show_representation.classifier,
    show_representation.plane,
)


def diagnose_cell(study: Study, run: Run, *, detail: str, queries: Sequence[str] = ()) -> str:
    """Writes the page of a run, its thumbnail and its record, and returns the line that names the page.

    Args:
        study: The plan.
        run: A finished and scored run of it.
        detail: `brief` or `full`.
        queries: Names of queries whose rank lists come first.

    Raises:
        UserError: There is no such query, the run is not finished, was trained by another code base, or its weights
            were removed.
    """
    if detail not in AMOUNTS:
        raise UserError(f"--detail is '{detail}' but should be {' or '.join(AMOUNTS)}.")
    if study.cell(run.cell).external:
        raise UserError(f"{run.id} was trained by another code base, whose network is not there to look into.")
    if study.cell(run.cell).tunes:
        raise UserError(f"{run.id} chooses for {study.cell(run.cell).tunes}, and a page would show it the test set.")
    folder = study.root / run.id
    made = read_record(folder / "provenance.json", Provenance)
    if not (folder / "model.safetensors").is_file():
        raise UserError(f"{folder} has no weights (keep: {study.preset.keep}); train the run again to look into it.")
    be_deterministic(study.preset.execution.threads)
    reference, others = compared_there(study, run)
    page = page_of(study, run)
    synthetic = bool(made.synthetic)
    blur = study.settings.report.blur_faces and not synthetic
    sections, picture = [], None
    if made.status == "finished":
        compared = Subject.of(study, reference) if reference else None
        kinds = tuple(Subject.of(study, other) for other in others)
        look = Look(Subject.of(study, run), compared, AMOUNTS[detail], blur, kinds, queries)
        sections = [section for make in SECTIONS if (section := _made(make, look)) is not None]
        picture = small_jpeg(show_attention.thumbnail(look))
    else:
        diverged = aside(f"The run diverged ({made.reason}), so there is no trained network to look into.")
        sections = [Section("diverged", "Diverged", "Nothing is shown of a run that diverged.", [diverged])]
    title = study.dataset(run.dataset).title
    html = make_environment(Path(TEMPLATES)).get_template("diagnostics.html.j2").render(
        run=run, cell=study.cell(run.cell), dataset=title, sections=sections, synthetic=synthetic, blur=blur,
        detail=detail, reference=reference, status=made.status,
    )  # fmt: skip
    with only_writer(page.parent, f"diagnose {run.id}"):
        write_text(page, html)
        files = [page.name]
        if picture is not None:
            with atomic_path(page.with_suffix(".jpg")) as temporary:
                temporary.write_bytes(picture)
            files.append(page.with_suffix(".jpg").name)
        record = {"run": run.id, "made_of": made_of(study, run, detail)}
        write_record(page.with_suffix(".json"), record, files)
    return f"{run.id}: {page}"


def _made(make: Callable[[Look], Section | None], look: Look) -> Section | None:
    with torch.no_grad():
        return make(look)
