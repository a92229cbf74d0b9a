"""The papers' claims, tested again: what each says, what it needs, how it is judged, and the result.

catalogue.json        every claim and its figures          catalogue.py, resources_needed.py
experiments/*.yaml    what is run, and what it decides     plan.py, plans.py, paper_protocol.py
a folder of runs      as `compare` makes it                reproduce.py
values by measure     what was measured of the runs        measures.py, records.py
a verdict             by one stated rule                   verdicts.py
docs/claims.md        all of this                          wording.py, claims_page.py; on the PDF: paper_notes.py
"""
