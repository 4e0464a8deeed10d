"""What a smoke test leaves of a study: a few images, one seed and the cells that go through every part of the code.

It answers in minutes whether data, weights and installation work together. Its numbers mean nothing.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from reidablate.config import EvaluateConfig, Execution, Preset, Sample
from reidablate.data.formats import Record
from reidablate.errors import UserError
from reidablate.trees import merge

if TYPE_CHECKING:
    import pandas as pd

NAME = "smoke"
MARK = "smoke test, the numbers mean nothing"
ELSEWHERE = ("naive_triplet", "p1_rpe_jsd")  # baseline and full method: the cells of every data set but the first


def smoke_preset(base: Preset) -> Preset:
    """Returns a preset reduced to a smoke test: its model and losses, one seed, one step of 2 x 2 images, no GPU."""
    batch = {"num_ids": 2, "num_instances": 2, "epochs": 1, "precision": "fp32"}
    return base.model_copy(
        update={
            "name": NAME,
            "description": f"{MARK.capitalize()}: preset '{base.name}' on a handful of images.",
            "seeds": 1,
            "tier": "core",
            "weights": "none",
            "train": merge(base.train, batch),
            "execution": Execution(gpu=0),
            "evaluate": EvaluateConfig(),
            "keep": "none",
            "primary": [],
            "pretrain": None,
            "claims": False,
            "also_cells": [],
            "sample": Sample(),
        }
    )


def marked(table: "pd.DataFrame", *, smoke: bool) -> "pd.DataFrame":
    """Returns a table as it is, in a smoke test with the column `mark` that says so in every row."""
    return table.assign(mark=MARK) if smoke else table


def sample_records(records: Sequence[Record], sample: Sample) -> tuple[Record, ...]:
    """Returns the images of a smoke test, in their order.

    Training images are the first of the first identities that have enough. Test images are pairs of a query and a
    gallery image of the same person by another camera, of different people where there are enough.

    Raises:
        UserError: No query has a gallery image of the same person by another camera.
    """
    chosen = {*_training(records, sample), *_pairs(records, sample.test_images)}
    if any(record.split == "query" for record in records) and not any(record.split == "query" for record in chosen):
        raise UserError("no query has a gallery image of the same person by another camera, so nothing can be scored.")
    return tuple(record for record in records if record in chosen)


def _training(records: Sequence[Record], sample: Sample) -> list[Record]:
    people: dict[int, list[Record]] = {}
    for record in records:
        if record.split == "train":
            people.setdefault(record.pid, []).append(record)
    best = sorted(people.values(), key=lambda images: -min(len(images), sample.images_per_id))
    return [record for images in best[: sample.train_ids] for record in images[: sample.images_per_id]]


def _pairs(records: Sequence[Record], most: int) -> set[Record]:
    gallery: dict[int, list[Record]] = {}
    for record in records:
        if record.split == "gallery":
            gallery.setdefault(record.pid, []).append(record)
    first: dict[int, tuple[Record, Record]] = {}
    others: list[tuple[Record, Record]] = []
    for query in records:
        matches = gallery.get(query.pid, []) if query.split == "query" else []
        match = next((record for record in matches if record.camid != query.camid), None)
        if match is not None and query.pid in first:
            others.append((query, match))
        elif match is not None:
            first[query.pid] = (query, match)
    chosen: set[Record] = set()
    for pair in [*first.values(), *others]:
        if len(chosen | {*pair}) <= most:
            chosen |= {*pair}
    return chosen
