"""What a page is about: a finished run with its network, images, features and scores, read once.

Legend: N images, H x W pixels, Q queries, D width.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from reidablate.artifacts import read_npz, read_record, read_table
from reidablate.data.augment import to_float
from reidablate.data.cache import read_cache
from reidablate.data.index import read_index
from reidablate.diagnostics.network import TransformerParts, transformer_parts
from reidablate.diagnostics.ranklists import Retrieval
from reidablate.engine.transfer import trained_model
from reidablate.models.neck import ReidModel
from reidablate.rng import generator
from reidablate.runs import Trained
from reidablate.study import Run, Study

BATCH = 64

Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Amount:
    """How much a page looks at: it decides time and nothing else."""

    images: int  # for means over images
    shown: int  # people in a figure
    queries: int  # rank lists of a kind
    probed: int  # training images of linear probes
    moved: int  # test images that are shifted and rescaled; 0 leaves it out
    full: bool


AMOUNTS = {
    "brief": Amount(images=64, shown=5, queries=3, probed=0, moved=0, full=False),
    "full": Amount(images=256, shown=8, queries=5, probed=1024, moved=1500, full=True),
}


@dataclass(frozen=True)
class Subject:
    """A finished run. Rows of a split are those of the index and of the cache."""

    run: Run
    title: str
    made: Trained
    model: ReidModel
    data: Path
    folder: Path

    @classmethod
    def of(cls, study: Study, run: Run) -> "Subject":
        """Returns a run of a study with its trained weights, on the CPU and in evaluation mode.

        Raises:
            UserError: The run has no whole provenance or weights.
        """
        folder = study.root / run.id
        made = read_record(folder / "provenance.json", Trained)
        model, _ = trained_model(folder, made)
        return cls(run, study.cell(run.cell).title, made, model.eval(), study.data_folder(run.dataset), folder)

    @cached_property
    def parts(self) -> TransformerParts | str:
        """The blocks of the network, or why it has none."""
        return transformer_parts(self.model)

    @cached_property
    def index(self) -> pd.DataFrame:
        """The index of the data set."""
        return read_index(self.data / "index").frame

    def rows(self, split: str) -> pd.DataFrame:
        """Returns the index of a split."""
        return self.index[self.index["split"] == split].reset_index(drop=True)

    def pixels(self, split: str) -> Images:
        """Returns the cached images of a split, (N, H, W, 3), not read yet."""
        return read_cache(self.data / "cache", split)

    def inputs(self, split: str, rows: npt.NDArray[Any]) -> Tensor:
        """Returns images of a split as the network takes them, (N, 3, H, W)."""
        return to_float(
            torch.from_numpy(np.ascontiguousarray(self.pixels(split)[np.sort(rows)]))[np.argsort(np.argsort(rows))]
        )

    @cached_property
    def features(self) -> dict[str, npt.NDArray[Any]]:
        """The run's features."""
        return read_npz(self.folder / "features.npz")

    @property
    def side(self) -> str:
        """The side of the neck that is tested."""
        return self.model.config.test_feature

    @cached_property
    def retrieval(self) -> Retrieval:
        """The run's retrieval on the tested side."""
        return Retrieval.of(self.features, self.side)

    @cached_property
    def queries(self) -> pd.DataFrame:
        """The scores of the valid queries on the tested side, with the `row` of each in the split."""
        table = read_table(self.folder / "queries.parquet", ["side", "query"])
        table = table[table["side"] == self.side]
        places = {str(name): row for row, name in enumerate(self.features["query_names"])}
        return table.assign(row=table["query"].map(places)).reset_index(drop=True)

    def sample(self, split: str, count: int, *, per_id: int = 1) -> npt.NDArray[np.int64]:
        """Returns rows of a split, `per_id` of each identity by lot, the same for every cell of a data set."""
        frame = self.rows(split)
        known = frame[frame["pid"] > 0].sample(frac=1, random_state=generator(0, f"diagnose:{split}"))
        first = known.groupby("pid", sort=False).head(per_id)
        ids = first["pid"].unique()[: max(1, count // per_id)]
        return first[first["pid"].isin(ids)].sort_values("pid", kind="stable").index.to_numpy(np.int64)[:count]
