"""The report made from the tables of a study: one self-contained HTML file, figures and exports.

`render.render_report` writes the report; `exports.text_summary` is for the terminal.
"""
