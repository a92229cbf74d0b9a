"""The maps of embeddings on the page itself: inline SVG, in which each pair shows its texts without a script.

Everything from data is plain text here; the template escapes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .formatting import shortened
from .geometry_figures import describe_match, shown_side

SIZE = 100.0
"""Width and height of a map in its own units."""

MARGIN = 0.94
"""Share of a map that the points fill."""

MOST_MARKS = 6000
"""Most pairs that all maps of a page show together: each takes some 400 bytes. With many runs each map shows fewer."""

TITLE_ROOM = 120
"""Characters of each text that a point shows."""

NUM_ENDS = 3
"""Pairs listed at each end, with the nearest and the farthest views, for readers who cannot point at a map."""

Geometry = Mapping[str, Any]


def pairs_shown(geometry: Geometry, num_maps: int) -> list[int]:
    """Return which of the mapped pairs each of `num_maps` maps shows, spread evenly over them."""
    num_mapped = len(geometry["mapped_pairs"])
    most = min(num_mapped, max(1, MOST_MARKS // num_maps))
    return np.unique(np.linspace(0, num_mapped - 1, most).round().astype(int)).tolist()


def maps_of(geometry: Geometry, side: str, shown: Sequence[int]) -> dict[str, Any]:
    """Return the maps of one side, one panel for each run: `pca`, all with one scale, and `tsne`, each with its own.

    A panel has the run's `name`, its caption `said`, and `pairs`: for each mapped pair in `shown` the title, and the
    places of both views in [0, SIZE].
    """
    titles = [_title(pair) for pair in geometry["mapped_pairs"]]
    runs = {name: shown_side(run, side) for name, run in geometry["runs"].items()}
    flat = {name: _places(found["embedding_map"], "pca") for name, found in runs.items()}
    curved = {name: _places(found["embedding_map"], "tsne") for name, found in runs.items()}
    reach = max((float(np.abs(places).max()) for places in flat.values() if places is not None), default=0.0)
    panels: dict[str, list[dict[str, Any]]] = {"pca": [], "tsne": []}
    for name, found in runs.items():
        has_own = side == "enc" or "pred" in geometry["runs"][name]["sides"]
        about = {"name": name, "said": describe_match(found, has_own), "collapsed": found["looks_collapsed"]}
        cosines = found["embedding_map"].get("cosines")
        for kind, places in (("pca", flat[name]), ("tsne", curved[name])):
            scaled = None if places is None else _scaled(places, reach if kind == "pca" else None)
            panels[kind].append(about | {"pairs": None if scaled is None else _marks(scaled, titles, cosines, shown)})
    shares = {name: found["embedding_map"]["pca_explained"] for name, found in runs.items()}
    return panels | {
        "num_pairs": len(shown),
        "shares": shares,
        "perplexity": next(iter(runs.values()))["embedding_map"]["perplexity"],
    }


def ends_of(geometry: Geometry, side: str) -> list[dict[str, Any]]:
    """Return for each run the pairs whose views are nearest and farthest, by cosine; a run without cosines is left out.

    Each has `name`, and `nearest` and `farthest`: dicts of cosine, text and code.
    """
    pairs = geometry["mapped_pairs"]
    ends = []
    for name, run in geometry["runs"].items():
        cosines = shown_side(run, side)["embedding_map"].get("cosines")
        if cosines:
            order = np.argsort(-np.array(cosines), kind="stable").tolist()
            half = min(NUM_ENDS, len(order) // 2)
            nearest, farthest = ([_end(pairs[place], cosines[place]) for place in part] for part in _cut(order, half))
            ends.append({"name": name, "nearest": nearest, "farthest": farthest})
    return ends


def _cut(order: Sequence[int], half: int) -> tuple[Sequence[int], Sequence[int]]:
    return order[:half], order[len(order) - half :]


def _end(pair: Mapping[str, str], cosine: float) -> dict[str, Any]:
    return {
        "cosine": cosine,
        "text": shortened(pair["text"], 2 * TITLE_ROOM),
        "code": shortened(pair["code"], 2 * TITLE_ROOM),
    }


def _title(pair: Mapping[str, str]) -> str:
    if not pair:
        return ""
    where = pair["source"].rsplit("/", 1)[-1]  # the file's name without its folder, which is one of another machine
    return f"{shortened(pair['text'], TITLE_ROOM)}\n{shortened(pair['code'], TITLE_ROOM)}\n{where}"


def _places(found: Mapping[str, Any], kind: str) -> NDArray[np.float64] | None:
    """Return the places of both views, (2, pairs, 2); None if there are none."""
    if found[f"{kind}_text"] is None:
        return None
    return np.array([found[f"{kind}_text"], found[f"{kind}_code"]])


def _scaled(places: NDArray[np.float64], reach: float | None) -> NDArray[np.float64]:
    """Return places in [0, SIZE]: around 0, up to `reach`; or around their own middle, up to the farthest of them."""
    if reach is None:
        ends = places.reshape(-1, 2)
        places = places - (ends.max(0) + ends.min(0)) / 2
        reach = float(np.abs(places).max())
    scaled = SIZE / 2 * (1 + MARGIN * places / (reach or 1.0) * (1, -1))  # a page counts downwards
    return scaled.round(1)


def _marks(
    places: NDArray[np.float64], titles: Sequence[str], cosines: Sequence[float] | None, shown: Sequence[int]
) -> list[dict[str, Any]]:
    return [
        {
            "title": titles[number] if cosines is None else f"{titles[number]}\ncosine {cosines[number]:z.3f}",
            "text": places[0, number].tolist(),
            "code": places[1, number].tolist(),
        }
        for number in shown
    ]
