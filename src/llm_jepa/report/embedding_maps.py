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

SIZE = 100.0  # width and height of a map in its own units
MARGIN = 0.94  # share of a map that the points fill

MOST_MARKS = 6000
"""Most pairs that all maps of a page show together: each takes some 400 bytes. With many runs each map shows fewer."""

TITLE_ROOM = 120  # characters of each text that a point shows
NUM_ENDS = 3  # pairs listed at each end, with the nearest and the farthest views, for readers who cannot point at a map

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
    maps = {name: shown_side(run, side)["embedding_map"] for name, run in geometry["runs"].items()}
    reach = max(float(np.abs(_places(found, "pca")).max()) for found in maps.values())
    panels: dict[str, list[dict[str, Any]]] = {"pca": [], "tsne": []}
    for name, run in geometry["runs"].items():
        found, has_own = shown_side(run, side), side == "enc" or "pred" in run["sides"]
        about = {"name": name, "said": describe_match(found, has_own), "collapsed": found["looks_collapsed"]}
        cosines = maps[name]["cosines"]
        for kind, own_reach in (("pca", reach), ("tsne", None)):
            pairs = None
            if maps[name][f"{kind}_text"] is not None:
                pairs = _marks(_scaled(_places(maps[name], kind), own_reach), titles, cosines, shown)
            panels[kind].append(about | {"pairs": pairs})
    return panels | {
        "num_pairs": len(shown),
        "shares": {name: found["pca_explained"] for name, found in maps.items()},
        "perplexity": next(iter(maps.values()))["perplexity"],
    }


def ends_of(geometry: Geometry, side: str) -> list[dict[str, Any]]:
    """Return for each run the pairs whose views are nearest and farthest, by cosine.

    Each has `name`, and `nearest` and `farthest`: dicts of cosine, text and code.
    """
    pairs = geometry["mapped_pairs"]
    ends = []
    for name, run in geometry["runs"].items():
        cosines = shown_side(run, side)["embedding_map"]["cosines"]
        order = np.argsort(-np.array(cosines), kind="stable").tolist()
        half = min(NUM_ENDS, len(order) // 2)
        listed = [
            {"cosine": cosines[place]}
            | {view: shortened(pairs[place][view], 2 * TITLE_ROOM) for view in ("text", "code")}
            for place in (*order[:half], *order[len(order) - half :])
        ]
        ends.append({"name": name, "nearest": listed[:half], "farthest": listed[half:]})
    return ends


def _title(pair: Mapping[str, str]) -> str:
    where = pair["source"].rsplit("/", 1)[-1]  # the file's name without its folder, which is one of another machine
    return f"{shortened(pair['text'], TITLE_ROOM)}\n{shortened(pair['code'], TITLE_ROOM)}\n{where}"


def _places(found: Mapping[str, Any], kind: str) -> NDArray[np.float64]:
    """Return the places of both views, (2, pairs, 2)."""
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
    places: NDArray[np.float64], titles: Sequence[str], cosines: Sequence[float], shown: Sequence[int]
) -> list[dict[str, Any]]:
    return [
        {
            "title": f"{titles[number]}\ncosine {cosines[number]:z.3f}",
            "text": places[0, number].tolist(),
            "code": places[1, number].tolist(),
        }
        for number in shown
    ]
