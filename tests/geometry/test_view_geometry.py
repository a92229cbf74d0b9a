"""The geometry of matrices whose answer is known, and numbers that no change of basis or order may change."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import linalg

from llm_jepa.geometry.view_geometry import (
    FORMS,
    NUM_FOLDS,
    embedding_map,
    linear_map,
    spectrum,
    view_geometry,
)

N, C = 200, 8


def normal(rows: int = N, columns: int = C, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def rotation(size: int = C, seed: int = 1) -> torch.Tensor:
    return torch.linalg.qr(normal(size, size, seed))[0]


def measure(text, code, **options):
    """Everything but the map, which takes its time and has tests of its own."""
    return view_geometry(text, code, map_pairs=4, **options)


# ---- matrices whose answer is known ----


def test_a_linear_map_is_found_on_held_out_pairs_and_not_on_shuffled_ones():
    """B = A X + b: the error is rounding; with the codes of other pairs it is no better than a constant."""
    a = normal()
    found = measure(a, a @ normal(C, C, 2) + 3).linear_map
    assert found.centred_error < 1e-6
    assert found.centred_shuffled_error == pytest.approx(1, abs=0.1)
    assert found.error > 0.1  # without the means off, X would have to make the constant out of A
    assert (found.rank, found.num_fit, found.reason) == (C, N * (NUM_FOLDS - 1) // NUM_FOLDS, None)


def test_a_rotation_is_a_perfect_map_and_a_large_difference():
    """A - B is as large as that of shuffled pairs, retrieval is at chance, and yet all of B is in A: read both."""
    a = normal()
    found = measure(a, a @ rotation())
    assert found.linear_map.error < 1e-6
    assert found.spectra["raw"].mean_top > 0.7 * found.spectra["raw"].shuffled_mean_top
    assert found.retrieval["recall@1"] < 0.1


def test_noise_of_known_size_gives_its_share_as_error():
    """B = A + noise of a tenth: about 0.1 / sqrt(1.01), the least that any map could have."""
    a = normal(1000)
    found = measure(a, a + 0.1 * normal(1000, seed=3)).linear_map
    assert found.centred_error == pytest.approx(0.1 / math.sqrt(1.01), rel=0.05)


def test_a_full_collapse_has_a_tiny_difference_and_a_tiny_error_and_is_no_success():
    """Both views near one vector. What the paper reads as success is there: A - B is a thousandth of what it is
    without collapse, and A X is all but B. But shuffled pairs have the same A - B, a constant has the same error,
    the gap is 0, and no code is found: the views are near because everything is near."""
    one = normal(1)
    a, b = (one + 1e-3 * normal(seed=seed) for seed in (2, 3))
    found, apart = measure(a, b), measure(normal(seed=2), normal(seed=3))
    assert found.spectra["raw"].mean_top < 2e-3 * apart.spectra["raw"].mean_top
    assert found.linear_map.error < 2e-3
    assert found.spectra["raw"].mean_top == pytest.approx(found.spectra["raw"].shuffled_mean_top, rel=0.05)
    assert found.linear_map.error == pytest.approx(found.linear_map.mean_error, rel=0.1)
    assert found.linear_map.centred_error > 0.95
    assert abs(found.monitors["gap"]) < 1e-5
    assert found.retrieval["recall@1"] < 0.05 and found.looks_collapsed and not apart.looks_collapsed
    assert found.monitors["effective_rank"] > 7  # the rank, too, would have missed it


def test_views_that_are_equal_to_the_bit_for_all_pairs_leave_nothing_to_map():
    """Rank one exactly: numbers that would be 0 / 0 are missing, and the reason is given."""
    one = normal(1).expand(N, C)
    found = view_geometry(one, one)
    assert found.spectra["raw"].mean_top == 0 and found.linear_map.error < 1e-6
    assert found.linear_map.centred_error is None and "nothing is left to map" in found.linear_map.reason
    assert found.monitors["gap"] == pytest.approx(0, abs=1e-6) and found.retrieval["recall@1"] == 0
    assert found.embedding_map.tsne_text is None and found.embedding_map.pca_explained is None


@pytest.mark.parametrize("num_pairs", [6, C, 9])
def test_with_fewer_pairs_than_dimensions_the_error_is_missing_and_never_zero(num_pairs):
    """A X = B has an exact solution for any B, noise as well: no number is given, and the sentence says what to do."""
    found = measure(normal(num_pairs), normal(num_pairs, seed=5)).linear_map
    assert found.error is found.centred_error is found.shuffled_error is None
    assert "exact solution whatever the pairs are" in found.reason and "ridge" in found.reason
    assert (found.residual is None) == (num_pairs <= C)


def test_pairs_that_fill_fewer_dimensions_than_they_are_can_be_mapped():
    """Twenty pairs in 64 dimensions that lie on two of them: the rank decides, and it is reported."""
    a = normal(20, 2) @ normal(2, 64, 6)
    found = measure(a, a @ normal(64, 64, 7)).linear_map
    assert found.rank == 2 and found.error < 1e-5 and found.reason is None


def test_a_ridge_makes_the_map_say_something_with_fewer_pairs_than_dimensions():
    """Half of the variation of B is in A's strongest direction; noise gains nothing."""
    a = normal(60, 100) + 5 * normal(60, 1, 8) @ normal(1, 100, 9)
    found = measure(a, a @ normal(100, 5, 10) @ normal(5, 100, 11), ridge=0.1).linear_map
    assert found.reason is None and found.ridge == 0.1
    assert found.centred_error < 0.9 < found.centred_shuffled_error


def test_a_scaled_copy_differs_raw_and_agrees_once_rows_have_length_one():
    """B = 3 A: A - B is -2 A, its unit rows are equal, all cosines are 1, and the map is exact."""
    a = normal()
    found = measure(a, 3 * a)
    expected = 2 * torch.linalg.svdvals(a.double())
    assert found.spectra["raw"].top == pytest.approx(expected.tolist(), rel=1e-6)
    assert max(found.spectra["unit"].top) < 1e-5 < min(found.spectra["unit"].shuffled_top)
    assert found.monitors["matched_cosine"] == pytest.approx(1) and found.retrieval["recall@1"] == 1
    assert found.linear_map.error < 1e-6


def test_a_constant_between_the_views_is_one_large_singular_value_and_goes_with_the_means():
    """B = A + b: rank one, sqrt(N) |b|, and nothing centred. Raw spectra of two views far apart show this."""
    a, offset = normal(), normal(1, seed=4)
    found = measure(a, a + offset)
    assert found.spectra["raw"].top[0] == pytest.approx(math.sqrt(N) * float(offset.norm()), rel=1e-6)
    assert max(found.spectra["raw"].top[1:]) < 1e-4 and max(found.spectra["centred"].top) < 1e-4


# ---- against other ways to compute the same ----


@pytest.mark.parametrize("form", FORMS)
def test_singular_values_are_those_of_scipy(form):
    """By hand with numpy; the top 100 of 120, and their mean."""
    a, b = normal(150, 120).numpy().astype(float), normal(150, 120, 2).numpy().astype(float)
    by_hand = {
        "raw": a - b,
        "centred": (a - a.mean(0)) - (b - b.mean(0)),
        "unit": a / np.linalg.norm(a, axis=1)[:, None] - b / np.linalg.norm(b, axis=1)[:, None],
    }
    others = torch.arange(150).roll(1)
    found = spectrum(normal(150, 120), normal(150, 120, 2), others, form)
    expected = linalg.svdvals(by_hand[form])[:100]
    np.testing.assert_allclose(found.top, expected, rtol=1e-6)
    assert len(found.top) == 100 and found.mean_top == pytest.approx(expected.mean())
    assert found.shuffled_top != pytest.approx(found.top)


@pytest.mark.parametrize("ridge", [0.0, 0.5])
def test_the_held_out_error_is_that_of_the_normal_equations(ridge):
    """Four pairs fitted, one held out, in turn; X by (A'A + w I)^-1 A'B, w in units of the mean squared singular
    value; the constant by hand."""
    a, b = normal(5, 2).double(), normal(5, 2, 2).double()
    found = linear_map(a, b, b.roll(1, 0), torch.arange(5), ridge)
    rest, centred, constant, spread = [], [], [], []
    for held in range(5):
        fit = [place for place in range(5) if place != held]

        def solve(a_fit, b_fit):
            gram = a_fit.T @ a_fit
            return torch.linalg.solve(gram + ridge * gram.trace() / 2 * torch.eye(2), a_fit.T @ b_fit)

        rest.append(a[held] @ solve(a[fit], b[fit]) - b[held])
        a_mean, b_mean = a[fit].mean(0), b[fit].mean(0)
        spread.append(b[held] - b_mean)
        centred.append((a[held] - a_mean) @ solve(a[fit] - a_mean, b[fit] - b_mean) - spread[-1])
        constant.append(spread[-1])
    norm = lambda parts: torch.stack(parts).norm().item()  # noqa: E731
    assert found.error == pytest.approx(norm(rest) / b.norm().item())
    assert found.centred_error == pytest.approx(norm(centred) / norm(spread))
    assert found.mean_error == pytest.approx(norm(constant) / b.norm().item())
    whole = linalg.lstsq(a.numpy(), b.numpy())[0]
    assert found.residual == pytest.approx(np.linalg.norm(a.numpy() @ whole - b.numpy()))
    assert found.residual_spectral == pytest.approx(np.linalg.norm(a.numpy() @ whole - b.numpy(), 2))


# ---- what may not matter ----


def test_one_turn_of_both_views_changes_no_number():
    """Another basis of the same space: spectra, cosines, retrieval, ranks and errors stay."""
    a, b, turn = normal(), normal() + 0.5 * normal(seed=2), rotation()
    found, turned = measure(a, b), measure(a @ turn, b @ turn)
    for form in FORMS:
        assert turned.spectra[form].top == pytest.approx(found.spectra[form].top, rel=1e-4)
    for each in (found, turned):
        each.monitors.pop("feature_std")  # the one that is about single features
    assert turned.monitors == pytest.approx(found.monitors, rel=1e-4, abs=1e-6)
    assert turned.retrieval == found.retrieval
    for key in ("error", "centred_error", "shuffled_error", "mean_error", "residual"):
        assert getattr(turned.linear_map, key) == pytest.approx(getattr(found.linear_map, key), rel=1e-4)


def test_the_order_of_the_rows_changes_no_number_but_those_of_the_shuffled_control():
    """With three pairs that share a code: the same pairs are held out together in any order of rows."""
    a, b = normal(), normal() + 0.5 * normal(seed=2)
    groups = torch.arange(N)
    groups[[7, 50, 120]], b[[50, 120]] = 7, b[7].clone()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(5))
    found, moved = measure(a, b, groups=groups), measure(a[order], b[order], groups=groups[order])
    assert moved.spectra["raw"].top == pytest.approx(found.spectra["raw"].top, rel=1e-6)
    assert moved.monitors == pytest.approx(found.monitors, rel=1e-4) and moved.num_codes == N - 2
    assert moved.retrieval == found.retrieval
    for key in ("error", "centred_error", "mean_error", "residual"):
        assert getattr(moved.linear_map, key) == pytest.approx(getattr(found.linear_map, key), rel=1e-9)
    assert moved.linear_map.shuffled_error == pytest.approx(found.linear_map.shuffled_error, rel=0.1)


def test_scaling_both_views_scales_the_raw_values_and_nothing_relative():
    """A model of larger states is not a worse one: only raw and centred values know the size."""
    a, b = normal(), normal(seed=2)
    found, larger = measure(a, b, ridge=0.1), measure(10 * a, 10 * b, ridge=0.1)
    assert larger.spectra["raw"].mean_top == pytest.approx(10 * found.spectra["raw"].mean_top, rel=1e-5)
    assert larger.spectra["unit"].mean_top == pytest.approx(found.spectra["unit"].mean_top, rel=1e-5)
    for key in ("error", "centred_error", "shuffled_error", "mean_error"):
        assert getattr(larger.linear_map, key) == pytest.approx(getattr(found.linear_map, key), rel=1e-5)


# ---- pairs that share a code ----


def test_pairs_of_one_code_are_held_out_together():
    """Every code occurs twice, and each text has a mark of its code, which no map can know from other codes.
    Held out together no map is found; negative control: as if the codes were all different, one seems to be."""
    marks = torch.eye(50).repeat(2, 1)  # (100, 50)
    codes = normal(50, 50).repeat(2, 1)
    groups = torch.arange(50).repeat(2)
    honest = measure(marks, codes, groups=groups, ridge=1e-3).linear_map
    fooled = measure(marks, codes, ridge=1e-3).linear_map
    assert honest.centred_error > 0.95
    assert fooled.centred_error < 0.5


# ---- the map ----


def test_the_map_places_both_views_together_and_keeps_distances():
    """Unit rows on a plane of the space: PCA is that plane, and distances within and between the views stay."""
    angles = torch.linspace(0, 5, 40)
    circle = torch.stack([angles.cos(), angles.sin()], 1) @ rotation()[:2]
    found = embedding_map(4 * circle, circle.roll(3, 0))
    places = torch.tensor([*found.pca_text, *found.pca_code])
    expected = torch.cat([circle, circle.roll(3, 0)])
    distances = [torch.cdist(each.double(), each.double()) for each in (places, expected)]
    torch.testing.assert_close(*distances, atol=1e-4, rtol=0)
    assert sum(found.pca_explained) == pytest.approx(1)


def test_the_map_is_the_same_every_time_and_spreads_its_pairs_over_the_rows():
    """t-SNE is seeded; of 90 pairs 10 are taken, first and last among them."""
    first, again = (embedding_map(normal(90), normal(90, seed=2), seed=4, map_pairs=10) for _ in range(2))
    assert first == again
    assert len(first.places) == len(first.tsne_code) == 10
    assert first.places[0] == 0 and first.places[-1] == 89


def test_groups_that_are_apart_stay_apart_in_the_map():
    """Two far clusters of pairs: nearest neighbours by t-SNE are of the same one."""
    ends = torch.cat([torch.full((30, 1), 9.0), torch.full((30, 1), -9.0)])
    found = embedding_map(normal(60) + ends, normal(60, seed=2) + ends)
    places = torch.tensor([*found.tsne_text, *found.tsne_code])
    cluster = torch.tensor([0] * 30 + [1] * 30).repeat(2)
    nearest = torch.cdist(places, places).fill_diagonal_(math.inf).argmin(1)
    assert (cluster[nearest] == cluster).all()


# ---- what is refused ----


@pytest.mark.parametrize(
    ("text", "code", "options", "kind", "value"),
    [
        (normal(3), normal(3), {}, "too_few_rows", "3 pairs"),
        (normal(9), normal(9), {"groups": torch.zeros(9, dtype=torch.long)}, "too_few_rows", "1 different codes"),
        (normal(9), normal(9, 4), {}, "wrong_shape", "(9, 4)"),
        (normal(9) * math.nan, normal(9), {}, "embeddings_not_finite", "text_pred"),
        (normal(9), normal(9), {"ridge": -1.0}, "value_out_of_range", "ridge=-1.0"),
    ],
)
def test_what_has_no_geometry_is_refused(text, code, options, kind, value, raises):
    """Each with the numbers that are wrong."""
    with raises(kind, value):
        view_geometry(text, code, **options)
