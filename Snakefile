# This checkout as a study of its own: the rules are in workflow/Snakefile.
include: "workflow/Snakefile"


workflow.default_target = "all"  # Snakemake forgets that of an included file
