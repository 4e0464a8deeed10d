import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reidablate.artifacts import read_json, sha256_file, write_json
from reidablate.data.cache import build_cache, read_cache
from reidablate.data.index import Index, build_index
from reidablate.data.table import layout_of
from reidablate.errors import UserError
from reidablate.integrity import broken_files

HEIGHT, WIDTH = 16, 8


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of 40 training images (several chunks), one query and one gallery image, of many sizes."""
    folder = tmp_path / "set"
    folder.mkdir()
    rows = ["path,pid,camid,split"]
    rng = np.random.default_rng(0)
    for number in range(42):
        split = "train" if number < 40 else "query" if number == 40 else "gallery"
        shape = (100, 40, 3) if number % 3 else (HEIGHT - 5, WIDTH + number % 7, 3)
        name = f"{number:02d}.jpg"
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / name)
        rows.append(f"{name},{number if number < 40 else 40},{number},{split}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def index(root: Path) -> Index:
    return build_index(root, layout_of("manifest"), workers=1)


def build(index: Index, root: Path, out: Path, workers: int = 2) -> None:
    build_cache(index, root, out, height=HEIGHT, width=WIDTH, workers=workers)


def resized(path: Path, resample: Image.Resampling) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((WIDTH, HEIGHT), resample))


def test_train_is_resized_bicubic_and_test_bilinear_in_index_order(root: Path, tmp_path: Path) -> None:
    Image.open(root / "07.jpg").convert("L").save(root / "07.jpg")
    index = build_index(root, layout_of("manifest"), workers=1)
    build(index, root, tmp_path / "cache")
    for split, resample in [
        ("train", Image.Resampling.BICUBIC),
        ("query", Image.Resampling.BILINEAR),
        ("gallery", Image.Resampling.BILINEAR),
    ]:
        paths = index.frame.loc[index.frame["split"] == split, "path"]
        expected = np.stack([resized(root / path, resample) for path in paths])
        np.testing.assert_array_equal(read_cache(tmp_path / "cache", split), expected)


def test_the_cache_says_what_it_is(root: Path, index: Index, tmp_path: Path) -> None:
    build(index, root / "manifest.csv", tmp_path)
    cache = read_json(tmp_path / "cache.json")
    assert cache["fingerprint"] == index.summary["fingerprint"]
    assert (cache["height"], cache["width"]) == (HEIGHT, WIDTH)
    assert cache["images"] == {"train": 40, "query": 1, "gallery": 1}
    assert cache["packages"]["pillow"]


def test_a_split_that_the_index_lacks_is_left_out(root: Path, index: Index, tmp_path: Path) -> None:
    training = Index(index.frame[index.frame["split"] == "train"], index.summary)
    build(training, root, tmp_path / "cache")
    assert read_cache(tmp_path / "cache", "train").shape == (40, HEIGHT, WIDTH, 3)
    with pytest.raises(UserError, match="has no query images; it holds train"):
        read_cache(tmp_path / "cache", "query")


def test_workers_do_not_change_the_cache(root: Path, index: Index, tmp_path: Path) -> None:
    build(index, root, tmp_path / "one", workers=1)
    build(index, root, tmp_path / "three", workers=3)
    for name in ("train.npy", "query.npy", "gallery.npy", "cache.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "three" / name).read_bytes()


def test_images_are_mapped_read_only(root: Path, index: Index, tmp_path: Path) -> None:
    build(index, root, tmp_path)
    images = read_cache(tmp_path, "train")
    assert isinstance(images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        images[0] = 0


@pytest.mark.parametrize("name", ["05.jpg", "39.jpg", "40.jpg"])
def test_a_broken_image_is_named_and_leaves_no_cache(root: Path, index: Index, tmp_path: Path, name: str) -> None:
    build(index, root, tmp_path / "cache")
    (root / name).write_bytes((root / name).read_bytes()[:-20])
    (tmp_path / "cache" / "cache.json").unlink()  # as Snakemake does before it starts the stage again
    index.frame.loc[index.frame["path"] == name, "content_hash"] = sha256_file(root / name)[:16]
    with pytest.raises(UserError, match=rf"{name} cannot be read .*truncated"):
        build(index, root, tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").glob(".*")] == [".lock"]
    with pytest.raises(UserError, match=r"cache\.json is missing"):
        read_cache(tmp_path / "cache", "train")


def test_a_full_disk_is_a_sentence(root: Path, index: Index, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(UserError, match=r"cannot write .*train\.npy"):
            build(index, root, tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_whole_cache_is_left_alone_and_one_of_another_size_is_not(root: Path, index: Index, tmp_path: Path) -> None:
    build(index, root, tmp_path / "cache")
    before = (tmp_path / "cache" / "train.npy").stat().st_ino
    build(index, root, tmp_path / "cache")
    assert (tmp_path / "cache" / "train.npy").stat().st_ino == before
    height, width = read_cache(tmp_path / "cache", "train").shape[1:3]
    build_cache(index, root, tmp_path / "cache", height=height + 1, width=width, workers=1)
    assert read_cache(tmp_path / "cache", "train").shape[1:3] == (height + 1, width)


def test_arrays_that_do_not_fit_the_cache_are_refused(root: Path, index: Index, tmp_path: Path) -> None:
    build(index, root, tmp_path)
    whole = (tmp_path / "train.npy").read_bytes()
    (tmp_path / "train.npy").write_bytes(whole[:-1])
    with pytest.raises(UserError, match="is damaged"):
        read_cache(tmp_path, "train")
    facts = read_json(tmp_path / "cache.json")
    write_json(tmp_path / "cache.json", {key: value for key, value in facts.items() if key != "sha256"})
    with pytest.raises(UserError, match="cannot be read"):
        read_cache(tmp_path, "train")
    np.save(tmp_path / "train.npy", np.zeros((40, WIDTH, HEIGHT, 3), np.uint8))
    with pytest.raises(UserError, match=r"holds uint8 \(40, 8, 16, 3\), cache\.json says uint8 \(40, 16, 8, 3\)"):
        read_cache(tmp_path, "train")


def test_an_image_replaced_after_the_index_is_not_cached(root: Path, index: Index, tmp_path: Path) -> None:
    shutil.copy(root / "03.jpg", root / "05.jpg")
    with pytest.raises(UserError, match=r"05\.jpg is not the image that was indexed"):
        build(index, root, tmp_path / "cache")
    assert not (tmp_path / "cache" / "cache.json").exists()


@pytest.mark.parametrize("place", [0, 200, -1])
def test_a_flipped_bit_is_found_and_the_cache_made_again(root: Path, index: Index, tmp_path: Path, place: int) -> None:
    build(index, root, tmp_path)
    whole = (tmp_path / "train.npy").read_bytes()
    changed = bytearray(whole)
    changed[place] ^= 1
    (tmp_path / "train.npy").write_bytes(changed)
    with pytest.raises(UserError, match=r"train\.npy is damaged"):
        read_cache(tmp_path, "train")
    assert broken_files(tmp_path) == ["train.npy"]
    build(index, root, tmp_path)
    assert (tmp_path / "train.npy").read_bytes() == whole
