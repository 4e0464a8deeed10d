# A study: every cell on every data set with every seed, from the images to the report.
#
#   snakemake --cores all --resources gpu=4
#
# Settings are in workflow/config/default.yaml and can be given for one call with --config key=value. The working
# directory is the study; a study elsewhere includes this file from the installed package.
import sys
from pathlib import Path

from reidablate import places
from reidablate.engine.devices import usable_gpus
from reidablate.errors import UserError, sentence
from reidablate.planning import plan
from reidablate.trees import merge
from reidablate.turn import Turn

try:
    STUDY = plan(merge(places.settings(Path()), config))
    PLAN = STUDY.write()
    TURN = Turn(STUDY.root) if workflow.is_main_process else None  # not in a job on another machine
    if TURN and TURN.undisturbed:
        STUDY.reindex_changed()
except (UserError, OSError) as error:
    print(f"reidablate: {sentence(error)}", file=sys.stderr)
    sys.exit(2)

ROOT = STUDY.root


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/diagnose.smk"
include: "workflow/rules/aggregate.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        ROOT / "report" / "index.html",
        [run_files(name) for name in RUN_FILES],
        [transfer_files(name) for name in TRANSFER_FILES],


onstart:
    for line in STUDY.notices:
        print(f"reidablate: {line}", file=sys.stderr)
    num_gpus = usable_gpus() if workflow.local_exec else None
    if reason := STUDY.refusal(gpu_limit=gpu_limit(), num_gpus=num_gpus):
        print(f"reidablate: {reason}", file=sys.stderr)
        sys.exit(2)
    TURN.take()


onerror:
    report_what_is_there()
    print_failures()
