"""Reports for people who were not there: a fitted law, or a whole study, as Markdown and as one self-contained page.

`document` holds a report's blocks and writes them, `page` makes the HTML, and `fit_report` and `study_report` say what is
in a report.
"""
