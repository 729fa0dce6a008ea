"""Tables as text, Markdown, LaTeX, CSV and one HTML page."""
