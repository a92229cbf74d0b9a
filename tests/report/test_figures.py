"""Figures: the right numbers in the right place, legible, and no trace left in the process."""

from __future__ import annotations

import math
import sys
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from llm_jepa.evaluation.evaluate import BY_LIKELIHOOD
from llm_jepa.evaluation.scorers import ALIASES, NAMES
from llm_jepa.experiments.build_results import build_results
from llm_jepa.experiments.results import Alarm, Results, RunResult
from llm_jepa.experiments.sentences import format_p
from llm_jepa.report import drawing
from llm_jepa.report.figures import (
    FIGURES,
    OTHER_SCORES,
    _draw_panel,
    alarm_steps,
    plot_comparison,
    plot_curves,
    summarize_seeds,
)

SVG = "{http://www.w3.org/2000/svg}"


def rows(level: float, steps=(0, 10, 20)) -> list[dict]:
    """Rows as metrics.jsonl holds them: training rows and held-out checks mixed."""
    out: list[dict] = []
    for step in steps:
        out.append({"step": step, "ce_loss": level, "jepa_loss": level / 2, "loss": 1.5 * level, "tokens_per_s": 9})
        out.append({"step": step, "monitor/gap": level, "monitor/retrieval@1": level, "eval_exact_match": level})
    return out


def results_of(num_arms: int = 3) -> Results:
    names = ["ntp", *(f"arm-{i}" for i in range(1, num_arms))]
    return build_results(
        [
            RunResult(arm, seed, {"exact_match": 0.7 + 0.01 * i + 0.002 * ((seed * (i + 3)) % 5)})
            for i, arm in enumerate(names)
            for seed in range(6)
        ]
    )


def texts(path) -> list[str]:
    return ["".join(element.itertext()) for element in ElementTree.parse(path).iter(f"{SVG}text")]


# ---- numbers ----


def test_a_curve_is_mean_lowest_and_highest_over_seeds():
    """Three seeds by hand, one of which stopped early."""
    curve = summarize_seeds({1: rows(1.0), 2: rows(2.0), 3: rows(6.0, steps=(0, 10))}, "ce_loss")
    assert curve.steps.tolist() == [0, 10, 20]
    assert curve.mean.tolist() == [3, 3, 1.5]
    assert curve.low.tolist() == [1, 1, 1]
    assert curve.high.tolist() == [6, 6, 2]


def test_monitors_are_found_with_and_without_their_prefix():
    """metrics.jsonl says `monitor/gap`; a figure asks for `gap`."""
    assert summarize_seeds({1: [{"step": 5, "monitor/gap": 0.3}]}, "gap").mean.tolist() == [0.3]
    assert summarize_seeds({1: [{"step": 5, "gap": 0.3}]}, "gap").mean.tolist() == [0.3]


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "0.3", True])
def test_what_is_no_number_is_a_gap(value):
    """nan, null and text are skipped; a curve of nothing else is None."""
    assert summarize_seeds({1: [{"step": 5, "gap": value}]}, "gap") is None
    curve = summarize_seeds({1: [{"step": 5, "gap": value}, {"step": 6, "gap": 0.5}]}, "gap")
    assert curve.steps.tolist() == [6]


def test_a_step_logged_twice_after_a_resume_counts_once():
    """The later row is the run that went on."""
    curve = summarize_seeds(
        {1: [{"step": 5, "gap": 0.1}, {"step": 5, "gap": 0.4}], 2: [{"step": 5, "gap": 0.6}]}, "gap"
    )
    assert curve.mean.tolist() == [0.5]


# ---- files ----


def test_each_figure_is_written_as_svg_and_png(tmp_path):
    """The four figures, named for what they show."""
    written = plot_curves({"ntp": {1: rows(1.0)}, "jepa": {1: rows(0.5), 2: rows(0.6)}}, None, tmp_path / "new")
    names = ["curves_loss", "curves_accuracy", "curves_jepa_loss", "curves_monitors"]
    assert [path.name for path in written] == [f"{name}.{kind}" for name in names for kind in ("svg", "png")]
    for path in written:
        assert path.stat().st_size > 2000
        assert path.read_bytes().startswith(b"\x89PNG" if path.suffix == ".png" else b"<?xml")


def test_charts_without_values_are_left_out(tmp_path):
    """Plain training has no monitors and a JEPA distance of nan: no empty frames."""
    plain = {"ntp": {1: [{"step": s, "ce_loss": 1.0, "jepa_loss": math.nan} for s in range(3)]}}
    assert [path.name for path in plot_curves(plain, None, tmp_path)] == ["curves_loss.svg", "curves_loss.png"]
    assert plot_curves({}, None, tmp_path) == []
    assert plot_curves({"ntp": {1: []}}, None, tmp_path) == []


def test_curves_are_labelled_with_arms_and_units(tmp_path):
    """Text stays text in the SVG: titles, units and arms can be read and searched."""
    written = plot_curves({"ntp": {1: rows(0.2)}, "_jepa$k$": {1: rows(0.5)}}, ["loss", "accuracy"], tmp_path)
    loss, accuracy = texts(written[0]), texts(written[2])
    assert {"ntp", "_jepa$k$", "Cross-entropy, training", "nats per token", "optimizer step"} <= set(loss)
    assert {"Exact match, held out", "%"} <= set(accuracy)


def test_alarms_are_marked_at_the_step_from_which_the_views_had_collapsed(tmp_path):
    """On the charts of embeddings alone: a flag a step, with how many runs where it is more than one."""
    runs = {"ntp": {1: rows(0.2)}, "jepa": {seed: rows(0.1 * seed) for seed in (1, 2, 3)}}
    steps = {1: 10, 2: 10, 3: 20}
    alarms = {"jepa": {seed: Alarm(alarmed=True, first_step=step) for seed, step in steps.items()}}
    alarms["jepa"][4] = Alarm(alarmed=False)
    assert alarm_steps(alarms) == {"jepa": {10: 2, 20: 1}}
    written = plot_curves(runs, ["monitors", "loss"], tmp_path, alarms)
    monitors, loss = texts(written[0]), texts(written[2])
    assert monitors.count("2 runs") == 2 and "collapse alarm, from this step on" in monitors  # two charts
    assert "collapse alarm, from this step on" not in loss


def test_a_figure_is_next_to_its_narrow_form(tmp_path):
    """In one column, for a phone; not among the files returned, which are shown in full."""
    wide = plot_curves({"ntp": {1: rows(0.2)}}, ["monitors"], tmp_path)[0]
    narrow = wide.with_stem("curves_monitors_narrow")
    width, height = (ElementTree.parse(path).getroot().get("width") for path in (wide, narrow))
    assert float(width.removesuffix("pt")) > 1.5 * float(height.removesuffix("pt"))
    assert set(texts(narrow)) >= {"ntp", "Gap, matched minus shuffled", "Retrieval@1, text to code"}


def test_what_no_one_can_see_is_no_part_of_a_figure(tmp_path):
    """Control characters, which XML refuses, and marks that turn the direction are replaced."""
    runs = {"a\x00\x1b\u202e": {1: rows(0.2)}}
    written = plot_curves(runs, ["loss"], tmp_path)
    assert "a\N{REPLACEMENT CHARACTER}" + 2 * "\N{REPLACEMENT CHARACTER}" in texts(written[0])


def test_the_comparison_shows_values_differences_and_verdicts(tmp_path):
    """Each arm with its verdict in words; the axes with their units."""
    results = results_of()
    svg, png = plot_comparison(results, tmp_path)
    shown = texts(svg)
    assert {"ntp", "arm-1", "arm-2", "Exact match, by seed", "Difference to ntp"} <= set(shown)
    assert any(text.startswith("points") for text in shown) and any(text.startswith("%") for text in shown)
    for comparison in results.main.comparisons:
        assert any(text == f"{100 * comparison.delta:+.1f}  {comparison.verdict}" for text in shown)
    assert png.exists()


def test_an_interval_without_zero_of_an_arm_that_is_not_shown_to_differ_has_the_corrected_p(tmp_path):
    """Where Holm's correction alone decides; the other arm has the verdict only."""
    values = {"ntp": (0.2, 0.21, 0.2), "one": (0.14, 0.13, 0.165), "two": (0.2, 0.22, 0.2), "three": (0.2, 0.2, 0.22)}
    results = build_results(
        [RunResult(arm, seed, {"exact_match": x}) for arm, each in values.items() for seed, x in enumerate(each)]
    )
    svg, _ = plot_comparison(results, tmp_path)
    lines = [text for text in texts(svg) if "Holm" in text]
    (one,) = (each for each in results.main.comparisons if each.arm == "one")
    assert one.ci[1] < 0 and one.verdict == "no difference shown"
    assert lines == [f"(Holm p {format_p(one.p_holm)})"]


def test_a_margin_is_a_dotted_line_and_its_verdict_is_short(tmp_path):
    """`at most 20.0 worse` fits into the margin of the figure; the axis says what the dotted line is."""
    runs = [RunResult(arm, seed, {"exact_match": 0.5 + seed / 100}) for arm in ("ntp", "a") for seed in range(6)]
    shown = texts(plot_comparison(build_results(runs, margin=0.2), tmp_path)[0])
    assert any("at most 20.0 worse" in text for text in shown)
    assert "points (line: 95% interval; dots: seeds; dotted: margin)" in shown


def test_equal_values_get_an_axis_of_ten_points(tmp_path):
    """Every run at 0%: ticks of a few hundredths would make rounding look like a result."""
    runs = [RunResult(arm, seed, {"exact_match": 0.0}) for arm in ("ntp", "a") for seed in range(3)]
    shown = texts(plot_comparison(build_results(runs), tmp_path)[0])
    assert {"0", "8", "\N{MINUS SIGN}4", "4"} <= set(shown)
    flat = {"ntp": {1: rows(0.0)}, "a": {1: rows(0.0)}}
    assert {"0", "10"} <= set(texts(plot_curves(flat, ["accuracy"], tmp_path)[0]))
    assert not any("0.0" in text for text in texts(tmp_path / "curves_accuracy.svg"))


def test_the_only_step_that_was_logged_is_the_only_mark_of_its_axis(tmp_path):
    """There is no step 3.8."""
    shown = texts(plot_curves({"ntp": {1: rows(1.0, steps=(4,))}}, ["loss"], tmp_path)[0])
    assert "4" in shown and not any(text.startswith("3.") for text in shown)


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_a_line_at_the_end_of_its_axis_is_not_cut_in_half(level):
    """Every run at 0% or at 100%: the axis leaves room for the thickness of the line."""
    axis = Figure().subplots()
    curve = summarize_seeds({1: rows(level)}, "eval_exact_match")
    _draw_panel(axis, FIGURES["accuracy"][0], {"ntp": curve}, ["ntp"])
    low, high = axis.get_ylim()
    assert low < 100 * level < high and low > -1 and high < 101


def test_a_comparison_with_gaps_is_drawn(tmp_path):
    """One seed, no interval, or no baseline partner at all; the axis explains only what is drawn."""
    runs = [RunResult("ntp", 1, {"exact_match": 0.5}), RunResult("a", 1, {"exact_match": 0.6})]
    svg, _ = plot_comparison(build_results([*runs, RunResult("b", 2, {"exact_match": 0.6})]), tmp_path)
    assert sum("no difference shown" in text for text in texts(svg)) == 2
    assert "points (dots: seeds)" in texts(svg)
    plot_comparison(build_results(runs[:1]), tmp_path)


def test_the_same_input_gives_the_same_bytes(tmp_path):
    """No dates and no random ids in the SVG, so that reports can be compared."""
    runs, results = {"ntp": {1: rows(1.0)}}, results_of()
    for folder in ("a", "b"):
        plot_curves(runs, ["loss"], tmp_path / folder)
        plot_comparison(results, tmp_path / folder)
    for name in ("curves_loss.svg", "comparison.svg"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


# ---- manners ----


def test_no_global_state_is_left_behind(tmp_path):
    """No pyplot, and the settings of matplotlib as they were."""
    before, had_pyplot = dict(mpl.rcParams), "matplotlib.pyplot" in sys.modules
    plot_curves({"ntp": {1: rows(1.0)}}, None, tmp_path)
    plot_comparison(results_of(), tmp_path)
    assert dict(mpl.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == had_pyplot


@pytest.mark.parametrize("num_arms", [1, 4, 9])
def test_no_two_texts_overlap(tmp_path, monkeypatch, num_arms: int):
    """Titles, labels, ticks, legends, alarms and verdicts keep apart, for one arm and for nine, wide and narrow."""
    drawn = []
    monkeypatch.setattr(drawing, "save", lambda figure, folder, name, narrow: drawn.extend((figure, narrow)) or [])
    arms = [f"jepa-infonce-lambda-0.{i}" for i in range(num_arms)]
    alarm = Alarm(alarmed=True, first_step=10)
    plot_curves(
        {arm: {1: rows(0.1 * i), 2: rows(0.2 * i)} for i, arm in enumerate(arms)},
        None,
        tmp_path,
        {arms[0]: {1: alarm, 2: alarm}},
    )
    plot_comparison(results_of(num_arms), tmp_path)
    assert len(drawn) == 10
    for figure in drawn:
        boxes = text_boxes(figure)
        for i, (words, box) in enumerate(boxes):
            assert figure.bbox.padded(1).fully_contains(box.x0, box.y0), words
            assert figure.bbox.padded(1).fully_contains(box.x1, box.y1), words
            for others, other in boxes[i + 1 :]:
                assert not box.padded(-1).overlaps(other.padded(-1)), (words, others)


def text_boxes(figure):
    """Return (words, box in pixels) of every text of a figure that is really drawn."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    hidden = set()
    for axes in figure.axes:
        if not axes.get_visible():
            hidden |= set(axes.findobj(mpl.text.Text))
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            hidden |= {tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high}
    texts = [text for text in figure.findobj(mpl.text.Text) if text.get_visible() and text.get_text()]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in texts if text not in hidden]


def test_neighbouring_arms_differ_in_colour_and_an_arm_keeps_its_look():
    """Seven colours, then dashes and markers: sixteen arms look different from each other."""
    arms = [f"arm-{i}" for i in range(16)]
    looks = [drawing.look_of(arm, arms) for arm in arms]
    assert len({(look.color, look.linestyle) for look in looks}) == 16
    assert len({look.color for look in looks[:7]}) == 7
    assert drawing.look_of("arm-2", arms) == drawing.look_of("arm-2", arms[:3])


def test_every_scorer_has_a_panel():
    """Those that are always reported by name, and all others."""
    reported = {name for name in (*NAMES, *BY_LIKELIHOOD) if name not in ALIASES.values()}
    assert set(OTHER_SCORES) == reported
    keys = {panel.key for panel in FIGURES["accuracy"]}
    assert {f"eval_{name}" for name in (*reported, *ALIASES)} <= keys
