# Images -> index -> cache. A generated set is written first; a real one is only read, and indexed again while planning
# when its files changed (Study.reindex_changed).
from reidablate.artifacts import canonical_json

if STUDY.preset.synthetic:

    rule synthesize:
        output:
            DATA / "{dataset}" / "images" / "SYNTHETIC",
        log:
            LOGS / "synthesize" / "{dataset}.log",
        params:
            recipe=lambda wildcards: canonical_json(STUDY.synthetic_recipe(wildcards.dataset)),
        shell:
            'reidablate data synthesize "$(dirname {output:q})" --recipe {params.recipe:q} 2> {log:q}'


rule index:
    input:
        generated_images,
    output:
        DATA / "{dataset}" / "index" / "index.json",
        DATA / "{dataset}" / "index" / "index.parquet",
    log:
        LOGS / "index" / "{dataset}.log",
    threads: 2
    shell:
        "reidablate data index --plan {PLAN:q} --dataset {wildcards.dataset} --workers {threads} 2> {log:q}"


rule cache:
    input:
        DATA / "{dataset}" / "index" / "index.json",
    output:
        DATA / "{dataset}" / "cache" / "cache.json",
    log:
        LOGS / "cache" / "{dataset}.log",
    threads: 2
    params:
        size=STUDY.preset.model["image_size"],
    shell:
        "reidablate data cache --plan {PLAN:q} --dataset {wildcards.dataset} --workers {threads} 2> {log:q}"
