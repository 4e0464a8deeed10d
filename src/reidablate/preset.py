"""The options of a preset: how large a study is, on what machine, and the images that it draws itself."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from reidablate.distributions import Distribution
from reidablate.provenance import usable_cores
from reidablate.sections import Factor, LocalFolder, Number, Positive, Section, Several

MOST_SEEDS = 1000


@dataclass(frozen=True)
class Counts:
    """How many images and identities a procedural set has.

    A set without query and gallery is a pre-training set: its people and cameras are drawn from other streams.

    Attributes:
        train_images: Training images.
        train_ids: Training identities.
        query_images: Queries.
        query_ids: Identities of the queries.
        gallery_images: Gallery images, without distractors and junk.
        gallery_ids: Identities of the gallery, those of the queries among them.
        distractors: Gallery images of people who are no query's.
        junk: Gallery images that are ignored.
        shared_queries: Query files that stand in the gallery as well, under the same name, and count among its images.
    """

    train_images: int
    train_ids: int
    query_images: int = 0
    query_ids: int = 0
    gallery_images: int = 0
    gallery_ids: int = 0
    distractors: int = 0
    junk: int = 0
    shared_queries: int = 0

    @property
    def population(self) -> str:
        """Returns the name of the population that identities and cameras are drawn from."""
        return "study" if self.gallery_images else "pretrain"


Style = Literal[
    "market1501",
    "occluded_duke",
    "dukemtmc",
    "msmt17_v1",
    "msmt17_v2",
    "cuhk03_detected",
    "cuhk03_labeled",
    "occluded_reid",
]


class SyntheticRecipe(Section):
    """Everything that decides a procedural data set, to the byte.

    Attributes:
        style: The real set whose folders, file names, cameras and occlusions it imitates.
        counts: How many images and identities it has.
        seed: Seed of everything that is drawn; sets of one style and different seeds share no image.
        image_size: Height and width in pixels.
        occluded_share: Probability that an image of a style with occlusions is occluded.
    """

    style: Style
    counts: Counts
    seed: Annotated[int, Field(ge=0)] = 0
    image_size: tuple[Positive, Positive]
    occluded_share: Annotated[float, Field(ge=0, le=1)] = 0.5


class Execution(Section):
    """What a run asks of the machine; never part of its science.

    Attributes:
        gpu: GPUs that a training uses and asks of Snakemake (`--resources gpu=`); several share every batch.
        threads: CPU threads of a training, as far as the machine has cores for them.
        workers: Processes that read images for a training; 0 reads them in the training itself.
        hours: Time that a scheduler may give a training; one that needs longer is saved and goes on.
        memory_gb: Memory of the machine that a scheduler may give a job.
        stage_to: A folder on the disk of each machine to which trainings copy their data set before they read it.
        recompute: Whether the backward pass of the study's transformers computes activations again in place of keeping
            them: less memory, more time, the same bits.
    """

    gpu: Number = 1
    threads: Positive = 1
    workers: Number = 0
    hours: Factor = 12.0
    memory_gb: Positive = 16
    stage_to: LocalFolder | None = None
    recompute: bool = False

    @property
    def threads_here(self) -> int:
        """The threads of a stage on this machine: more than there are cores slow it down many times."""
        return min(self.threads, usable_cores())


class EvaluateConfig(Section):
    """What else a finished run is scored on; never part of its science.

    Attributes:
        also_on: Data sets of the study that every finished run is scored on beside its own, by name, or `all`. Nothing
            is trained for it.
    """

    also_on: Literal["all"] | list[str] = []

    @field_validator("also_on", mode="before")
    @classmethod
    def _one_name(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) and value != "all" else value


class ReportSettings(Section):
    """What may leave the study in reports and pages.

    Attributes:
        blur_faces: Whether the upper third of images of real people is blurred; drawn people are shown as they are.
    """

    blur_faces: bool = True


class Sample(Section):
    """How few images of a data set a smoke test reads.

    Attributes:
        train_ids: Training identities.
        images_per_id: Images of each of them.
        test_images: Images of query and of gallery.
    """

    train_ids: Several = 2
    images_per_id: Positive = 2
    test_images: Several = 12


class Preset(Section):
    """How large: backbone, schedule, seeds, and where the initial weights come from.

    Attributes:
        name: Name of the preset, and of the folder of its results.
        description: One sentence for lists and reports.
        seeds: Seeds of every run, 0 and up.
        tier: Which cells are run where the call names none: those up to this tier.
        weights: What runs start from: `pretrain`, a backbone that the study trains itself; `file`, one that the call
            gives (`--config weights=PATH`); `none`, drawn from the seed; or a mapping of each backbone to its file.
        model: Options of the network that every cell starts from.
        losses: Options of the losses that every cell starts from.
        train: Options of the training that every cell starts from; the only place of `lr` and `epochs`.
        execution: What a run asks of the machine.
        evaluate: What else every run is scored on, where its cell does not say.
        keep: Whose weights and features stay when a run is scored: `all`, the `last` seed of each cell and data set, or
            `none`.
        diagnose: Whether the first seed of each cell gets a page of diagnostics, and how long it is.
        primary: Cells whose comparisons are judged in a family of their own, beside those that say so themselves.
        synthetic: Data sets that the study draws itself, by name; none where real ones are read.
        pretrain: Options that are laid over the sections above for the backbone of `weights: pretrain`.
        jitter: Options of `losses` and `train` that each seed draws anew, the same in every cell, each with its
            distribution such as `loguniform(0.5, 2)`.
        claims: Whether the cells that published claims name are run beside those of the tier.
        also_cells: Further cells that are run beside those of the tier.
        sample: The images that a smoke test reads. Set by `preset=smoke` alone.
    """

    name: str
    description: str = ""
    seeds: Annotated[int, Field(ge=1, le=MOST_SEEDS)]
    tier: Literal["core", "extended", "optional"] = "core"
    weights: Literal["pretrain", "file", "none"] | dict[str, str]
    model: dict[str, Any] = {}
    losses: dict[str, Any] = {}
    train: dict[str, Any] = {}
    execution: Execution = Execution()
    evaluate: EvaluateConfig = EvaluateConfig()
    keep: Literal["all", "last", "none"] = "all"
    diagnose: Literal["none", "brief", "full"] = "none"
    primary: list[str] = []
    synthetic: dict[str, SyntheticRecipe] | None = None
    pretrain: dict[str, Any] | None = None
    jitter: dict[str, Distribution] = {}
    claims: bool = False
    also_cells: list[str] = []
    sample: Sample | None = None
