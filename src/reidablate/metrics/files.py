"""Scoring features and distances from files, whoever made them, and telling how it was done.

An `.npz` holds either one retrieval, `query_features` and `gallery_features` or their `distances`, or both sides of the
neck as our runs write them, `{query,gallery}_{before_neck,after_neck}`. Beside them stand `query_pids`, `gallery_pids`,
`query_camids`, `gallery_camids` and, if wanted, `query_names`. Other arrays are not read. A `.mat` file holds the same,
also under the names that the field uses (see `matlab`).

Legend: Q queries, G gallery images, D feature.
"""

import os
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reidablate.errors import UserError, check_file, reading
from reidablate.metrics import matlab
from reidablate.metrics.checks import Labels, check_distances, check_features, check_labels
from reidablate.metrics.distances import (
    DistanceName,
    Distances,
    GivenDistances,
    Product,
    feature_distances,
    numpy_product,
)
from reidablate.metrics.own import OwnMetrics
from reidablate.metrics.protocol import JUNK_PID, Progress, Scores, score_by
from reidablate.metrics.ranking import IntArray
from reidablate.rng import generator
from reidablate.runs import SIDES

Array = npt.NDArray[Any]

# Arrays from this size on are mapped where the file allows it, so that a gallery may exceed the memory.
MAPPED_FROM_BYTES = 2**28
_FILE_BYTES = 2**43
_REMEDY = "write plain arrays with numpy.savez"
_ROWS_AT_ONCE = 4096
_DISTANCES: dict[DistanceName, str] = {
    "cosine": "Euclidean on L2-normalised features",
    "euclidean": "Euclidean on features as they are",
}


@dataclass(frozen=True)
class Retrieval:
    """One retrieval problem, checked. Either `distances` (Q, G) are given, or both sides of features (., D)."""

    labels: Labels
    query_features: Array | None = None
    gallery_features: Array | None = None
    distances: Array | None = None

    def keep(self, *, queries: IntArray | None = None, gallery: IntArray | None = None) -> "Retrieval":
        """Returns the problem of some of the queries and some of the gallery images."""
        rows = slice(None) if queries is None else queries
        columns = slice(None) if gallery is None else gallery
        labels = self.labels
        return Retrieval(
            Labels(
                query_pids=labels.query_pids[rows],
                gallery_pids=labels.gallery_pids[columns],
                query_camids=labels.query_camids[rows],
                gallery_camids=labels.gallery_camids[columns],
                query_names=labels.query_names[rows],
            ),
            None if self.query_features is None else self.query_features[rows],
            None if self.gallery_features is None else self.gallery_features[columns],
            None if self.distances is None else self.distances[rows][:, columns],
        )


@dataclass(frozen=True)
class Options:
    """How a retrieval is scored; the defaults are the protocol of Market-1501.

    Attributes:
        keep_junk: Score gallery images of pid -1 as wrong answers instead of leaving them out.
        rerank: "K1,K2,LAMBDA" or "K1,K2,LAMBDA,POWER" of k-reciprocal re-ranking (see `rerank`), None without.
        single_gallery_shot: Seed of a draw that leaves one gallery image of each identity, None for the whole gallery.
            Queries of a camera get a draw of their own, from images of the other cameras.
        multi_query: Pool the query images of one pid and camid: the mean of their features, by cosine of their
            L2-normalised ones, is the query.
        product: What multiplies matrices of features; it changes time, never a score.
        distance: `cosine` of features, or `euclidean` distance of features as they are.
        progress: Told now and then how many pairs of a retrieval are compared, and of how many.
    """

    keep_junk: bool = False
    rerank: str | None = None
    single_gallery_shot: int | None = None
    multi_query: bool = False
    product: Product = numpy_product
    distance: DistanceName = "cosine"
    progress: Progress | None = None


def score_file(path: Path, options: Options) -> tuple[dict[str, Scores], dict[str, Any]]:
    """Returns the scores of each retrieval in a file, by its name, and the protocol they were scored under.

    The names are `features`, `distances`, or those of the sides of the neck.

    Raises:
        UserError: The file cannot be read, an array is missing or unusable (see `protocol.score`), or an option asks
            for features where only distances are given.
    """
    problems = read_file(path, options.distance)
    scores = {side: score_retrieval(problem, options) for side, problem in problems.items()}
    return scores, protocol_of(problems, options)


def check_table_path(path: Path) -> None:
    """Checks, before anything is scored, that the suffix of a table names its format.

    Raises:
        UserError: It is neither `.parquet` nor `.csv`.
    """
    if path.suffix not in {".parquet", ".csv"}:
        raise UserError(f"{path} should end in .parquet or .csv; the suffix names the format.")


def write_queries(scores: Mapping[str, Scores], path: Path, *, without: Iterable[str] = ()) -> None:
    """Writes a row a query and side, with the columns of `queries.parquet`, some left out; see `check_table_path`."""
    import pandas as pd

    from reidablate.artifacts import write_table

    frames = [result.queries.assign(side=side).drop(columns=list(without)) for side, result in scores.items()]
    write_table(pd.concat(frames, ignore_index=True), path)


def read_file(path: Path, distance: DistanceName = "cosine") -> dict[str, Retrieval]:
    """Returns the retrieval problems in a file, by name; see the head of the module.

    Raises:
        UserError: The file cannot be read, or an array is missing or unusable.
    """
    names = _names(path)
    kinds = [kind for kind in ("features", *SIDES) if {f"query_{kind}", f"gallery_{kind}"} <= names]
    if "distances" in names:
        kinds.append("distances")
    labels = [f"{side}_{ids}" for ids in ("pids", "camids") for side in ("query", "gallery")]
    missing = [label for label in labels if label not in names]
    if missing or not kinds or (len(kinds) > 1 and not set(kinds) <= set(SIDES)):
        raise UserError(
            f"{path} holds {', '.join(sorted(names)) or 'nothing'}; it should hold {', '.join(labels)}, and either "
            "query_features and gallery_features or distances."
        )
    given = {name: _read(path, name) for name in (*labels, "query_names") if name in names}
    try:
        return {kind: _retrieval(path, kind, given, distance) for kind in kinds}
    except UserError as error:
        raise UserError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def read_image_names(path: Path) -> dict[str, Array]:
    """Returns `query_names` and `gallery_names` of a file, those that it holds.

    Raises:
        UserError: The file or an array cannot be read.
    """
    return {name: _read(path, name) for name in ("query_names", "gallery_names") if name in _names(path)}


def score_retrieval(problem: Retrieval, options: Options, own: OwnMetrics | None = None) -> Scores:
    """Returns the scores of one retrieval.

    Args:
        problem: The retrieval.
        options: How it is scored.
        own: Metrics of a study's own, each of which adds a column; with a single gallery shot they are left out.

    Raises:
        UserError: No query has a positive, or an option asks for features that are not there.
    """
    if options.rerank is not None and options.single_gallery_shot is not None:
        raise UserError("re-ranking needs the whole gallery; choose either it or a single gallery shot.")
    if options.single_gallery_shot is None:
        return score_by(*ranked(problem, options), own=own, progress=options.progress)
    return _score_single_shots(_prepared(problem, options), options)


def ranked(problem: Retrieval, options: Options) -> tuple[Distances, Labels]:
    """Returns the distances and labels that a retrieval is scored by, for `protocol.score_by`.

    `options.single_gallery_shot` is not looked at.

    Raises:
        UserError: An option asks for features that are not there.
    """
    problem = _prepared(problem, options)
    return _source(problem, options)


def _prepared(problem: Retrieval, options: Options) -> Retrieval:
    if problem.distances is not None and (options.rerank is not None or options.multi_query):
        raise UserError("re-ranking and multi-query need features; the file holds distances alone.")
    if problem.distances is not None and options.distance != "cosine":
        raise UserError(f"the file holds distances alone, which stay as they are; leave out {options.distance}.")
    if options.rerank is not None and options.distance != "cosine":
        raise UserError(f"re-ranking is of L2-normalised features; choose either it or {options.distance} distance.")
    if options.multi_query:
        problem = _pooled(problem, options.distance)
    return replace(problem, labels=_without_junk(problem.labels)) if options.keep_junk else problem


def protocol_of(problems: Mapping[str, Retrieval], options: Options) -> dict[str, Any]:
    """Returns the declared protocol of the retrievals of a file, as the table and the JSON print it."""
    constants = None if options.rerank is None else str(_constants(options.rerank))
    junk = int((next(iter(problems.values())).labels.gallery_pids == JUNK_PID).sum())
    return {
        "average_precision": "step sum",
        "distance": "as given" if "distances" in problems else _DISTANCES[options.distance],
        "rerank": constants,
        "junk": "kept as wrong answers" if options.keep_junk else "left out",
        "gallery": "whole"
        if options.single_gallery_shot is None
        else f"one image of each identity from other cameras, drawn with seed {options.single_gallery_shot}",
        "query": "images of one pid and camid pooled" if options.multi_query else "single image",
        "num_junk": junk,
    }


def _constants(text: str) -> Any:
    from reidablate.metrics.rerank import Constants

    words = text.split(",")
    try:
        k1, k2, weight, power = (*words, "2") if len(words) == 3 else words
        return Constants(int(k1), int(k2), float(weight), int(power))
    except UserError:
        raise
    except ValueError:
        raise UserError(f"re-ranking constants are '{text}'; write K1,K2,LAMBDA such as 20,6,0.3.") from None


def _source(problem: Retrieval, options: Options) -> tuple[Distances, Labels]:
    if problem.distances is not None:
        return GivenDistances(problem.distances), problem.labels
    assert problem.query_features is not None
    assert problem.gallery_features is not None
    if options.rerank is None:
        sides = problem.query_features, problem.gallery_features
        return feature_distances(*sides, options.product, options.distance), problem.labels
    from reidablate.metrics.rerank import RerankedDistances

    counted = problem.keep(gallery=np.flatnonzero(problem.labels.gallery_pids != JUNK_PID))
    if not len(counted.labels.gallery_pids):
        raise UserError("the gallery is nothing but junk; give images with a pid of at least 0.")
    assert counted.query_features is not None
    assert counted.gallery_features is not None
    constants = _constants(options.rerank)
    reranked = RerankedDistances(counted.query_features, counted.gallery_features, constants, options.product)
    return reranked, counted.labels


def _pooled(problem: Retrieval, distance: DistanceName) -> Retrieval:
    """Returns the problem with one query a (pid, camid), in the order and under the name of its first image."""
    assert problem.query_features is not None
    labels = problem.labels
    pairs = np.stack([labels.query_pids, labels.query_camids], axis=1)
    _, first, group = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
    features = problem.query_features.astype(np.float64)
    if distance == "cosine":
        features /= np.linalg.norm(features, axis=1, keepdims=True)
    sums = np.zeros((len(first), features.shape[1]))
    np.add.at(sums, group.ravel(), features)
    if distance == "euclidean":
        sums /= np.bincount(group.ravel())[:, None]
    order = np.argsort(first)
    return replace(problem.keep(queries=first[order]), query_features=sums[order])


def _without_junk(labels: Labels) -> Labels:
    """Returns labels in which junk has a pid that no query asks for."""
    taken = {*labels.query_pids.tolist(), *labels.gallery_pids.tolist()}
    free = next(pid for pid in count(JUNK_PID - 1, -1) if pid not in taken)
    return replace(labels, gallery_pids=np.where(labels.gallery_pids == JUNK_PID, free, labels.gallery_pids))


def _score_single_shots(problem: Retrieval, options: Options) -> Scores:
    labels, seed = problem.labels, options.single_gallery_shot
    assert seed is not None
    parts, rows = [], []
    for camid in np.unique(labels.query_camids):
        images = np.flatnonzero((labels.gallery_camids != camid) & (labels.gallery_pids != JUNK_PID))
        drawn = generator(seed, "single-gallery-shot", int(camid) % 2**32).permutation(images)
        pids, first = np.unique(labels.gallery_pids[drawn], return_index=True)
        queries = np.flatnonzero((labels.query_camids == camid) & np.isin(labels.query_pids, pids))
        if queries.size:
            drawn_gallery = np.sort(drawn[first])
            parts.append(score_by(*_source(problem.keep(queries=queries, gallery=drawn_gallery), options)))
            rows.append(queries)
    if not parts:
        raise UserError("no query has a gallery image of its pid under another camid; check pids and camids.")
    order = np.argsort(np.concatenate(rows))
    columns = {name: np.concatenate([part.columns[name] for part in parts])[order] for name in parts[0].columns}
    return Scores(columns, num_invalid=len(labels.query_pids) - len(order))


def _retrieval(path: Path, kind: str, given: dict[str, Array], distance: DistanceName) -> Retrieval:
    if kind == "distances":
        matrix = check_distances(_read(path, kind))
        return Retrieval(_labels(matrix.shape, given), distances=matrix)
    query, gallery = check_features(_read(path, f"query_{kind}"), _read(path, f"gallery_{kind}"), distance)
    return Retrieval(_labels((len(query), len(gallery)), given), query, gallery)


def _labels(shape: tuple[int, ...], given: dict[str, Array]) -> Labels:
    pids, camids = ((given[f"query_{ids}"], given[f"gallery_{ids}"]) for ids in ("pids", "camids"))
    return check_labels(shape, pids=pids, camids=camids, names=given.get("query_names"))


def _names(path: Path) -> set[str]:
    if matlab.is_matlab(path):
        return matlab.read_names(path)
    with reading(path, "an .npz archive", remedy=_REMEDY, missing="give an .npz or .mat file"):
        check_file(path, most_bytes=_FILE_BYTES)
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}


def _read(path: Path, name: str) -> Array:
    """Returns one array of an `.npz`, mapped if it is large and not compressed; pickled objects are refused."""
    if matlab.is_matlab(path):
        return matlab.read_variable(path, name)
    with reading(f"{name} of {path}", "a plain array", remedy=_REMEDY), zipfile.ZipFile(path) as archive:
        member = archive.getinfo(f"{name}.npy")
        with archive.open(member) as stream:
            claimed = _checked_claim(stream, member.file_size)
        if member.file_size >= MAPPED_FROM_BYTES and member.compress_type == zipfile.ZIP_STORED:
            return _mapped(path, member)
        memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if claimed > memory_bytes:
            raise ValueError(f"it has {claimed:,} bytes, and this machine a memory of {memory_bytes:,}")
        with archive.open(member) as stream:
            array: Array = np.lib.format.read_array(stream, allow_pickle=False)
            return array


def _checked_claim(stream: Any, size_bytes: int) -> int:
    """Returns how many bytes an array's header claims, before memory is asked for them.

    Raises:
        ValueError: It claims more than the archive holds, or objects.
    """
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("it holds pickled objects")
    claimed = dtype.itemsize
    for length in shape:
        claimed *= int(length)
    if claimed < 0 or claimed > size_bytes:
        raise ValueError(f"its header claims {claimed:,} bytes, but it holds {size_bytes:,}")
    return claimed


def _mapped(path: Path, member: zipfile.ZipInfo) -> Array:
    """Returns a stored member of an archive as a read-only map of the file."""
    with path.open("rb") as stream:
        # The local header has 30 bytes, then the name and an extra field, whose lengths stand at 26 and 28.
        stream.seek(member.header_offset + 26)
        lengths = np.frombuffer(stream.read(4), "<u2")
        stream.seek(member.header_offset + 30 + int(lengths.sum()))
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        if dtype.hasobject:
            raise ValueError("Object arrays cannot be loaded when allow_pickle=False")
        return np.memmap(path, dtype, "r", stream.tell(), shape, order="F" if fortran else "C")
