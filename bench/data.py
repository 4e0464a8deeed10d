"""What images cost on their way to a training: the loader, the cache, cold reads, and the first batch.

    python bench/data.py [--peers DIR] [--only loader,cache,cold,start] [--rounds 5] [--threads 1]

DIR holds a checkout of TransReID-SSL (damo-cv, Luo et al. 2021). The images are drawn, 128 x 64 as those of
Market-1501, and come out at 256 x 128. The parts, each in turns of processes of their own:

* `loader`: batches of 64, augmented, without loader processes. Ours reads the cache; the others decode the JPEG and
  augment with torchvision: TransReID-SSL (its data set class, its transforms) and timm's own transforms for training.
  `floor` copies the batch out of the cache and converts it to float32, no more.
* `cache`: building it, on all cores. `floor` decodes and resizes the same images with Pillow in as many threads, checks
  nothing and keeps nothing.
* `cold`: random batches of a cache of which nothing is in memory. `map` indexes the memory map as it is. Beside the
  time, bytes read from the disk for each byte used.
* `start`: seconds until two loader processes have the first batch, by the way they are started.
"""

import importlib.util
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import contest
import numpy as np
import torch
from PIL import Image

from reidablate.config import Counts, SyntheticRecipe
from reidablate.data import augment
from reidablate.data.cache import FILTERS, build_cache, read_cache
from reidablate.data.index import index_dataset, read_index
from reidablate.data.table import layout_of
from reidablate.engine.batches import image_batches
from reidablate.places import settings
from reidablate.provenance import usable_cores
from reidablate.rng import torch_generator
from reidablate.settings import Settings
from reidablate.synthetic.synthesize import synthesize_recipe

OUT = contest.RESULTS / "data.json"
HEIGHT, WIDTH, BATCH, NUM_IDS = 256, 128, 64, 64
IMAGES, COLD_IMAGES, COLD_BATCHES = 2048, 8000, 20
PARTS = {
    "loader": ["ours", "floor", "timm"],
    "cache": ["ours", "floor"],
    "cold": ["ours", "map"],
    "start": ["fork", "forkserver", "spawn"],
}
PEER = Path("TransReID-SSL/transreid_pytorch/datasets/bases.py")
Images = np.ndarray[Any, np.dtype[np.uint8]]


def prepare(folder: Path) -> None:
    """Draws the images, indexes and caches them, and writes the large cache for cold reads."""
    counts = Counts(train_images=IMAGES, train_ids=NUM_IDS)
    recipe = SyntheticRecipe(style="market1501", counts=counts, image_size=(128, 64))
    synthesize_recipe(folder / "images", recipe, workers=usable_cores())
    table = Settings.model_validate(settings(Path())).dataset_table
    index_dataset(folder / "images", layout_of("market1501", table), folder / "index", workers=usable_cores())
    build(folder, folder / "cache")
    shape = (COLD_IMAGES, HEIGHT, WIDTH, 3)
    large = np.lib.format.open_memmap(folder / "cold.npy", mode="w+", dtype=np.uint8, shape=shape)
    for first in range(0, COLD_IMAGES, IMAGES):
        large[first : first + IMAGES] = read_cache(folder / "cache", "train")[: COLD_IMAGES - first]
    large.flush()


def build(folder: Path, out: Path) -> None:
    """Builds the cache of the images."""
    index = read_index(folder / "index")
    build_cache(index, folder / "images", out, height=HEIGHT, width=WIDTH, workers=usable_cores())


def files(folder: Path) -> list[Path]:
    """Returns the images in the order of the index."""
    frame = read_index(folder / "index").frame
    return [folder / "images" / path for path in frame["path"]]


def batches(number: int, images: int = IMAGES) -> Iterator[np.ndarray[Any, Any]]:
    """Yields the rows of random batches, the same for every contestant."""
    rng = np.random.default_rng(0)
    return (rng.choice(images, BATCH, replace=False) for _ in range(number))


def loader(name: str, folder: Path, peers: Path | None) -> dict[str, Any]:
    """Measures one epoch of augmented batches."""
    number = IMAGES // BATCH
    work = from_cache(folder, augmented=name == "ours") if name in {"ours", "floor"} else decoded(name, folder, peers)
    for rows in batches(2):
        work(rows)  # loads what it needs
    return contest.measure(lambda: sum(len(work(rows)) for rows in batches(number)))


def from_cache(folder: Path, *, augmented: bool) -> Callable[[Any], torch.Tensor]:
    """Returns what makes a batch of the cached images, as a training does or not augmented."""
    images, numbers = read_cache(folder / "cache", "train"), itertools.count()

    def work(rows: Any) -> torch.Tensor:
        batch = next(image_batches(images, [rows], workers=0, pin=False))
        if not augmented:
            return augment.to_float(batch)
        decisions = augment.draw(
            torch_generator(0, "augment", 0, next(numbers)), len(batch), height=HEIGHT, width=WIDTH, pad=10,
            flip_probability=0.5, erase_probability=0.5,
        )  # fmt: skip
        return augment.apply(batch, decisions)

    return work


def decoded(name: str, folder: Path, peers: Path | None) -> Callable[[Any], torch.Tensor]:
    """Returns what decodes and augments a batch as others do."""
    from timm.data import create_transform
    from timm.data.random_erasing import RandomErasing
    from torchvision import transforms

    paths, size = files(folder), (HEIGHT, WIDTH)
    if name == "timm":
        timm_transform = create_transform(
            (3, *size), is_training=True, scale=(0.8, 1.0), color_jitter=None, re_prob=0.5, re_mode="pixel"
        )
        return lambda rows: torch.stack([timm_transform(Image.open(paths[row]).convert("RGB")) for row in rows])
    assert peers is not None
    spec = importlib.util.spec_from_file_location("bases", peers / PEER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    recipe = transforms.Compose(
        [
            transforms.Resize(size, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(p=0.5),
            transforms.Pad(10),
            transforms.RandomCrop(size),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.5] * 3, std=[0.5] * 3),
            RandomErasing(probability=0.5, mode="pixel", max_count=1, device="cpu"),
        ]
    )
    data = module.ImageDataset([(str(path), 0, 0, 0) for path in paths], recipe)
    return lambda rows: torch.stack([data[int(row)][0] for row in rows])


def cache(name: str, folder: Path, _: Path | None) -> dict[str, Any]:
    """Measures the cache of all images."""
    paths, out = files(folder), folder / "built"
    shutil.rmtree(out, ignore_errors=True)

    def floor() -> int:
        def one(path: Path) -> int:
            with Image.open(path) as image:
                return np.asarray(image.convert("RGB").resize((WIDTH, HEIGHT), FILTERS["train"])).size

        with ThreadPoolExecutor(usable_cores()) as pool:
            return len(list(pool.map(one, paths)))

    return contest.measure(floor if name == "floor" else lambda: build(folder, out))


def cold(name: str, folder: Path, _: Path | None) -> dict[str, Any]:
    """Measures random batches of a file that is not in memory."""
    path = folder / "cold.npy"
    forget(path)
    images: Images = np.lib.format.open_memmap(path, mode="r")
    before = disk_bytes()

    def read() -> int:
        rows = batches(COLD_BATCHES, COLD_IMAGES)
        if name == "map":
            return sum(np.ascontiguousarray(images[each]).nbytes for each in rows)
        return sum(batch.nbytes for batch in image_batches(images, rows, workers=0, pin=False))

    found = contest.measure(read)
    return found | {"found": {"read_per_used": round((disk_bytes() - before) / found["found"], 2)}}


def forget(path: Path) -> None:
    """Has the kernel drop what it holds of a file."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def disk_bytes() -> int:
    """Returns the bytes that this process has had read from storage."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes:"))


def start(name: str, folder: Path, _: Path | None) -> dict[str, Any]:
    """Measures the first batch of two loader processes."""
    torch.multiprocessing.set_start_method(name)
    images: Images = np.lib.format.open_memmap(folder / "cold.npy", mode="r")
    return contest.measure(lambda: len(next(image_batches(images, batches(4), workers=2, pin=False))))


def main() -> None:
    options = contest.parser(__doc__)
    options.set_defaults(threads=1)
    options.add_argument("--part", choices=[*PARTS], help="of a --child")
    options.add_argument("--folder", type=Path, help="of a --child")
    arguments = options.parse_args()
    if arguments.child:
        torch.set_num_threads(arguments.threads)
        print(json.dumps(globals()[arguments.part](arguments.child, arguments.folder, arguments.peers)))
        return
    print(f"CPU, {arguments.threads} threads, load {os.getloadavg()}", flush=True)
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-data-") as name:
        folder = Path(name)
        prepare(folder)
        for part in arguments.only.split(",") if arguments.only else PARTS:
            names = PARTS[part] + ["TransReID-SSL"] * bool(part == "loader" and arguments.peers)
            passed = ["--part", part, "--folder", str(folder), "--threads", str(arguments.threads)]
            passed += ["--peers", str(arguments.peers)] if arguments.peers else []
            print(part, flush=True)
            found = contest.turns(__file__, names, passed, rounds=arguments.rounds, threads=arguments.threads)
            entry = {"rounds": arguments.rounds, "threads": arguments.threads, **contest.summary(found, names[0])}
            entry["commits"] = contest.commits(arguments.peers)
            about = {"about": f"Cost of {IMAGES} images at {HEIGHT} x {WIDTH}; see bench/data.py."}
            contest.record(OUT, part, entry, about)


if __name__ == "__main__":
    main()
