"""Reports: running notebooks, what they record, their pages, the claims, and a comparison.

`results` is what a notebook records; `run` executes notebooks; `pages` makes HTML of them; `claims`
judges the paper's claims by the numbers of all notebooks; `verify` compares two reports.
"""
