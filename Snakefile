# A study: every cell on every data set with every seed, from the images to the report.
#
#   snakemake --cores all --resources gpu=4
#
# Settings are in workflow/config/default.yaml and can be given for one call with --config key=value. The working
# directory is the study; a study elsewhere includes this file from the installed package.
import sys
from pathlib import Path

from reidablate import places
from reidablate.errors import refusal
from reidablate.planning import plan
from reidablate.scope import write_scope
from reidablate.selecting import as_written
from reidablate.standing import Standing
from reidablate.trees import merge
from reidablate.turn import Turn, only_looks, start_over
from reidablate.warm import release_hosts, start_host

try:
    CONFIG = merge(places.settings(Path()), as_written(config, workflow.config_settings.config_args))
    STUDY = plan(CONFIG)
    if workflow.is_main_process:  # not in a job on another machine
        TURN = Turn(STUDY.root, wait=not only_looks(sys.argv))
        STUDY = plan(CONFIG) if TURN.waited else STUDY
        for line in STUDY.notices:
            print(f"reidablate: {line}", file=sys.stderr)
        if TURN.undisturbed:
            STUDY.reindex_changed()
    NEEDS = Standing(STUDY).needs
    for line in NEEDS.damaged if workflow.is_main_process else []:
        print(f"reidablate: {line}", file=sys.stderr)
    if workflow.is_main_process and only_looks(sys.argv):
        print(NEEDS.in_words(), file=sys.stderr)
    elif workflow.is_main_process and NEEDS.nothing:  # Snakemake starts nothing, so the plan is kept now
        STUDY.write()
        write_scope(STUDY)
except Exception as error:
    if (words := refusal(error)) is None:
        raise
    print(f"reidablate: {words}", file=sys.stderr)
    sys.exit(2)

PLAN = STUDY.path
ROOT = STUDY.root


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/diagnose.smk"
include: "workflow/rules/aggregate.smk"
include: "workflow/rules/report.smk"


if workflow.is_main_process and only_looks(sys.argv):
    print_refusals()


rule all:
    default_target: True
    input:
        everything,


onstart:
    if print_refusals():
        sys.exit(2)
    TURN.take()
    STUDY.write()
    write_scope(STUDY)
    ask_wandb()
    if workflow.local_exec and len(NEEDS.train) + len(NEEDS.transfer) + len(NEEDS.evaluate) + len(EXPLAINED) > 1:
        start_host(*["reidablate.diagnostics.cell"] * bool(EXPLAINED))


onsuccess:
    send_verdicts()
    name_report()
    name_missing()
    look_further()


onerror:
    report_what_is_there()
    print_failures()
    send_verdicts()
    name_report()
