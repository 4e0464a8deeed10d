# Features -> scores of every query, on both sides of the neck.


rule evaluate:
    input:
        RUN + "/features.npz",
        RUN + "/provenance.json",
    output:
        RUN + "/queries.parquet",
        RUN + "/metrics.json",
    log:
        LOGS / "evaluate" / "{dataset}" / "{cell}" / "seed{seed}.log",
    shell:
        "reidablate evaluate $(dirname {output[0]}) 2> {log}"
