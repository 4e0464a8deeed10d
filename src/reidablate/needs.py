"""What has to be made before every run that a call asks for is in the tables; `Standing.needs` finds it out."""

from dataclasses import dataclass

from reidablate.study import PRETRAIN, Run, Transfer


@dataclass(frozen=True)
class Needs:
    """What has to be made before every asked run is in the tables.

    Attributes:
        datasets: Generated sets that are not drawn, or were drawn by another recipe.
        indexes: Data sets without an index of their present images.
        caches: Data sets without a cache of their index at the preset's image size.
        pretrain: Whether the backbone that the preset trains itself is not there.
        train: Asked runs that are not trained, or lack their features.
        extract: Those of them that lack nothing else; their features are made from their weights.
        unsure: Those of them that are finished, made of images or initial weights that are gone; if these come out as
            they were, the runs stand.
        transfer: Asked runs without features on another data set that their cell asks for.
        evaluate: Planned runs and transfers that have features, or will, and no scores by the present protocol.
        stands: Those that are scored.
        floors: Data sets without scores of what any model has to beat.
        tables: Whether the tables are not of what is there now.
        statistics: Whether the statistics are not of these tables.
        report: Whether the report is not of both.
        damaged: A sentence for each folder whose files are not those that were written, and what is done about it.
    """

    datasets: list[str]
    indexes: list[str]
    caches: list[str]
    pretrain: bool
    train: list[Run]
    extract: list[Run]
    unsure: list[Run]
    transfer: list[Transfer]
    evaluate: list[Run | Transfer]
    stands: set[Run | Transfer]
    floors: list[str]
    tables: bool
    statistics: bool
    report: bool
    damaged: list[str]

    @property
    def nothing(self) -> bool:
        """Whether everything that this call asks for stands and is in the tables."""
        made = [*self.train, *self.transfer, *self.evaluate, *self.floors]
        return not (made or self.tables or self.statistics or self.report)

    @property
    def used_datasets(self) -> set[str]:
        """Data sets whose images the jobs will read."""
        read = {run.dataset for run in self.train} | {transfer.on for transfer in self.transfer} | {*self.floors}
        return read | ({PRETRAIN} if self.pretrain and self.train else set())

    def in_words(self) -> str:
        """Returns a sentence that names the runs to train, and those that may not have to be: data set, cell, seeds."""
        fit = [run for run in self.train if run not in self.extract and run not in self.unsure]
        parts = [
            _counted(fit, "to train"),
            _counted(self.extract, "whose features are extracted again"),
            _counted(self.unsure, "to train unless lost images and initial weights come out as they were"),
        ]
        return f"reidablate: {'; '.join(part for part in parts if part) or 'no run to train'}."


def _counted(runs: list[Run], what: str) -> str:
    """Returns how many runs there are of a kind, and which; nothing where there is none."""
    if not runs:
        return ""
    seeds: dict[str, list[str]] = {}
    for run in runs:
        seeds.setdefault(f"{run.dataset}/{run.cell}", []).append(str(run.seed))
    named = "; ".join(f"{name} seed {', '.join(of)}" for name, of in seeds.items())
    return f"{len(runs)} run{'s' * (len(runs) > 1)} {what}: {named}"
