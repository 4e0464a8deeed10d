"""Sections about positions: what the model learned of places, and the test of the study's hypothesis.

Legend: n patches, L blocks, h heads.
"""

import numpy as np
import torch
from torch import Tensor

from reidablate.config import PositionRelationConfig
from reidablate.diagnostics import charts
from reidablate.diagnostics.hypothesis import hypothesis_test, pairwise_divergence, relation_distributions
from reidablate.diagnostics.look import Look, Section, aside
from reidablate.diagnostics.pictures import captioned, element, heat, scale, signed_heat, strip
from reidablate.diagnostics.positions import (
    PositionProperties,
    first_block_proximity,
    position_properties,
    relative_maps,
    similarity_maps,
)
from reidablate.losses.positions import PositionState
from reidablate.models.position import Grid
from reidablate.report.records import fixed
from reidablate.rng import generator

MOST_MAPS = 48
IMAGES_A_PERSON = 4


def absolute_positions(look: Look) -> Section:
    """Returns the similarity of each patch's absolute row with all others, and the three properties as numbers."""
    how = (
        "Each small map is the grid as one patch sees it, in its own place on the grid: bright places have similar "
        "absolute rows. A smooth bump around each patch means that nearness was learned, stripes that rows or columns "
        "were."
    )
    rows = _absolute_rows(look)
    if rows is None:
        return Section("ape", "Absolute positions", how, [aside(_NO_APE.format(look.subject.model.config.backbone))])
    grid = _grid(look)
    maps = similarity_maps(rows[1:], grid)
    step = max(1, int(np.ceil((len(maps) / MOST_MAPS) ** 0.5)))
    chosen = [y * grid[1] + x for y in range(0, grid[0], step) for x in range(0, grid[1], step)]
    tiles = [element(heat(maps[k].numpy()), f"similarity to patch {k}", enlarge=_enlarged(grid)) for k in chosen]
    columns = len(range(0, grid[1], step))
    picture = f'<div class="grid" style="grid-template-columns:repeat({columns},max-content)">{"".join(tiles)}</div>'
    picture += scale("least similar", "the patch itself")
    cls = torch.nn.functional.cosine_similarity(rows[:1], rows[1:]).view(grid)
    found = [f"<div>{picture}</div>"]
    if bool(rows[0].any()):
        found.append(
            strip(
                [
                    captioned(
                        element(heat(cls.numpy()), "CLS", enlarge=2 * _enlarged(grid)),
                        f"CLS with each patch, cosine {fixed(float(cls.min()), 2, True)} (dark) to "
                        f"{fixed(float(cls.max()), 2, True)}",
                    )
                ]
            )
        )
    attention = look.subject.model.backbone.blocks[0]
    normed = attention.norm1(rows[1:])
    seen = first_block_proximity(normed, attention.attn.qkv.weight, attention.attn.qkv.bias, attention.attn.num_heads)
    found.append(_table({"dot product": rows[1:] @ rows[1:].T, "q·k of the rows in block 1": seen}, grid))
    return Section("ape", "Absolute positions", how, found)


_NO_APE = "{} has no absolute position rows of the study's transformers, so there are none to compare."


def _enlarged(shape: tuple[int, ...]) -> int:
    """Returns how many pixels of the screen a place of a small map takes."""
    return max(2, 72 // max(shape))


def _absolute_rows(look: Look) -> Tensor | None:
    rows = look.subject.model.ape_rows()
    return None if rows is None else rows.detach()


def _grid(look: Look) -> Grid:
    rows, cols = look.subject.model.backbone.grid
    return int(rows), int(cols)


def _table(proximities: dict[str, Tensor], grid: Grid) -> str:
    def row(name: str, found: PositionProperties) -> str:
        values = (found.monotonicity, found.translation_invariance, found.symmetry)
        return (
            f'<tr><th scope="row">{name}</th>' + "".join(f'<td class="n">{fixed(v, 3)}</td>' for v in values) + "</tr>"
        )

    body = "".join(row(name, position_properties(values.detach(), grid)) for name, values in proximities.items())
    head = "".join(f'<th scope="col"{c}>{w}</th>' for w, c in (("Proximity", ""), *((w, ' class="n"') for w in _WORDS)))
    caption = (
        "Three properties (Wang et al. 2021) as numbers, 1 where they hold in full: monotonicity, the mean rank "
        "correlation of proximity with nearness; translation invariance and symmetry, shares of the proximity's "
        "variance. A dot product is always symmetric."
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Properties of positions"><table>'
        f"<caption><span>{caption}</span></caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


_WORDS = ("monotonicity", "translation invariance", "symmetry")


def relative_positions(look: Look) -> Section:
    """Returns the relative tables of each block and head as maps over offsets; in full also the bias of each pair."""
    how = (
        "Each map is a head: its centre is the patch itself, red offsets are keys that it prefers, blue ones keys "
        "that it avoids. A shape (a bump, rows, columns) was learned; tables start as noise without one."
    )
    model = look.subject.model
    tables, index = model.rpe_tables(), model.rpe_index
    if tables is None or index is None:
        kind = model.config.rpe.kind
        why = "Its relative keys depend on the query" if kind == "shaw_key" else "The model has no relative tables"
        return Section("rpe", "Relative positions", how, [aside(f"{why}, so there is no map by offset.")])
    maps = relative_maps(tables.detach(), index, _grid(look)).numpy()
    found, most = [], float(np.abs(maps).max())
    for block, heads in enumerate(maps, start=1):
        tiles = [
            captioned(
                element(signed_heat(values, most), f"block {block}, head {head}", enlarge=2 * _enlarged(values.shape)),
                f"head {head}",
            )
            for head, values in enumerate(heads, start=1)
        ]
        found.append(strip(tiles, f"Block {block}: root mean square {np.sqrt(np.square(heads).mean()):.3f}"))
        if look.amount.full:
            bias = tables[block - 1].detach()[index].mean(-1).numpy()
            picture = element(
                signed_heat(bias, float(np.abs(bias).max())), f"bias of block {block}", enlarge=max(1, 160 // len(bias))
            )
            found.append(strip([captioned(picture, "bias of each pair, mean of heads; rows are queries")]))
    found.append(scale(fixed(-most, 2, True), fixed(most, 2, True), "RdBu_r"))
    return Section("rpe", "Relative positions", how, found)


def hypothesis(look: Look) -> Section:
    """Returns the test of the claim under Proposed 2."""
    how = (
        "Proposed 2 rests on the claim that images of one identity relate their main patches alike. If it holds, the "
        "divergences within identities lie left of those between, and the difference lies above what identities "
        "drawn by lot give."
    )
    title = "Does an identity have position relations of its own?"
    model, subject = look.subject.model, look.subject
    state = PositionState(model.ape_rows(), model.rpe_tables(), model.rpe_index)
    if state.ape is None and state.tables is None:
        return Section("hypothesis", title, how, [aside("The model has no position parameters to relate.")])
    rows = subject.sample("gallery", 4 * look.amount.images, per_id=IMAGES_A_PERSON)
    frame = subject.rows("gallery").iloc[rows]
    with torch.no_grad():
        outputs = model(subject.inputs("gallery", rows))
        options = model_options(look)
        patches = min(options.patches, outputs.patches.shape[1])
        log_p = relation_distributions(
            outputs.cls, outputs.patches, state, options.model_copy(update={"patches": patches})
        )
        divergences = pairwise_divergence(log_p)
    pids, camids = (frame[name].to_numpy(np.int64) for name in ("pid", "camid"))
    found = hypothesis_test(divergences, pids, camids, generator(0, "diagnose:hypothesis"))
    if found is None:
        return Section("hypothesis", title, how, [aside("No identity was seen by two cameras, so there is no test.")])
    verdict = "above" if found.difference > found.high else "below" if found.difference < found.low else "within"
    gap, low, high = (fixed(value, 4, True) for value in (found.difference, found.low, found.high))
    sentence = (
        f"<b>{_ANSWERS[verdict]}</b> Between minus within: {gap} nats over {found.num_ids} identities, {verdict} the "
        f"95 % range of identities drawn by lot within each camera, [{low}, {high}] (one-sided p = "
        f"{found.p_value:.3f}). The histograms overlap by {100 * found.overlap:.0f} %. {len(found.within):,} pairs "
        f"within and {len(found.between):,} between, images of different cameras only."
    )
    groups = {"one identity": found.within, "two identities": found.between}
    chart = charts.histograms("hypothesis", "Divergence of position relations", groups, x_label="JSD, nats")
    return Section("hypothesis", title, how, [f'<p class="finding">{sentence}</p>', chart])


_ANSWERS = {
    "above": "Seen here; of forty such tests without any effect, one comes out so.",
    "within": "Not seen here: pairs of one identity are no more alike than identities drawn by lot make them.",
    "below": "Not seen here, rather the opposite; of forty such tests without any effect, one comes out so.",
}


def model_options(look: Look) -> PositionRelationConfig:
    """Returns the options of the run's own position-relation loss, or the defaults where it has none."""
    section = look.subject.made.config["losses"].get("position_relation")
    return PositionRelationConfig() if section is None else PositionRelationConfig.model_validate(section)
