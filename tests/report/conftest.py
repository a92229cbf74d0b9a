"""An experiment's folder made by hand, with any text wherever text of data can be; and what a browser makes of it."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llm_jepa.analysis.geometry import view_geometry
from llm_jepa.evaluation.embeddings import StoredEmbeddings
from llm_jepa.experiments.results import RunResult, build_results

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
        self.text += " " if tag in ("td", "th", "dt", "dd") else ""  # cells stand apart

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


@pytest.fixture(scope="session")
def read_page() -> type[Page]:
    """Return what reads a page as a browser does."""
    return Page


@pytest.fixture(scope="session")
def make_experiment() -> Callable[..., tuple[dict[str, Any], dict[str, dict[int, list[dict[str, Any]]]]]]:
    """Return what makes a whole experiment in a folder: run folders, results, and the curves."""
    return _make_experiment


def _make_experiment(
    folder: Path,
    arms: Sequence[str] = ("ntp", "jepa"),
    seeds: Sequence[int] = (1, 2, 3),
    num_rows: int = 30,
    text: str = "plain",
    num_pairs: int = 24,
    **settings: Any,
) -> tuple[dict[str, Any], dict[str, dict[int, list[dict[str, Any]]]]]:
    """Make runs that differ a little; those of the second arm have collapsed, each at its own step."""
    random = np.random.default_rng(0)
    runs, curves, correct = [], {}, {}
    for place, arm in enumerate(arms):
        curves[arm], correct[arm] = {}, {}
        for seed in seeds:
            right = random.random(num_rows) < 0.3 + 0.1 * (place > 0) + 0.02 * random.standard_normal()
            alarm = {"alarmed": place == 1, "first_step": 20 + 10 * (seed % 2), "reason": f"Collapsed: {text}"}
            metrics = {"exact_match": float(right.mean()), "recall@1": 0.5, "recall@10": 0.9, "training_time_s": 600.0}
            runs.append(RunResult(arm, seed, metrics, alarm if place else None))
            curves[arm][seed] = _curve(place, random)
            correct[arm][seed] = right.tolist()
            _write_run(folder / f"{arm}-s{seed}", right, text, place, num_pairs)
    counts = {"rows_in": 40, "kept": num_rows, "dropped": {"leak": 7, text: 3}, "truncated": 1}
    data = {"summary": dict.fromkeys(("train", "validation", "test"), counts), "notes": [f"Left out: {text}"]}
    given = {"seeds": list(seeds), "train_file": text, text: 1, "data": data | {"sha256": {text: text}}} | settings
    costs = {arm: {"step_time_ratio": 1 + 0.2 * i, "flops_ratio": 1 + 0.17 * i} for i, arm in enumerate(arms)}
    results = build_results(runs, baseline=arms[0], settings=given, cost=costs, correct=correct)
    return results | {"grids": {}, "notes": []}, curves


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
    embeddings(text, place, num_pairs).write(folder)


def embeddings(text: str = "plain", noise: float = 1.0, num_pairs: int = 24) -> StoredEmbeddings:
    """Both views of some pairs, further from each other the more noise there is."""
    draw = torch.Generator().manual_seed(0)
    code = torch.randn(num_pairs, 8, generator=draw)
    moved = code + noise * torch.randn(num_pairs, 8, generator=draw)
    pairs = [{"source": f"{text}:{n}", "text": f"{text} {n}", "code": f"code {text}"} for n in range(num_pairs)]
    groups = torch.arange(num_pairs)
    return StoredEmbeddings(moved, code, groups, "pred", "Pred(Enc(Text)), Enc(Code)", "test", text, num_pairs, pairs)


@pytest.fixture(scope="session")
def make_geometry() -> Callable[..., dict[str, Any]]:
    """Return what makes a geometry.json of some runs, with a text in every place where text of data can be."""
    kept = embeddings()
    found = asdict(view_geometry(kept.text_pred, kept.code_emb))

    def make(names: Sequence[str] = ("ntp", "jepa"), text: str = "plain") -> dict[str, Any]:
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

    return make


# ---- a browser ----


def _screenshots() -> Any:
    """Load benchmarks/screenshots.py, a script beside its helpers and no package."""
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "screenshots.py"
    spec = importlib.util.spec_from_file_location("screenshots", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def open_page() -> Iterator[Callable[..., Any]]:
    """Open a file in a real browser with network and scripts off, in a window of a given size."""
    screenshots = _screenshots()
    if screenshots.find_browser() is None:
        pytest.skip(f"no Chromium found (looked for {', '.join(screenshots.NAMES)}); set CHROMIUM to one")
    with screenshots.running_browser() as browser:

        def open_page(path: Path, width: int, height: int) -> Any:
            page = screenshots.Page(browser, width, height)
            page.open(path)
            return page

        yield open_page


@pytest.fixture(scope="session")
def tables() -> Callable[[Path], dict[str, list[Mapping[str, str]]]]:
    """Read every CSV file of a folder: name to rows."""
    import csv

    def read(folder: Path) -> dict[str, list[Mapping[str, str]]]:
        return {path.stem: list(csv.DictReader(path.open(newline=""))) for path in sorted(folder.glob("*.csv"))}

    return read
