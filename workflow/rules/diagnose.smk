# What a data set looks like, and what any model has to beat on it.


rule diagnose:
    input:
        initial_weights,
        DATA / "{dataset}" / "cache" / "cache.json",
    output:
        DATA / "{dataset}" / "diagnostics" / "floors.json",
        DATA / "{dataset}" / "diagnostics" / "samples.jpg",
    log:
        LOGS / "diagnose" / "{dataset}.log",
    wildcard_constraints:
        dataset=one_of(NEEDS.floors),
    shell:
        "reidablate diagnose --plan {PLAN:q} --dataset {wildcards.dataset} > {log:q} 2>&1"
