"""The report as a file from strangers' data: it shows everything, runs nothing, and asks the network for nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from report_cases import HOSTILE, MARKDOWN_ENDS, with_text_everywhere

from llm_jepa.experiments.build_results import build_results
from llm_jepa.experiments.results import Results, RunResult
from llm_jepa.experiments.sentences import Answer, answer_of, collapses_of
from llm_jepa.report.content import price_of
from llm_jepa.report.figures import plot_comparison, plot_curves
from llm_jepa.report.geometry_report import geometry_page
from llm_jepa.report.markdown import experiment_markdown, geometry_markdown
from llm_jepa.report.page import write_report
from llm_jepa.report.run_details import NUM_EXAMPLES, curves_of


@pytest.fixture(scope="module")
def drawn(make_experiment, tmp_path_factory) -> list[Path]:
    """Pictures of an experiment, drawn once."""
    folder = tmp_path_factory.mktemp("drawn")
    results = make_experiment(folder)
    curves = curves_of(results, folder)
    return [*plot_comparison(results, folder), *plot_curves(curves, ["accuracy"], folder)]


@pytest.fixture(scope="module")
def render(make_experiment, make_geometry, drawn, tmp_path_factory) -> Callable[[str], str]:
    """Return the page of an experiment with a text in every place where text of data can be."""
    folder = tmp_path_factory.mktemp("page")

    @cache
    def render(text: str) -> str:
        results = make_experiment(folder, num_rows=9, text=text)
        geometry = make_geometry(("ntp", f"arm {text}"), text)
        full = with_text_everywhere(results, text)
        return write_report(full, folder, drawn, f"llm-jepa {text}", geometry).read_text(encoding="utf-8")

    return render


@pytest.fixture(scope="module")
def render_analysis(make_geometry) -> Callable[[str], str]:
    """Return the page of `analyze` with a text in every place where text of data can be."""

    @cache
    def render(text: str) -> str:
        geometry = make_geometry(("ntp", f"run {text}"), text)
        return geometry_page(geometry, [], f"llm-jepa {text}", {"cpu": text, text: 1})

    return render


@pytest.fixture
def report(make_experiment, drawn, read_page, tmp_path) -> Callable[..., tuple[Any, str]]:
    """Write the report of an experiment; return it as parsed and as text."""

    def report(values: dict[str, list[float]] | None = None, **options: Any) -> tuple[Any, str]:
        results = make_experiment(tmp_path, **options)
        if values is not None:
            runs = [RunResult(arm, s, {"exact_match": v}) for arm, by in values.items() for s, v in enumerate(by, 1)]
            results = replace(build_results(runs), settings=results.settings)
        html = write_report(results, tmp_path, drawn, "llm-jepa compare").read_text(encoding="utf-8")
        return read_page(html), html

    return report


# ---- text of data stays text ----


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["render", "render_analysis"])
def test_hostile_text_is_shown_as_it_is(kind, request, read_page):
    """Escaped once, not twice; invisible characters are shown by their number."""
    render = request.getfixturevalue(kind)
    for payload in HOSTILE[:-1]:
        assert read_page(render(payload)).text.count(payload) > 30, payload
    assert "<U+202E><U+2066>right<U+001B>[31m to left<U+0000><U+D800> and half" in read_page(render(HOSTILE[-1])).text


def test_a_point_of_a_map_shows_its_texts_and_its_code(render, read_page):
    """In a title of an SVG in the page itself, because the title of an image is not shown."""
    html = render("a <b> & c")
    titles = re.findall(r"<g><title>(.*?)</title>", html, flags=re.DOTALL)
    assert len(titles) == 2 * 2 * 24  # two maps of two runs, each with all pairs
    assert titles[0].startswith("a &lt;b&gt; &amp; c 0\ncode a &lt;b&gt; &amp; c\na &lt;b&gt; &amp; c:0\ncosine ")
    assert read_page(html).elements["circle"] >= len(titles)


def test_no_text_leaves_an_attribute(make_experiment, read_page, tmp_path):
    """A picture's name, which its description is made of, stays in its quotes."""
    results = make_experiment(tmp_path)
    pictures = [tmp_path / 'a" onload="alert(1)" x="b.svg', tmp_path / "' onerror='alert(1).svg", tmp_path / "<b>.svg"]
    for path in pictures:
        path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    page = read_page(write_report(results, tmp_path, pictures).read_text(encoding="utf-8"))
    assert {name for tag, name in page.names if tag == "img"} == {"src", "alt"}
    assert {value for tag, name, value in page.values if name == "alt"} == {path.stem for path in pictures}


@pytest.mark.parametrize("text", [*HOSTILE, MARKDOWN_ENDS])
def test_no_text_of_the_data_becomes_markdown(text, make_experiment, make_geometry, tmp_path):
    """No further element, link, image, cell or heading; the content of a block of code stays in it."""
    results = make_experiment(tmp_path, num_rows=9, text=text)
    full, geometry = with_text_everywhere(results, text), make_geometry(("ntp", f"run {text}"), text)
    environment = {"values": {"cpu": text}, "differing": [text]}
    about = {"settings": f"a: {text}", "environment": environment, "geometry": geometry, "command": text}
    written = [experiment_markdown(full, [], tmp_path, **about)]
    written.append(geometry_markdown(geometry, Answer(text, text, text), "enc", text))
    for markdown in written:
        outside = re.sub(r"^(`{3,})\w*\n.*?^\1$", "", markdown, flags=re.DOTALL | re.MULTILINE)
        assert not re.search(r"<(?!embedding_map_enc\.png>|singular_values\.png>)|://|(?<!\\)\]\(javascript", outside)
        widths = [len(re.findall(r"(?<!\\)\|", line)) for line in outside.splitlines() if line.startswith("|")]
        assert len(set(widths)) <= 7 and min(widths) > 2  # each table of one width
        assert outside.count("\n# ") == 0 and markdown.startswith("# ")


# ---- what the file holds ----


def test_the_file_is_whole_and_may_load_and_run_nothing(render, read_page):
    """No script, no link; the policy forbids both, and names the hash of the one style sheet."""
    html = render("plain")
    page = read_page(html)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form", "a", "use", "image"} & set(page.elements)
    assert page.loads and not re.findall(r"url\(|@import|https?:", html)
    style = html[html.index("<style>") + 7 : html.index("</style>")]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = page.value("meta", "content")
    assert policy.startswith("default-src 'none';") and f"style-src 'sha256-{digest}'" in policy
    assert len(html.encode()) < 1_000_000


def test_the_first_screen_answers_the_question(report):
    """Question, answer with its interval, price, alarm; then the picture, and on a phone the narrow one."""
    values = {"ntp": [0.30, 0.31, 0.29], "jepa": [0.40, 0.42, 0.41]}
    _, html = report(values)
    opening = " ".join(html[html.index("<h1>") : html.index("<h2>")].split())
    assert "Is jepa better than ntp?" in opening
    assert (
        "<strong>Yes; no control was run.</strong> Over 3 paired seeds, jepa reaches 41.0% exact match and ntp 30.0%"
        in opening
    )
    assert "a difference of +11.0 points, 95% interval +8.5 to +13.5." in opening
    assert opening.index("better than ntp") < opening.index("41.0%") < opening.index("data:image/svg+xml")
    assert '<source media="(max-width: 40rem)" srcset="data:image/svg+xml' in opening


@pytest.mark.parametrize(
    ("values", "caption"),
    [
        ({"ntp": [0.3, 0.4]}, "Each seed's value and the mean."),
        ({"ntp": [0.3], "jepa": [0.4]}, "Each seed's value and the mean, and the differences to the baseline."),
        (
            {"ntp": [0.3, 0.31, 0.29], "jepa": [0.4, 0.42, 0.41]},
            "Each seed's value and the mean, and the differences to the baseline with their 95% intervals.",
        ),
    ],
)
def test_the_caption_names_what_is_in_the_picture(values, caption, report):
    """No differences without a second arm, and no intervals of one seed."""
    _, html = report(values)
    assert f"<figcaption>{caption}</figcaption>" in unescape(html)


def test_the_price_stands_before_the_picture(report):
    """What a step of the first arm costs, how long all runs took, and which arms collapsed."""
    _, html = report()
    opening = " ".join(html[html.index("<h1>") : html.index("data:image")].split())
    assert "a step of jepa takes 1.20× the time and 1.17× the FLOPs of one of ntp" in opening
    assert "6 runs trained for 60 min in all, were evaluated for 6 min, and took 70 min." in opening
    assert "jepa collapsed in 3 of 3 runs, of which none recovered." in opening


def test_the_question_is_that_of_the_first_arm_with_a_jepa_term(make_experiment, tmp_path):
    """Whatever came out: a control or another baseline that is named before it is not what the report opens with."""
    results = make_experiment(tmp_path, ("ntp", "labelled_only", "jepa", "jepa_shuffled"))
    results = replace(results, headline="jepa")
    assert answer_of(results).question == "Is jepa better than ntp?"
    assert price_of(results).startswith("a step of jepa takes 1.40× the time")
    assert answer_of(replace(results, headline=None)).question == "Is labelled_only better than ntp?"


def test_where_no_run_has_anything_right_the_answer_is_that_nothing_can_be_seen(make_experiment, tmp_path):
    """ "No difference shown" would read as a precise null."""
    results = make_experiment(tmp_path)
    reason = "every run of both is at 0%, where no difference can be seen"
    first = replace(results.main.comparisons[0], delta=0.0, ci=None, p_holm=None, reason=reason)
    answer = answer_of(replace(results, tests={"test": replace(results.main, comparisons=(first,))}))
    assert answer.short == "Nothing can be seen." and reason in answer.sentence


def test_a_collapse_that_was_overcome_is_told_as_such(make_experiment, tmp_path):
    results = make_experiment(tmp_path)
    alarms = results.arms["jepa"].alarms
    alarms[2] = replace(alarms[2], recovered=True)
    assert collapses_of(results.main) == ["jepa collapsed in 3 of 3 runs, of which 1 recovered"]


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


def test_examples_are_those_that_one_arm_alone_got_right(make_experiment, read_page, tmp_path):
    """Arms take turns, at most `NUM_EXAMPLES` are shown, and all are counted."""
    results = make_experiment(tmp_path)
    for place, arm in enumerate(("ntp", "jepa")):  # each has every third row right alone
        rows = [{"text": f"row {n} ", "gold": "a", "output": "a", "exact_match": n % 3 == place} for n in range(30)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{arm}-s1" / "predictions.jsonl").write_text(lines)
    page = read_page(write_report(results, tmp_path).read_text(encoding="utf-8"))
    assert "with seed 1, 20 were answered correctly by only one arm: ntp 10, jepa 10." in page.words
    assert page.elements["article"] == NUM_EXAMPLES == 20
    assert page.words.index("row 0 ") < page.words.index("row 1 ") < page.words.index("row 3 ")
    assert "row 2 " not in page.words


def test_long_answers_are_cut_and_say_so(report):
    """A diff of a thousand lines does not push everything else away."""
    page, html = report(text="x" * 5_000)
    assert "… (5,002 characters)" in page.text
    assert len(html.encode()) < 1_000_000


def test_rows_left_out_and_machines_that_differ_are_told(make_experiment, read_page, tmp_path):
    """The report has what a reader should doubt."""
    results = make_experiment(tmp_path)
    (tmp_path / "jepa-s2" / "environment.json").write_text(json.dumps({"cpu": "another", "packages": {}, "plain": 1}))
    page = read_page(write_report(results, tmp_path).read_text(encoding="utf-8"))
    assert "leak 7, plain 3" in page.words and "Left out: plain" in page.words
    assert "Not the same in all runs: cpu, packages." in page.words


def test_the_same_folder_gives_the_same_bytes(make_experiment, make_geometry, tmp_path):
    """A report holds no date and no path of the machine that it was made on."""
    results = make_experiment(tmp_path)
    geometry = make_geometry()
    first = write_report(results, tmp_path, geometry=geometry).read_bytes()
    again = Results.from_json(json.loads(json.dumps(results.to_json())))
    assert write_report(again, tmp_path, geometry=json.loads(json.dumps(geometry))).read_bytes() == first
    assert str(tmp_path).encode() not in first


def test_a_report_needs_no_run_folders(make_experiment, read_page, tmp_path):
    """results.json alone gives all but examples, environment and embeddings."""
    results = make_experiment(tmp_path / "runs")
    page = read_page(write_report(results, tmp_path).read_text(encoding="utf-8"))
    assert "Is jepa better than ntp?" in page.text and page.elements["article"] == 0


# ---- the report of `analyze` ----


def test_the_report_of_an_analysis_answers_with_an_interval_too(make_geometry, read_page):
    """Question, share of texts that find their codes (with its interval, and chance), cost, maps; then the rest."""
    geometry = make_geometry(("ntp", "jepa"))
    for run, side, share in (("ntp", "enc", 0.0), ("jepa", "pred", 0.5)):
        found = geometry["runs"][run]["sides"][side]
        retrieval = found["retrieval"] | {"recall@1": share}
        geometry["runs"][run]["sides"][side] = found | {"retrieval": retrieval, "looks_collapsed": run == "jepa"}
    html = geometry_page(geometry, [], "llm-jepa analyze x", {})
    opening = read_page(html[html.index("<h1>") : html.index("<svg")]).words
    assert "Do texts find their own codes?" in opening
    assert "More often than with one code for all in 1 of 2 runs." in opening
    assert "In jepa, 50.0% (95% interval 31.4 to 68.6) of 24 texts are nearest to their own code, among 24" in opening
    assert "; in ntp 0.0% (95% interval 0.0 to 13.8); " in opening
    assert "with the same code for all it would be 4.2%" in opening
    assert "Collapsed, by these pairs: jepa." in opening and "Cost: no training" in opening
    page = read_page(html)
    assert "It proves nothing" in page.words and "llm-jepa analyze x" in page.words
    assert page.elements["details"] == 2  # the pairs at both ends, of each side, for whoever cannot point
