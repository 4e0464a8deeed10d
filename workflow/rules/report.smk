# Tables -> one self-contained HTML file.


rule report:
    input:
        tables=[
            TABLES / name
            for name in (
                "runs.parquet",
                "metrics.parquet",
                "queries.parquet",
                "history.parquet",
                "floors.parquet",
                "camera_pairs.parquet",
                "cross_domain.parquet",
                "imported.parquet",
                "contrasts.parquet",
                "claims.parquet",
                "slices.parquet",
                "cells.json",
                "study.json",
            )
        ],
        templates=places.templates(Path()),
    output:
        report(
            ROOT / "report" / "index.html",
            category="Report",
            caption="../captions/report.rst",
        ),
        report(
            ROOT / "report" / "exports" / "main_table.csv",
            category="Tables",
            caption="../captions/main_table.rst",
        ),
    log:
        LOGS / "report.log",
    localrule: True
    shell:
        "reidablate report {ROOT} --study . 2> {log}"
