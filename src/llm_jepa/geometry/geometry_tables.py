"""The geometry of runs as files and as text: geometry.json, two tables for other programs, one for a terminal.

DIR/geometry.json        everything, with the singular values and the coordinates
DIR/geometry.csv         one row for each run and side: every single number
DIR/embedding_map.csv    one row for each point: run, side, view, pair, and its place by PCA and by t-SNE
DIR/singular_values.csv  one row for each value: run, side, form, rank, the value, and that of shuffled pairs
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llm_jepa.files import write_json, write_whole
from llm_jepa.progress import WIDTH
from llm_jepa.text_tables import text_table

FORM_TITLES = {"raw": "raw", "centred": "centred", "unit": "row-normalised"}

Geometry = Mapping[str, Any]
Row = dict[str, Any]


def write_geometry(geometry: Geometry, out_dir: Path) -> None:
    """Write geometry.json and the tables of `write_geometry_tables` to a folder that exists."""
    write_json(out_dir / "geometry.json", geometry)
    write_geometry_tables(geometry, out_dir)


def write_geometry_tables(geometry: Geometry, out_dir: Path) -> None:
    """Write geometry.csv, embedding_map.csv and singular_values.csv to a folder that exists."""
    tables = {"geometry": _number_rows, "embedding_map": _point_rows, "singular_values": _value_rows}
    write_csv({name: rows(geometry) for name, rows in tables.items()}, out_dir)


def each_side(geometry: Geometry) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield run, side and what was measured, in the order of the call."""
    for name, run in geometry["runs"].items():
        for side, found in run["sides"].items():
            yield name, side, found


def describe_pairs(geometry: Geometry) -> str:
    """Return the number of pairs and where they come from, as every table and figure shows it.

    >>> describe_pairs({"num_pairs": 1200, "num_codes": 900, "split": "test", "file": "data/test.jsonl"})
    '1,200 test pairs of test.jsonl (900 different codes)'
    """
    split = f"{geometry['split']} " if geometry["split"] else ""
    file = Path(geometry["file"]).name
    return f"{geometry['num_pairs']:,} {split}pairs of {file} ({geometry['num_codes']:,} different codes)"


def summary(geometry: Geometry) -> dict[str, Any]:
    """Return the few numbers of each run that the command ends with: those of `pred`, or of `enc` without a `pred`."""
    short: dict[str, Any] = {}
    for name, side, found in each_side(geometry):
        short[name] = {
            "side": side,
            "gap": found["monitors"]["gap"],
            "recall@1": found["retrieval"]["recall@1"],
            "mean_top": found["spectra"]["raw"]["mean_top"],
            **{key: found["linear_map"][key] for key in ("error", "centred_error")},
            "looks_collapsed": found["looks_collapsed"],
        }
    return short


# ---- for a terminal ----


def format_geometry(geometry: Geometry) -> str:
    """Return the tables, at most `WIDTH` columns wide unless names are too long; without the notes."""
    head = f"{describe_pairs(geometry)} | {geometry['precision'].split(',')[0]}\n{describe_sides(geometry)}"
    tables = [f"{title}\n{text_table(rows, WIDTH, left=(0, 1))}" for title, rows in geometry_tables(geometry)]
    return "\n\n".join([head, *tables])


def describe_sides(geometry: Geometry) -> str:
    """Return what the sides in the tables are."""
    if geometry["reading"] == "published":
        return "Views are read at the last token before an answer, without [PRED]"
    return "enc: Enc(Text) and Enc(Code); pred: the prediction and its target"


def geometry_tables(geometry: Geometry) -> list[tuple[str, list[list[str]]]]:
    """Return the tables as title and rows of cells, the first row a header; without a linear map, three of four."""
    first = "arm" if "arms" in geometry else "run"  # of an experiment: one run for each arm
    matches = [[first, "side", "matched", "shuffled", "gap", "@1 %", "@10 %", "mrr"]]
    spreads = [[first, "side", "text cosine", "code cosine", "text rank", "code rank", "dims"]]
    spectra = [[first, "side", *FORM_TITLES.values()]]
    maps = [[first, "side", "error", "shuffled", "constant", "centred", "centred, shuffled"]]
    errors = ("error", "shuffled_error", "mean_error", "centred_error", "centred_shuffled_error")
    num_top, num_fit = 0, None
    for name, side, found in each_side(geometry):
        seen, retrieval, fitted = found["monitors"], found["retrieval"], found["linear_map"]
        cosines = [f"{seen[key]:z.3f}" for key in ("matched_cosine", "shuffled_cosine", "gap")]
        recalls = [f"{100 * retrieval[key]:.1f}" for key in ("recall@1", "recall@10")]
        matches.append([name, side, *cosines, *recalls, f"{retrieval['mrr']:.3f}"])
        cosines = [f"{seen[key]:z.3f}" for key in ("mean_pairwise_cosine_text", "mean_pairwise_cosine")]
        ranks = [f"{seen[key]:.1f}" for key in ("effective_rank_text", "effective_rank")]
        spreads.append([name, side, *cosines, *ranks, str(found["num_dims"])])
        values = [found["spectra"][form] for form in FORM_TITLES]
        spectra.append([name, side, *(f"{_short(s['mean_top'])} ({_short(s['shuffled_mean_top'])})" for s in values)])
        num_top = num_top or len(values[0]["top"])
        if fitted:
            maps.append([name, side, *(_short(fitted[key]) for key in errors)])
            num_fit = num_fit or fitted["num_fit"]
    tables = [
        ("How the views match: mean cosines, and retrieval among the codes", matches),
        ("How each view spreads: mean cosine of two pairs, effective rank", spreads),
        (f"Singular values of A - B, mean of the top {num_top} (the same of shuffled pairs)", spectra),
    ]
    if num_fit:
        about = f"held-out pairs, fitted on {num_fit:,}, ridge {geometry['ridge']:g}"
        tables.append((f"Linear map: ||A X - B|| / ||B|| on {about}", maps))
    return tables


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"


# ---- for other programs ----


def write_csv(tables: Mapping[str, Iterable[Row]], out_dir: Path) -> None:
    """Write each table to NAME.csv; all its rows have the keys of the first. One without rows is not written."""
    for name, rows in tables.items():
        if found := list(rows):
            text = io.StringIO()
            writer = csv.DictWriter(text, list(found[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(found)
            write_whole(out_dir / f"{name}.csv", text.getvalue())


def _number_rows(geometry: Geometry) -> Iterator[Row]:
    about = {key: geometry[key] for key in ("split", "file", "num_pairs", "num_codes", "reading", "seed")}
    for name, side, found in each_side(geometry):
        row = {"run": name, "side": side, "num_dims": found["num_dims"], **found["monitors"], **found["retrieval"]}
        row["looks_collapsed"] = int(found["looks_collapsed"])
        for form, values in found["spectra"].items():
            row |= {f"{form}_{key}": values[key] for key in ("mean_top", "shuffled_mean_top")}
        row |= {f"map_{key}": value for key, value in (found["linear_map"] or {}).items()}
        yield row | about


def _point_rows(geometry: Geometry) -> Iterator[Row]:
    for name, side, found in each_side(geometry):
        places = found["embedding_map"]
        for view in ("text", "code"):
            flat, curved = places[f"pca_{view}"], places[f"tsne_{view}"]
            for number, pair in enumerate(geometry["mapped_pairs"]):
                row = {"run": name, "side": side, "view": view, "pair": number, "source": pair["source"]}
                tsne = (None, None) if curved is None else curved[number]
                yield row | dict(zip(("pca_1", "pca_2", "tsne_1", "tsne_2"), (*flat[number], *tsne), strict=True))


def _value_rows(geometry: Geometry) -> Iterator[Row]:
    for name, side, found in each_side(geometry):
        for form, values in found["spectra"].items():
            for rank, (value, shuffled) in enumerate(zip(values["top"], values["shuffled_top"], strict=True), start=1):
                row = {"run": name, "side": side, "form": form, "rank": rank}
                yield row | {"singular_value": value, "shuffled_pairs": shuffled}
