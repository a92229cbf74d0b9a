"""The pages in a real browser, network off and scripts off: they are shown, fit the window, and ask for nothing."""

from __future__ import annotations

import io
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llm_jepa.report.experiment_report import write_experiment_report
from llm_jepa.report.geometry_report import write_analysis_report

DESKTOP, PHONE = (1280, 800), (390, 844)
ARMS = ("ntp", "jepa", "jepa_infonce_with_a_long_name_of_fifty_characters_", "jepa_shuffled")
TEXT = "a <b onclick='x'>text</b> </title></svg><script>document.title='run'</script><img src=https://evil.example/p>"


@pytest.fixture(scope="module")
def pages(make_experiment, make_geometry, tmp_path_factory) -> dict[str, Path]:
    """The page of an experiment and of an analysis, with markup in every text."""
    folder = tmp_path_factory.mktemp("experiment")
    results = make_experiment(folder, ARMS, seeds=range(1, 6), text=TEXT)
    experiment = write_experiment_report(results, folder)
    other = tmp_path_factory.mktemp("analysis")
    analysis = write_analysis_report(make_geometry(ARMS, TEXT), other, f"llm-jepa analyze {TEXT}", {"cpu": TEXT})
    return {"experiment": experiment, "analysis": analysis}


@pytest.mark.slow
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("name", ["experiment", "analysis"])
def test_a_page_is_shown_fits_the_window_and_asks_for_nothing(name, size, pages, open_page):
    """No wider than the window, nothing requested, no complaint of the policy, and ink on the first screen."""
    page = open_page(pages[name], *size)
    assert page.size()[0] == size[0]
    assert page.requests == [] and page.complaints == []
    ink = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("L"))
    assert 0.01 < (ink < 200).mean() < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("name", ["experiment", "analysis"])
def test_in_dark_colours_the_pictures_are_dark_too(name, size, pages, open_page):
    """Little of the whole page is bright: no picture has a white ground."""
    shown = Image.open(io.BytesIO(open_page(pages[name], *size, "dark").screenshot(whole=True))).convert("L")
    assert (np.asarray(shown) > 128).mean() < 0.15


@pytest.mark.slow
@pytest.mark.parametrize("name", ["experiment", "analysis"])
def test_question_answer_price_and_picture_are_on_the_first_screen(name, pages, open_page):
    """On a desktop all of it without scrolling; on a phone in the same order, the picture beginning on the screen."""
    picture = {"experiment": "figure.first img", "analysis": ".maps svg"}[name]
    order = ("h1", ".answer", ".price", picture)
    boxes = [open_page(pages[name], *DESKTOP).box(selector) for selector in order]
    assert all(top >= 0 and bottom <= DESKTOP[1] for _, top, _, bottom in boxes)
    small = [open_page(pages[name], *PHONE).box(selector) for selector in order]
    for each in (boxes, small):
        assert all(first[3] <= second[1] for first, second in pairwise(each))
    assert small[-1][1] < PHONE[1] and all(0 <= left < right <= PHONE[0] for left, _, right, _ in small)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["experiment", "analysis"])
def test_the_browser_makes_the_same_elements_of_a_page_as_we_wrote(name, pages, open_page, read_page):
    """No text became an element or an attribute, in SVG least of all; and no script has run."""
    written, shown = (
        read_page(pages[name].read_text(encoding="utf-8")),
        read_page(open_page(pages[name], *DESKTOP).html()),
    )
    assert shown.elements == written.elements
    assert shown.names == written.names
    assert "<title>run</title>" not in open_page(pages[name], *DESKTOP).html()


@pytest.mark.slow
def test_on_paper_the_pairs_are_readable_and_nothing_is_cut_off(pages, open_page):
    """What opens with a click on a screen is open in print; each page has ink, and a margin without."""
    pdfium = pytest.importorskip("pypdfium2")
    document = pdfium.PdfDocument(open_page(pages["experiment"], *DESKTOP).pdf())
    text = "".join(page.get_textpage().get_text_range() for page in document)
    assert len(re.findall(r"code\s+a\s+<b", text)) >= 6 * len(ARMS)  # the codes of the pairs are nowhere else
    for page in document:
        ink = np.asarray(page.render(scale=0.5).to_pil().convert("L")) < 200
        assert ink.any() and not ink[:, -12:].any() and not ink[:, :12].any()


@pytest.mark.slow
def test_the_script_takes_its_pictures(pages, open_page, tmp_path, capsys):
    """Two sizes in two colour schemes, each as first screen and whole, and a PDF; a missing file is refused."""
    import screenshots

    assert screenshots.main([str(pages["experiment"]), "--out", str(tmp_path)]) == 0
    ends = (f"{scheme}{part}.png" for scheme in ("light", "dark") for part in ("", "_page"))
    names = {f"{device}_{end}" for end in ends for device in ("desktop", "phone")}
    assert {path.name for path in tmp_path.iterdir()} == names | {"paper.pdf"}
    assert "asked for nothing" in capsys.readouterr().out
    assert screenshots.main([str(tmp_path / "none.html")]) == 2
