# Runs -> tidy tables -> contrasts. What was imported of other code bases enters tables of its own.
from reidablate.artifacts import content_hash


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
    log:
        LOGS / "aggregate.log",
    localrule: True
    params:
        runs=content_hash([run.id for run in STUDY.runs]),
        cells=content_hash([cell.model_dump(mode="json") for cell in STUDY.cells]),
    shell:
        "reidablate aggregate --plan {PLAN:q} 2> {log:q}"


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
    log:
        LOGS / "statistics.log",
    localrule: True
    shell:
        "reidablate statistics {ROOT:q} 2> {log:q}"
