# Runs -> tidy tables -> contrasts. What was imported of other code bases enters tables of its own.


rule aggregate:
    input:
        there("metrics.json"),
        there("provenance.json"),
        [DATA / dataset.name / "diagnostics" / "floors.json" for dataset in STUDY.datasets],
        sorted(made for dataset in STUDY.datasets for made in imports(dataset.name)),
    output:
        [TABLES / name for name in GATHERED],
    log:
        LOGS / "aggregate.log",
    localrule: True
    shell:
        "reidablate aggregate --plan {PLAN:q} > {log:q} 2>&1"


rule statistics:
    input:
        TABLES / "runs.parquet",
        TABLES / "queries.parquet",
        TABLES / "history.parquet",
        TABLES / "cells.json",
        TABLES / "study.json",
        places.layers(places.CLAIMS, Path()),
        places.calibration(Path()),
    output:
        TABLES / "contrasts.parquet",
        TABLES / "claims.parquet",
        TABLES / "slices.parquet",
        TABLES / "joint.parquet",
    log:
        LOGS / "statistics.log",
    localrule: True
    shell:
        "reidablate statistics {ROOT:q} --study . > {log:q} 2>&1"
