"""The report as a file from strangers' data: it shows everything, runs nothing, and asks the network for nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from llm_jepa.experiments.results import RunResult, build_results
from llm_jepa.report.figures import plot_comparison
from llm_jepa.report.html import write_report
from llm_jepa.report.run_folders import NUM_EXAMPLES

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
    "\u202e\u2066right\x1b[31m to left\u0000\ud800 and half a character",
]
ROWS = 30


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

    def handle_data(self, data: str) -> None:
        self.text += data

    def value(self, tag: str, name: str) -> str:
        return next(value for t, n, value in self.values if (t, n) == (tag, name))


@pytest.fixture
def build(tmp_path) -> Callable[..., tuple[dict[str, Any], Path]]:
    """Build results and run folders of two arms, three seeds and `ROWS` rows, with `text` wherever data can be."""

    def build(text: str = "plain", values: dict[str, list[float]] | None = None, **changes: Any) -> Path:
        values = values or {"ntp": [0.30, 0.31, 0.29], "jepa": [0.40, 0.42, 0.41]}
        runs, folder = [], tmp_path / "out"
        for arm, by_seed in values.items():
            alarm = {"alarmed": arm == "jepa", "first_step": 5, "reason": f"Collapsed: {text}"}
            for seed, value in enumerate(by_seed, start=1):
                metrics = {"exact_match": value, "recall@1": 0.5, "recall@10": 0.9}
                runs.append(RunResult(arm, seed, metrics, alarm))
                write_run(folder / f"{arm}-s{seed}", arm, text)
        counts = {"rows_in": 40, "kept": 30, "dropped": {"leak": 7, text: 3}, "truncated": 1}
        data = {"summary": dict.fromkeys(("train", "validation", "test"), counts), "notes": [f"Left out: {text}"]}
        settings = {"seeds": [1, 2, 3], "train_file": text, text: 1, "data": data | {"sha256": {text: text}}}
        costs = {arm: {"step_time_ratio": 1.234, "flops_ratio": 1.17} for arm in values}
        return build_results(runs, settings=settings | changes, cost=costs), folder

    return build


def write_run(folder: Path, arm: str, text: str) -> None:
    """Write answers, of which each arm has every third right alone, and an environment."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "predictions.jsonl").open("w", encoding="utf-8") as file:
        for place in range(ROWS):
            right = place % 3 == ("ntp", "jepa").index(arm)
            row = {"text": f"{text} {place}", "gold": f"gold {text}", "output": f"gold {text}" if right else text}
            file.write(json.dumps(row | {"exact_match": right}) + "\n")
    (folder / "environment.json").write_text(json.dumps({"cpu": text, "packages": {"torch": text}, "command": []}))


@pytest.fixture
def report(build) -> Callable[..., tuple[Page, str]]:
    """Write a report; return it as parsed and as text."""

    def report(text: str = "plain", **options: Any) -> tuple[Page, str]:
        results, folder = build(text, **options)
        path = write_report(results, folder, plot_comparison(results, folder / "figures"), f"llm-jepa {text}")
        html = path.read_text(encoding="utf-8")
        return Page(html), html

    return report


@pytest.mark.parametrize("payload", HOSTILE, ids=range(len(HOSTILE)))
def test_no_text_of_the_data_becomes_markup(payload, report):
    """Texts, answers, names of files and settings, notes and alarms add no element, no attribute and no link."""
    (plain, _), (page, html) = report(), report(payload)
    assert page.elements == plain.elements
    assert page.names == plain.names
    assert "evil.example" not in "".join(value for *_, value in page.values)
    assert not [char for char in html if not char.isprintable() and char != "\n"]


def test_no_text_leaves_an_attribute(build):
    """A picture's name, which its description is made of, stays in its quotes."""
    results, folder = build()
    pictures = [folder / 'a" onload="alert(1)" x="b.svg', folder / "' onerror='alert(1).svg", folder / "<b>.svg"]
    for path in pictures:
        path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    page = Page(write_report(results, folder, pictures).read_text(encoding="utf-8"))
    assert {name for tag, name in page.names if tag == "img"} == {"src", "alt"}
    assert {value for tag, name, value in page.values if name == "alt"} == {path.stem for path in pictures}


def test_hostile_text_is_shown_as_it_is(report):
    """Escaped once, not twice; what no one can see stands there by its number."""
    for payload in HOSTILE[:-1]:
        page, _ = report(payload)
        assert page.text.count(payload) > 40  # in each example and in all other places
    page, _ = report(HOSTILE[-1])
    assert "<U+202E><U+2066>right<U+001B>[31m to left<U+0000><U+D800> and half" in page.text


def test_the_file_is_whole_and_may_load_and_run_nothing(report):
    """No script, no link; the policy forbids both, and names the hash of the one style sheet."""
    page, html = report()
    assert not {"script", "link", "iframe", "object", "embed", "base", "form", "a"} & set(page.elements)
    assert not [name for _, name in page.names if name.startswith("on") or name == "style"]
    loads = [value for _, name, value in page.values if name in ("src", "href", "srcset", "action", "data")]
    assert loads and all(value.startswith("data:image/svg+xml;base64,") for value in loads)
    assert not re.findall(r"url\(|@import|https?:", html)
    style = html[html.index("<style>") + 7 : html.index("</style>")]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = page.value("meta", "content")
    assert policy.startswith("default-src 'none';") and f"style-src 'sha256-{digest}'" in policy
    assert len(html.encode()) < 1_000_000


def test_the_first_screen_answers_the_question(report):
    """Question, answer with its interval, price; then the picture."""
    _, html = report()
    opening = " ".join(html[html.index("<h1>") : html.index("<h2>")].split())
    assert "Is jepa better than ntp?" in opening
    assert "<strong>Yes.</strong> Over 3 paired seeds, jepa reaches 41.0% exact match and ntp 30.0%" in opening
    assert "a difference of +11.0 points, 95% interval +8.5 to +13.5." in opening
    assert "1.23×" in opening and "1.17×" in opening
    assert "jepa collapsed in 3 of 3 runs." in opening
    assert opening.index("data:image/svg+xml") > opening.index("1.17×")


@pytest.mark.parametrize(
    ("values", "answer"),
    [
        ({"ntp": [0.4, 0.41, 0.4], "jepa": [0.3, 0.31, 0.29]}, "No, it is worse."),
        ({"ntp": [0.4, 0.41, 0.4], "jepa": [0.41, 0.40, 0.4]}, "No difference shown."),
        ({"ntp": [0.4], "jepa": [0.5]}, "one seed says nothing of the spread"),
        ({"ntp": [0.4, 0.4], "jepa": [0.4, 0.4]}, "the difference is the same in every seed"),
        ({"ntp": [0.4, 0.41]}, "Nothing to compare."),
    ],
    ids=["worse", "none", "one seed", "equal", "alone"],
)
def test_the_answer_is_the_verdict_and_no_more(values, answer, report):
    """Also where there is no interval, the sentence says why."""
    page, _ = report(values=values)
    assert answer in page.text


def test_examples_are_those_that_one_arm_alone_got_right(report):
    """Arms take turns, at most `NUM_EXAMPLES` are shown, and all are counted."""
    page, _ = report()
    words = " ".join(page.text.split())
    assert "with seed 1, 20 were answered rightly by a single arm: ntp 10, jepa 10." in words
    assert page.elements["article"] == NUM_EXAMPLES == 20
    assert words.index("plain 0") < words.index("plain 1 ") < words.index("plain 3 ")
    assert "plain 2 " not in words


def test_long_answers_are_cut_and_say_so(report):
    """A diff of a thousand lines does not push everything else away."""
    page, html = report("x" * 5_000)
    assert "… (5,002 characters)" in page.text
    assert len(html.encode()) < 1_000_000


def test_rows_left_out_and_machines_that_differ_are_told(build):
    """What a reader should doubt stands in the report."""
    results, folder = build()
    (folder / "jepa-s2" / "environment.json").write_text(json.dumps({"cpu": "another", "packages": {}}))
    page = Page(write_report(results, folder).read_text(encoding="utf-8"))
    words = " ".join(page.text.split())
    assert "leak 7, plain 3" in words and "Left out: plain" in words
    assert "Not the same in all runs: cpu, packages." in words


def test_the_same_folder_gives_the_same_bytes(build):
    """A report holds no date and no path of the machine that it was made on."""
    results, folder = build()
    first = write_report(results, folder).read_bytes()
    assert write_report(json.loads(json.dumps(results)), folder).read_bytes() == first
    assert str(folder).encode() not in first


def test_a_report_needs_no_run_folders(build, tmp_path):
    """results.json alone gives all but examples and environment."""
    results, _ = build()
    page = Page(write_report(results, tmp_path).read_text(encoding="utf-8"))
    assert "Is jepa better than ntp?" in page.text and page.elements["article"] == 0
