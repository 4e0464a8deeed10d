"""Mutates valid inputs of every reader and counts what comes out: a result, one of our sentences, or a fault.

    python tests/faults/fuzz.py --seed 0 --number 1000 --readers cells,npz --keep FOLDER

A fault is any other exception. Its input is kept, and the seed, reader and number make it again.
"""

import argparse
import io
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reidablate.errors import UserError, sentence

ROOT = Path(__file__).parents[2]
ALPHABET = [
    b"\x00", b"\xff", b"'", b'"', b"{", b"}", b"[", b"]", b":", b",", b"-", b"\n", b"\t", b"\x1b[31m", b"\xed\xa0\x80",
    b"=1+1", b"&a *a", b"<<: ", b"!!int abc", b"!!binary x", b"!!timestamp q", b"2024-13-45", b".nan", b"1e999",
    b"9" * 5000, b"0x" + b"f" * 5000, b"18446744073709551615", b"-9223372036854775809", b"\\ud800", b"null", b"true",
    "\u202e\u05e9\U0001f600".encode(), b"../..", b"0b_", b"NaN", b"? [a]\n: b\n", b"\"\\uD800\"", b"%s%n", b"|", b">",
]  # fmt: skip


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Returns a few random changes of some bytes: flips, cuts, repetitions, swaps and hostile words."""
    for _ in range(int(rng.integers(1, 5))):
        place = int(rng.integers(len(data) + 1))
        length = int(rng.integers(1, 40))
        kind = rng.integers(6)
        if kind == 0 and place < len(data):
            data = data[:place] + bytes([data[place] ^ (1 << int(rng.integers(8)))]) + data[place + 1 :]
        elif kind == 1:
            data = data[:place] + data[place + length :]
        elif kind == 2:
            data = data[:place] + data[max(0, place - length) : place] + data[place:]
        elif kind == 3:
            data = data[:place] + ALPHABET[int(rng.integers(len(ALPHABET)))] + data[place:]
        elif kind == 4:
            data = data[:place] + rng.bytes(min(length, 8)) + data[place + min(length, 8) :]
        elif rng.random() < 0.2:
            data = data[:place]
        else:
            lines = data.split(b"\n")
            one, two = rng.integers(len(lines), size=2)
            lines[one] = lines[two] if rng.random() < 0.5 else ALPHABET[int(rng.integers(len(ALPHABET)))]
            data = b"\n".join(lines)
    return data


Reader = tuple[str, list[bytes], Callable[[Path], Any]]


def _cells() -> Reader:
    from reidablate.cell_files import expand, read_cell_file
    from reidablate.cells import MOST_CELLS
    from reidablate.config import RunConfig, validate
    from reidablate.planning import load_preset
    from reidablate.trees import merge

    preset = load_preset(ROOT / "workflow" / "config" / "presets" / "quickstart.yaml")
    base = {"model": preset.model, "losses": preset.losses, "train": preset.train}

    def read(path: Path) -> None:
        for cell in expand(read_cell_file(path), path)[:MOST_CELLS]:
            validate(RunConfig, merge(base, cell.options), where=str(path)).dump()
            json.dumps(cell.model_dump(mode="json"), ensure_ascii=False).encode()

    return "naive_triplet.yaml", [path.read_bytes() for path in sorted((ROOT / "ablations").glob("*.yaml"))], read


def _names() -> Reader:
    from reidablate.artifacts import canonical_json
    from reidablate.data.formats import parse_name
    from reidablate.data.table import layout_of, shipped_table

    layouts = [layout_of(name) for name in shipped_table()]

    def read(path: Path) -> None:
        name = path.read_bytes()[:255].decode("utf-8", "surrogateescape")  # no file's name is longer
        for layout in layouts:
            try:
                canonical_json([name, *parse_name(name, layout)]).encode()
            except UserError as error:
                last = error
            else:
                return
        raise last

    return "name", [b"0002_c1s1_000451_03.jpg", b"-1_c6s3_000001_00.jpg", b"0001_c2_f0046182.jpg"], read


def _manifest() -> Reader:
    from reidablate.data.folder import read_folder
    from reidablate.data.table import layout_of

    rows = [f"{pid}_{n}.jpg,{pid},{n},{s}" for s in ("train", "query", "gallery") for pid in (1, 2) for n in (1, 2)]
    text = "path,pid,camid,split\n" + "\n".join(rows) + "\n"
    layout = layout_of("manifest")
    return "manifest.csv", [text.encode()], lambda path: read_folder(path, layout)


def _npz() -> Reader:
    from reidablate.metrics.files import Options, score_file

    rng = np.random.default_rng(0)
    ids: dict[str, Any] = {
        f"{s}_{k}": rng.integers(1, 4, n) for s, n in (("query", 6), ("gallery", 9)) for k in ("pids", "camids")
    }
    features: dict[str, Any] = {"query_features": rng.normal(size=(6, 4)), "gallery_features": rng.normal(size=(9, 4))}
    names: dict[str, Any] = {"query_names": np.array([f"q{n}" for n in range(6)])}
    inputs = []
    for save in (np.savez, np.savez_compressed):
        for arrays in (features, {"distances": rng.random((6, 9), dtype=np.float32)}):
            stream = io.BytesIO()
            save(stream, **ids, **arrays, **names)
            inputs.append(stream.getvalue())
    return "a.npz", inputs, lambda path: score_file(path, Options())


def _weights() -> Reader:
    import torch
    from safetensors.torch import save

    from reidablate.models import checkpoints

    tensors = {"cls_token": torch.zeros(1, 1, 4), "pos_embed": torch.zeros(1, 5, 4), "norm.weight": torch.ones(4)}
    inputs = [save(tensors, {"grid": "[2, 2]"})]
    stream = io.BytesIO()
    torch.save({"state_dict": tensors}, stream)
    inputs.append(stream.getvalue())

    def read(path: Path) -> None:
        suffix = ".safetensors" if path.read_bytes()[8:9] == b"{" else ".pth"
        other = path.with_suffix(suffix)
        path.replace(other)
        try:
            checkpoints.convert(other, path.with_name("out.safetensors"), hw_ratio=1)
        finally:
            other.unlink()

    return "a.bin", inputs, read


def _records() -> Reader:
    from reidablate.artifacts import read_record
    from reidablate.runs import Metrics

    scores = {"mAP": 0.5, "rank1": 0.25, "num_queries": 12}
    record = {"status": "finished", "headline": "before_neck", "before_neck": scores, "after_neck": scores}
    return "metrics.json", [json.dumps(record, indent=1).encode()], lambda path: read_record(path, Metrics)


def _tables() -> Reader:
    from reidablate.artifacts import read_table

    stream = io.BytesIO()
    pd.DataFrame({"side": ["a", "b"], "rank": [1, 2], "value": [0.5, None]}).to_parquet(stream, index=False)
    return "a.parquet", [stream.getvalue()], lambda path: read_table(path, ["side"])


READERS = {
    "cells": _cells,
    "names": _names,
    "manifest": _manifest,
    "npz": _npz,
    "weights": _weights,
    "records": _records,
    "tables": _tables,
}


def fuzz(reader: str, number: int, seed: int, keep: Path | None = None) -> Counter[str]:
    """Returns how often a mutated input was read, was refused by a sentence, or ended in another exception, by name.

    A sentence counts as one only when it is one line that can be printed.
    """
    name, inputs, read = READERS[reader]()
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        for k in range(number):
            rng = np.random.default_rng([seed, list(READERS).index(reader), k])
            data = mutate(inputs[int(rng.integers(len(inputs)))], rng)
            path.write_bytes(data)
            try:
                read(path)
            except UserError as error:
                words = sentence(error)
                outcome = "refused" if len(words.encode()) < 9000 and "\n" not in words else "fault: no sentence"
            except Exception as error:
                outcome = f"fault: {type(error).__name__}"
                where = error.__traceback__
                while where and where.tb_next:
                    where = where.tb_next
                if where:
                    code = where.tb_frame.f_code
                    outcome += f" in {Path(code.co_filename).name}:{where.tb_lineno}"
            else:
                outcome = "read"
            if outcome.startswith("fault") and keep is not None and found[outcome] < 3:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{reader}-{seed}-{k}-{name}").write_bytes(data)
            found[outcome] += 1
    return found


def main() -> int:
    """Prints the counts of every reader; exit status 1 when there is a fault."""
    parser = argparse.ArgumentParser(description="Fuzz the readers.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--number", type=int, default=1000, help="inputs for each reader")
    parser.add_argument("--readers", default=",".join(READERS))
    parser.add_argument("--keep", type=Path, help="a folder for the inputs that end in a fault")
    asked = parser.parse_args()
    faults = 0
    for reader in asked.readers.split(","):
        found = fuzz(reader, asked.number, asked.seed, asked.keep)
        print(f"{reader}: " + ", ".join(f"{count} {what}" for what, count in found.most_common()), flush=True)
        faults += sum(count for what, count in found.items() if what.startswith("fault"))
    return min(faults, 1)


if __name__ == "__main__":
    sys.exit(main())
