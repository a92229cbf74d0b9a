"""The papers' claims, re-tested: what each says, what it needs, how it is judged, and what came out.

catalogue.json        every claim and its figures          catalogue.py, resources_needed.py
experiments/*.yaml    what is run, and what it decides     plan.py, plans.py, paper_protocol.py
one folder of runs    compare's own                        reproduce.py
values by measure     what the runs say                    measures.py, records.py
a verdict             by one stated rule                   verdicts.py
docs/claims.md        all of it                            wording.py, claims_page.py; paper_notes.py on the PDF
"""
