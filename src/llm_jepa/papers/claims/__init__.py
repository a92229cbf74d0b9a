"""The papers' claims, re-tested: what each says, what it needs, how it is judged, and what came out.

catalogue.json        every claim and its figures          catalogue.py
experiments/*.yaml    what is run, and what it decides     plans.py, full.py
one folder of runs    compare's own                        reproduce.py, prepare.py
values by measure     what the runs say                    measures.py, records.py
a verdict             by one stated rule                   verdicts.py, judging.py
docs/claims.md        all of it                            page.py
"""
