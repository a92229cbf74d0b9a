"""An experiment's folder made by hand, with any text wherever text of data can be; what a browser makes of a page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llm_jepa.evaluation.kept_embeddings import StoredEmbeddings
from llm_jepa.experiments.build_results import build_results
from llm_jepa.experiments.equal_cost import Budget
from llm_jepa.experiments.results import Alarm, Cost, Results, RunResult
from llm_jepa.files import write_json_lines
from llm_jepa.geometry.view_geometry import view_geometry

LOADING = ("src", "srcset", "href", "xlink:href", "action", "formaction", "data", "poster", "background", "srcdoc")


class Page(HTMLParser):
    """What a browser would make of the file."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: Counter[str] = Counter()
        self.names: Counter[tuple[str, str]] = Counter()
        self.values: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        for name, value in attrs:
            self.names[tag, name] += 1
            self.values.append((tag, name, value or ""))

    def handle_endtag(self, tag: str) -> None:
        self.text += " " if tag in ("td", "th", "dt", "dd") else ""  # cells are separate

    def handle_data(self, data: str) -> None:
        self.text += data

    def value(self, tag: str, name: str) -> str:
        return next(value for t, n, value in self.values if (t, n) == (tag, name))

    @property
    def words(self) -> str:
        """The text, with single spaces."""
        return " ".join(self.text.split())

    @property
    def loads(self) -> list[str]:
        """Everything that an attribute would fetch, open or send to."""
        return [value for _, name, value in self.values if name in LOADING]


HOSTILE = [
    "<script>alert(1)</script>",
    "</style></pre></code></title><script src=//evil.example/x.js></script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)' x='",
    "<svg/onload=alert(1)><rect fill='url(https://evil.example/)'/></svg>",
    "{{ 7 * 7 }}{% include '/etc/passwd' %}{# gone #}",
    "--><iframe srcdoc='<b>x</b>'></iframe><!--",
    "<a href='javascript:alert(1)'>&lt;b&gt;&#60;i&#62;</a>",
    "]]><meta http-equiv=refresh content='0;url=https://evil.example/'>",
    # out of the element or the attribute that it is in
    "</title></g></svg><script>alert(1)</script>",
    "</svg><style>@import 'https://evil.example/a.css';</style>",
    "</text></svg><math><mi xlink:href='javascript:alert(1)'>x</mi></math>",
    "</td></tr></table></details></main></body></html><body onload=alert(1)>",
    '" autofocus onfocus="alert(1)" tabindex="1" x="',
    "x` onclick=alert(1) `",
    "x\nonmouseenter=alert(1)\n/",
    "<!--><img src=x onerror=alert(1)>-->",
    "<![CDATA[<img src=x onerror=alert(1)>]]>",
    "<?xml-stylesheet href='https://evil.example/a.xsl'?>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<template><script>alert(1)</script></template><xmp><b>",
    # what loads, sends or changes the page without a script
    "<link rel=stylesheet href=https://evil.example/a.css>",
    "<base href='https://evil.example/'><form action='https://evil.example/'><button>go</button></form>",
    "<object data='data:text/html,<script>alert(1)</script>'></object><embed src=x>",
    "<image href='https://evil.example/p.png'/><use xlink:href='https://evil.example/s.svg#x'/>",
    "<foreignObject><iframe src='https://evil.example/'></iframe></foreignObject>",
    "<animate attributeName=href values='javascript:alert(1)'/><set attributeName=onload to=alert(1)>",
    "<video poster='https://evil.example/p.png'><source src=x onerror=alert(1)></video>",
    "<div style='background:url(https://evil.example/p.png)' class=worse id=answer>",
    "javascript:alert(1)//https://evil.example/",
    # another language than HTML
    '</script>{"__proto__": {"x": 1}}\\u003cscript\\u003ealert(1)\\u003c/script\\u003e',
    "body{display:none}*{background:url(https://evil.example/p.png)}/*",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}${7*7}#{7*7}<%= 7*7 %>",
    "&lt;script&gt;&#x3C;img src=x onerror=alert(1)&#x3E;&NewLine;&Tab;&colon;",
    "+ADw-script+AD4-alert(1)+ADw-/script+AD4-",
    "\u202e\u2066right\x1b[31m to left\u0000\ud800 and half a character",
]
MARKDOWN_ENDS = "*bold* _x_ `code` | cell | ![i](https://evil.example/p.png) [l](javascript:alert(1)) www.evil.example"


def grid_with(text: str) -> dict[str, Any]:
    """A grid of two cells, with the text as a value, a name and a reason."""
    nothing = {"seeds": {}, "mean": None, "std": None, "n": 0}
    cells = [
        {"arm": f"cell {text}", "coordinates": {"jepa_k": value}, "validation": nothing, "test": nothing}
        for value in (1, text)
    ]
    cells = [cell | {"failed": {"1": text}, "chosen": False} for cell in cells]
    about = {"arm": f"grid {text}", "choose_by": "exact_match", "higher_is_better": True, "metric": "exact_match"}
    return about | {"axes": {"jepa_k": [1, text]}, "chosen": None, "cells": cells}


def with_text_everywhere(results: Results, text: str) -> Results:
    """Add an arm that is named by the text, a note, a grid, a comparison at equal FLOPs with a note."""
    values = {"ntp": (0.3, 0.31), "jepa": (0.4, 0.42), f"arm {text}": (0.5, 0.5)}
    runs = [RunResult(arm, seed, {"exact_match": v}) for arm, by in values.items() for seed, v in enumerate(by, 1)]
    alarm = Alarm(alarmed=True, first_step=3, reason=f"Collapsed: {text}")
    runs = [replace(run, alarm=alarm) for run in runs]
    compared = build_results(runs, cost=dict.fromkeys(values, Cost(1.5, 1.25)))
    named = replace(compared, settings=results.settings).to_json()
    budget = Budget("flops", f"arm {text}", "ntp", 5, 5, 1.0, 1.0).record
    again = named | {"budgets": {f"arm {text}": budget}, "notes": [f"Steps: {text}"]}
    full = {"grids": {"grid": grid_with(text)}, "notes": [f"Note: {text}"], "equal_flops": again}
    return Results.from_json(named | full)


def make_experiment(
    folder: Path,
    arms: Sequence[str] = ("ntp", "jepa"),
    seeds: Sequence[int] = (1, 2, 3),
    num_rows: int = 30,
    text: str = "plain",
    num_pairs: int = 24,
    **settings: Any,
) -> Results:
    """Make runs that differ a little; those of the second arm have collapsed, each at its own step."""
    random = np.random.default_rng(0)
    runs = []
    for place, arm in enumerate(arms):
        for seed in seeds:
            right = random.random(num_rows) < 0.3 + 0.1 * (place > 0) + 0.02 * random.standard_normal()
            alarm = Alarm(alarmed=place == 1, first_step=20 + 10 * (seed % 2), reason=f"Collapsed: {text}")
            times = {"training_time_s": 600.0, "evaluation_time_s": 60.0, "total_time_s": 700.0}
            metrics = {"exact_match": float(right.mean()), "recall@1": 0.5, "recall@10": 0.9, **times}
            runs.append(RunResult(arm, seed, metrics, alarm if place else None))
            curve = _curve(place, random)
            _write_run(folder / f"{arm}-s{seed}", right, text, place, num_pairs)
            write_json_lines(folder / f"{arm}-s{seed}" / "metrics.jsonl", curve)
    counts = {"rows_in": 40, "kept": num_rows, "dropped": {"leak": 7, text: 3}, "truncated": 1}
    data = {"summary": dict.fromkeys(("train", "validation", "test"), counts), "notes": [f"Left out: {text}"]}
    given = {"seeds": list(seeds), "train_file": text, text: 1, "data": data | {"sha256": {text: text}}} | settings
    costs = {arm: Cost(1 + 0.2 * i, 1 + 0.17 * i) for i, arm in enumerate(arms)}
    return replace(build_results(runs, baseline=arms[0], cost=costs), settings=given)


def _curve(place: int, random: np.random.Generator) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for step in range(10, 110, 10):
        falling = 3 / (1 + step / 30) + 0.05 * random.standard_normal()
        lines += [{"step": step, "ce_loss": falling, "jepa_loss": falling / 5 if place else None}]
        look = {"monitor/gap": 0.02 * place, "monitor/retrieval@1": 0.1 * place, "monitor/effective_rank": 20 - place}
        lines += [{"step": step, "eval_ce_loss": falling + 0.1, "eval_exact_match": step / 300, **look}]
    return lines


def _write_run(folder: Path, right: np.ndarray, text: str, place: int, num_pairs: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "predictions.jsonl").open("w", encoding="utf-8") as file:
        for row, is_right in enumerate(right):
            line = {"text": f"{text} {row}", "gold": f"gold {text}", "output": f"gold {text}" if is_right else text}
            file.write(json.dumps(line | {"exact_match": bool(is_right)}) + "\n")
    (folder / "environment.json").write_text(json.dumps({"cpu": text, text: 1, "packages": {"torch": text}}))
    embeddings(text, place, num_pairs).write(folder / "embeddings.safetensors")


def embeddings(text: str = "plain", noise: float = 1.0, num_pairs: int = 24) -> StoredEmbeddings:
    """Both views of some pairs, further from each other the more noise there is."""
    draw = torch.Generator().manual_seed(0)
    code = torch.randn(num_pairs, 8, generator=draw)
    moved = code + noise * torch.randn(num_pairs, 8, generator=draw)
    pairs = [{"source": f"{text}:{n}", "text": f"{text} {n}", "code": f"code {text}"} for n in range(num_pairs)]
    groups = torch.arange(num_pairs)
    return StoredEmbeddings(moved, code, groups, "pred", "Pred(Enc(Text)), Enc(Code)", "test", text, num_pairs, pairs)


@cache
def _found() -> dict[str, Any]:
    kept = embeddings()
    return asdict(view_geometry(kept.text_pred, kept.code_emb))


def make_geometry(names: Sequence[str] = ("ntp", "jepa"), text: str = "plain") -> dict[str, Any]:
    """Return a geometry.json of some runs, with a text in every place where text of data can be."""
    found = _found()
    places = found["embedding_map"]["places"]
    return {
        "schema": 1,
        "split": "test",
        "file": f"{text}.jsonl",
        "num_rows": 24,
        "num_pairs": 24,
        "num_codes": 24,
        "precision": "float32 models, float64 algebra",
        "reading": "training",
        "ridge": 0.0,
        "seed": 0,
        "notes": [f"Note: {text}"],
        "mapped_pairs": [
            {"source": f"{text}:{place}", "text": f"{text} {place}", "code": f"code {text}"} for place in places
        ],
        "runs": {
            name: {
                "folder": text,
                "objective": {"jepa_k": 1, text: text},
                "num_dims": 8,
                "sides": {"enc": {"views": "Enc(Text), Enc(Code)"} | found}
                | ({"pred": {"views": "Pred(Enc(Text)), Enc(Code)"} | found} if number else {}),
            }
            for number, name in enumerate(names)
        },
    }
