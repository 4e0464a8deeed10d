"""Tables of all runs, and the report made from them: one self-contained HTML file, figures and exports.

`aggregate` gathers the runs; `render.render_report` writes the report; `exports.text_summary` is for the terminal.
"""
