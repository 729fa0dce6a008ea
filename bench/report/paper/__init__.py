"""Published numbers beside counts of ours: paper.md, paper.tex, paper.csv.

lines    each published row with its record, its count and its verdict
render   the lines as Markdown, LaTeX, CSV and terminal text
"""
