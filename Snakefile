# This checkout as a study of its own: the rules are in workflow/Snakefile.
include: "workflow/Snakefile"
