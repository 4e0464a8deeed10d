"""Sections about attention: maps of single people, heads, triplets, and how far heads look.

Legend: B images, L blocks, h heads, T tokens.
"""

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from reidablate.diagnostics import charts
from reidablate.diagnostics.attention import (
    class_relevance,
    gradient_rollout,
    mean_distance,
    patch_distances,
    rollout,
    token_map,
)
from reidablate.diagnostics.look import Look, Section, aside
from reidablate.diagnostics.network import TransformerParts, class_gradients, traced
from reidablate.diagnostics.pictures import captioned, element, overlay, person, scale, sheet, strip, with_patches
from reidablate.losses.mining import batch_hard
from reidablate.losses.positions import choose_patches
from reidablate.report.records import fixed

DISCARD = 0.9
_SCALE = scale("nothing", "the most in the map", "inferno")


def people_maps(look: Look, parts: TransformerParts, rows: npt.NDArray[np.int64]) -> dict[str, Tensor]:
    """Returns maps (B, rows, cols) in [0, 1] of some queries by the name of the method."""
    trace, gradients, _ = class_gradients(look.subject.model, parts, look.subject.inputs("query", rows))
    attention = [weights.detach() for weights in trace.attention]
    matrices = {
        "last block": attention[-1].mean(1),
        "rollout, mean": rollout(attention, discard=DISCARD),
        "rollout, max": rollout(attention, fusion="max", discard=DISCARD),
        "rollout, min": rollout(attention, fusion="min", discard=DISCARD),
        "gradient rollout": gradient_rollout(attention, gradients, discard=DISCARD),
        "class relevance": class_relevance(attention, gradients),
    }
    layout = {"num_prefix": parts.num_prefix, "has_cls": _reads_cls(look, parts)}
    return {name: token_map(matrix, parts.grid, **layout) for name, matrix in matrices.items()}  # type: ignore[arg-type]


def thumbnail(look: Look) -> Image.Image:
    """Returns a few people above where the network looks at them; without attention the people alone."""
    rows = look.subject.sample("query", look.amount.shown)
    pictures = [[person(look.pixels("query", row)) for row in rows]]
    if isinstance(look.subject.parts, TransformerParts):
        maps = people_maps(look, look.subject.parts, rows)["class relevance"].numpy()
        pictures.append([overlay(look.pixels("query", row), values) for row, values in zip(rows, maps, strict=True)])
    return sheet(pictures)


def attention_maps(look: Look) -> Section:
    """Returns the maps of a few people, a row each."""
    how = (
        "What is bright counts for the feature of this image: attention of the last block alone, attention followed "
        "through all blocks (rollout, heads fused by mean, maximum or minimum, the smallest 90 % of each block left "
        "out), and two that also ask what speaks for the training identity with the largest logit."
    )
    title = "Where the network looks"
    parts = look.subject.parts
    if isinstance(parts, str):
        return Section("attention", title, how, [aside(parts)])
    rows = look.subject.sample("query", look.amount.shown)
    maps = people_maps(look, parts, rows)
    found = []
    for place, row in enumerate(rows):
        pixels = look.pixels("query", row)
        tiles = [captioned(element(person(pixels), "query"), "image")]
        for name, values in maps.items():
            picture = element(overlay(pixels, values[place].numpy()), f"{name} of the image")
            tiles.append(captioned(picture, name))
        found.append(strip(tiles))
    found.append(_SCALE)
    if not _reads_cls(look, parts):
        found.append(aside("The feature is the mean of the patches, so the maps are means over patches as queries."))
    return Section("attention", title, how, found)


def head_maps(look: Look) -> Section | None:
    """Returns the attention of CLS (or of the mean patch) in each head; in deep networks of the last block alone."""
    parts = look.subject.parts
    if isinstance(parts, str):
        return None
    row = look.subject.sample("query", 1)
    with torch.no_grad(), traced(parts) as trace:
        look.subject.model(look.subject.inputs("query", row))
    pixels = look.pixels("query", row[0])
    found = [strip([captioned(element(person(pixels), "query"), "image")], "One query")]
    shown = range(len(parts.blocks)) if look.amount.full or len(parts.blocks) <= 4 else [len(parts.blocks) - 1]
    for block in shown:
        tiles = []
        for head, weights in enumerate(trace.attention[block][0], start=1):
            values = token_map(weights[None], parts.grid, num_prefix=parts.num_prefix, has_cls=_reads_cls(look, parts))
            tiles.append(captioned(element(overlay(pixels, values[0].numpy()), f"head {head}"), f"head {head}"))
        found.append(strip(tiles, f"Block {block + 1}"))
    how = (
        "Where the class token (without one, the mean patch) of one image looks, head by head. Heads that look alike "
        "do the same work twice."
    )
    return Section("heads", "Attention by head", how, [*found, _SCALE])


def triplets(look: Look) -> Section:
    """Returns hard triplets of training images: attention of the last block, and the patches that are related."""
    subject, parts = look.subject, look.subject.parts
    rows = subject.sample("train", 32, per_id=4)
    with torch.no_grad():
        outputs = subject.model(subject.inputs("train", rows))
    labels = torch.from_numpy(subject.rows("train")["pid"].to_numpy()[rows])
    mined = batch_hard(outputs.feature_before_neck, labels)
    feature = outputs.feature_before_neck
    gap = (feature - feature[mined.positive]).norm(dim=1) - (feature - feature[mined.negative]).norm(dim=1)
    anchors = gap.masked_fill(~mined.valid, -torch.inf).argsort(descending=True)
    firsts = {int(labels[anchor]): int(anchor) for anchor in reversed(anchors.tolist())}  # the hardest of each person
    shown = sorted(firsts.values(), key=lambda anchor: -float(gap[anchor]))[: max(2, look.amount.shown // 2)]
    found = []
    for anchor in shown:
        members = {"anchor": anchor, "positive": int(mined.positive[anchor]), "negative": int(mined.negative[anchor])}
        tiles = []
        for word, member in members.items():
            tiles += [captioned(p, w) for p, w in _member(look, parts, rows[member], word)]
        found.append(
            strip(tiles, f"Distance to the positive minus that to the negative: {fixed(float(gap[anchor]), 2, True)}")
        )
    how = (
        "The hardest positive and negative of an anchor in a batch of 32 training images: the attention of the last "
        "block, and the patches that the class token is most similar to, numbered by rank, with the pairs that "
        "Proposed 2 relates. Above 0 the negative is nearer than the positive."
    )
    return Section("triplets", "Anchor, positive and negative", how, found)


def _member(look: Look, parts: TransformerParts | str, row: int, word: str) -> list[tuple[str, str]]:
    pixels = look.pixels("train", row)
    if isinstance(parts, str):
        return [(element(person(pixels), word), word)]
    with torch.no_grad(), traced(parts) as trace:
        outputs = look.subject.model(look.subject.inputs("train", np.array([row])))
    cls = _reads_cls(look, parts)
    values = token_map(trace.attention[-1].mean(1), parts.grid, num_prefix=parts.num_prefix, has_cls=cls)
    pictures = [(element(overlay(pixels, values[0].numpy()), f"attention of the {word}"), f"{word}, attention")]
    if outputs.cls is not None:
        chosen = choose_patches(outputs.cls, outputs.patches, min(5, outputs.patches.shape[1]))[0].tolist()
        drawn = with_patches(pixels, chosen, parts.grid)
        pictures.append((element(drawn, f"patches of the {word}"), f"{word}, patches"))
    return pictures


def distances(look: Look) -> Section:
    """Returns the mean attention distance of every head."""
    how = (
        "A dot is a head: low ones look at the neighbourhood of each patch, those at the dashed line everywhere alike, "
        "and those above it at what is far away."
    )
    parts = look.subject.parts
    if isinstance(parts, str):
        return Section("distance", "How far heads look", how, [aside(parts)])
    rows = look.subject.sample("query", look.amount.images)
    with torch.no_grad(), traced(parts) as trace:
        look.subject.model(look.subject.inputs("query", rows))
    height, width = look.subject.model.config.image_size
    patch_px = (height / parts.grid[0], width / parts.grid[1])
    values = [
        mean_distance(weights, parts.grid, num_prefix=parts.num_prefix, patch_px=patch_px).numpy()
        for weights in trace.attention
    ]
    chart = charts.heads(
        "distance",
        f"Mean attention distance, {len(rows)} images",
        np.stack(values).astype(float),
        y_label="mean distance, pixels",
        level=float(patch_distances(parts.grid, patch_px).mean()),
        words="uniform attention",
    )
    return Section("distance", "How far heads look", how, [chart])


def _reads_cls(look: Look, parts: TransformerParts) -> bool:
    return parts.has_cls and look.subject.model.config.pool == "cls"
