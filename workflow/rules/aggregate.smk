# Runs -> tidy tables -> contrasts. What was imported of other code bases enters tables of its own.
from reidablate.artifacts import content_hash


def imports(dataset):
    """What `reidablate import` left for a data set; one that comes or goes repeats what lies behind."""
    return (ROOT / "imported" / dataset).glob("[!.]*/provenance.json")


rule aggregate:
    input:
        run_files("metrics.json"),
        run_files("provenance.json"),
        transfer_files("metrics.json"),
        [DATA / dataset.name / "diagnostics" / "floors.json" for dataset in STUDY.datasets],
        sorted(made for dataset in STUDY.datasets for made in imports(dataset.name)),
    output:
        TABLES / "runs.parquet",
        TABLES / "metrics.parquet",
        TABLES / "queries.parquet",
        TABLES / "history.parquet",
        TABLES / "floors.parquet",
        TABLES / "camera_pairs.parquet",
        TABLES / "cross_domain.parquet",
        TABLES / "imported.parquet",
        TABLES / "cells.json",
        TABLES / "study.json",
    params:
        runs=content_hash([run.id for run in STUDY.runs]),
        cells=content_hash([cell.model_dump(mode="json") for cell in STUDY.cells]),
    log:
        LOGS / "aggregate.log",
    localrule: True
    shell:
        "reidablate aggregate --plan {PLAN} 2> {log}"


rule statistics:
    input:
        TABLES / "runs.parquet",
        TABLES / "queries.parquet",
        TABLES / "cells.json",
        TABLES / "study.json",
        "workflow/config/claims.yaml",
        sorted(Path("results/reference").glob("calibration.parquet")),
    output:
        TABLES / "contrasts.parquet",
        TABLES / "claims.parquet",
        TABLES / "slices.parquet",
        TABLES / "joint.parquet",
    log:
        LOGS / "statistics.log",
    localrule: True
    shell:
        "reidablate statistics {ROOT} 2> {log}"
