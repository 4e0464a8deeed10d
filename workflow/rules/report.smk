# Tables -> one self-contained HTML file.


rule report:
    input:
        tables=[TABLES / name for name in ALL_TABLES],
        templates=places.templates(Path()),
        pages=ancient(pages()),  # a page that is made again has the report rendered by `stale`
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
        "reidablate report {ROOT:q} --study . > {log:q} 2>&1"
