"""Two finished runs, compared from their records: no model is built and nothing is measured.

Read in this order: side (the records of one run), relative_cost (ratios across two sessions), rows
(what is judged), compare (the whole).
"""
