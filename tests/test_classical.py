"""The classical methods: what is known stays, what is hidden stays hidden, and simple surfaces are continued."""

import numpy as np
import pytest
from scipy import ndimage, sparse

from lama_minimal import classical
from lama_minimal.classical import (
    BASELINES,
    CLASSICS,
    MID_GREY,
    biharmonic,
    decompose,
    exemplar,
    harmonic,
    mean_colour,
    navier_stokes,
    nearest_patches,
    patch_distances,
    patchmatch,
    priorities,
    propagate,
    random_search,
    settle,
    solve_laplace,
    steepest_slopes,
    structure_and_texture,
    telea,
    vote,
)
from lama_minimal.masks import draw_mask, recipe_for
from lama_minimal.scenes import draw_scene

METHODS = pytest.mark.parametrize("method", CLASSICS.values(), ids=CLASSICS)


def hole(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """A thick mask."""
    return draw_mask(recipe_for("thick", min(size)), size, np.random.default_rng(seed))


def test_baselines_are_the_four_of_the_report() -> None:
    assert list(BASELINES.values()) == [telea, navier_stokes, biharmonic, mean_colour]
    assert {*BASELINES.items()} < {*CLASSICS.items()} and len(CLASSICS) == 8


@METHODS
@pytest.mark.parametrize("size", [(48, 48), (33, 61)])
def test_known_pixels_are_exact_and_inputs_untouched(method, size) -> None:
    image = np.ascontiguousarray(draw_scene(1, 61).image[: size[0], : size[1]])
    mask = hole(size)
    before = image.copy(), mask.copy()
    filled = method(image, mask)
    assert filled.shape == image.shape and filled.dtype == np.uint8
    assert np.array_equal(filled[~mask], image[~mask])
    assert (filled[mask] != image[mask]).any()
    assert np.array_equal(image, before[0]) and np.array_equal(mask, before[1])


@METHODS
def test_what_is_under_the_hole_does_not_matter(method) -> None:
    image, mask = draw_scene(3, 64).image, hole((64, 64), 3)
    other = image.copy()
    other[mask] = np.random.default_rng(0).integers(0, 256, (mask.sum(), 3))
    assert np.array_equal(method(image, mask), method(other, mask))


@METHODS
def test_empty_and_full_masks(method) -> None:
    image = draw_scene(2, 32).image
    unchanged = method(image, np.zeros((32, 32), bool))
    assert np.array_equal(unchanged, image) and unchanged is not image
    assert (method(image, np.ones((32, 32), bool)) == MID_GREY).all()


@METHODS
def test_flat_picture_is_restored(method) -> None:
    image = np.full((40, 40, 3), (30, 120, 210), np.uint8)
    filled = method(image, hole((40, 40), 1)).astype(int)
    assert np.abs(filled - image).max() <= 3  # Telea's roundings add up from the border inwards


@METHODS
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_tiny_pictures(method, size) -> None:
    image = np.full((size, size + 1, 3), 77, np.uint8)
    mask = np.zeros((size, size + 1), bool)
    mask[0, 0] = True
    assert np.abs(method(image, mask).astype(int) - 77).max() <= 1


def test_mean_colour_is_the_mean_of_known_pixels() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[:2] = (10, 20, 30)
    image[2] = (40, 80, 120)
    image[3] = 255
    mask = np.zeros((4, 4), bool)
    mask[3] = True
    assert mean_colour(image, mask)[3].tolist() == [[20, 40, 60]] * 4


def test_biharmonic_continues_a_slope_that_the_mean_cannot() -> None:
    ramp = np.broadcast_to((40 + 4 * np.arange(40, dtype=np.uint8))[None, :, None], (40, 40, 3)).copy()
    mask = np.zeros((40, 40), bool)
    mask[12:28, 10:30] = True
    assert np.abs(biharmonic(ramp, mask).astype(int) - ramp)[mask].max() <= 1
    assert np.abs(mean_colour(ramp, mask).astype(int) - ramp)[mask].max() > 20


@METHODS
def test_wrong_inputs_are_refused(method) -> None:
    image, mask = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), bool)
    with pytest.raises(ValueError, match="image must be"):
        method(image / 255, mask)
    with pytest.raises(ValueError, match="image must be"):
        method(image[..., 0], mask)
    with pytest.raises(ValueError, match="mask must be"):
        method(image, mask.astype(np.uint8))
    with pytest.raises(ValueError, match="mask must be"):
        method(image, mask[:4])


@METHODS
def test_the_same_twice(method) -> None:
    image, mask = draw_scene(4, 48).image, hole((48, 48), 4)
    assert np.array_equal(method(image, mask), method(image, mask))


# --------------------------------------------------------------------------------------------------- heat in a hole


def by_sparse_matrix(u: np.ndarray, gap: np.ndarray, leak: float = 0) -> np.ndarray:
    """The discrete Laplace equation of one channel as the textbooks write it: one row of a matrix for each pixel."""
    number = np.arange(gap.size).reshape(gap.shape)
    pairs = [(number[1:], number[:-1]), (number[:, 1:], number[:, :-1])]
    first, second = (np.concatenate([pair[k].ravel() for pair in pairs]) for k in (0, 1))
    graph = sparse.coo_matrix((np.ones(len(first)), (first, second)), shape=(gap.size, gap.size))
    graph = sparse.csr_matrix(graph + graph.T)
    matrix = sparse.diags(np.asarray(graph.sum(axis=1)).ravel() + leak) - graph
    inside = gap.ravel()
    right = -matrix[inside][:, ~inside] @ u.ravel()[~inside]
    answer = u.copy().ravel()
    answer[inside] = sparse.linalg.spsolve(matrix[inside][:, inside].tocsc(), right)
    return answer.reshape(gap.shape)


@pytest.mark.parametrize("size", [(40, 40), (23, 57)])
def test_heat_at_rest_solves_the_laplace_equation(size) -> None:
    rng = np.random.default_rng(5)
    gap = hole(size, 5)
    gap[:9, :7] = gap[-3:] = True  # at a corner and along a border
    u = rng.uniform(0, 255, (*size, 2))
    wanted = np.stack([by_sparse_matrix(u[..., c], gap) for c in (0, 1)], axis=-1)
    answer = solve_laplace(u, gap)
    assert np.abs(answer - wanted).max() < 0.01
    assert np.array_equal(answer[~gap], u[~gap])


@pytest.mark.parametrize("reach", [np.inf, 8, 2])
@pytest.mark.parametrize("size", [(40, 40), (23, 57), (128, 96)])
def test_settled_heat_is_near_its_rest(size, reach) -> None:
    """Smooth surroundings: within a tenth of their variation, what is outside untouched, and the maximum principle."""
    gap = hole(size, 5)
    gap[:9, :7] = gap[-3:] = True  # at a corner and along a border
    rows, columns = np.indices(size) / 20
    u = np.stack([100 * np.sin(rows + columns), 100 * np.cos(rows - 2 * columns), 100 + 0 * rows], axis=-1)
    wanted = np.stack([by_sparse_matrix(u[..., c], gap, 1 / reach**2) for c in range(3)], axis=-1)
    answer = settle(np.where(gap[..., None], 1e4, u).astype(np.float32), gap, reach)
    assert np.abs(answer - wanted)[gap].mean() < 0.1 * u[~gap][:, :2].std()
    assert np.array_equal(answer[~gap], u.astype(np.float32)[~gap])
    assert np.allclose(answer[..., 2], 100, atol=1e-3) == (reach == np.inf)
    assert np.abs(answer).max() <= np.abs(u[~gap]).max() + 1e-3


def test_harmonic_is_that_solution_rounded() -> None:
    image, mask = draw_scene(6, 48).image, hole((48, 48), 6)
    wanted = np.stack([by_sparse_matrix(image[..., c].astype(float), mask) for c in range(3)], axis=-1)
    assert np.abs(harmonic(image, mask) - wanted).max() < 0.51
    assert harmonic(image, mask)[mask].max() <= image[~mask].max()  # the maximum principle


# -------------------------------------------------------------------------------------------------------- exemplars


def tiling(period: tuple[int, int], size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """A random tile, repeated."""
    tile = np.random.default_rng(seed).integers(0, 256, (*period, 3), dtype=np.uint8)
    return np.tile(tile, (size[0] // period[0] + 1, size[1] // period[1] + 1, 1))[: size[0], : size[1]]


@pytest.mark.parametrize("method", [exemplar, patchmatch])
@pytest.mark.parametrize("period", [(4, 8), (7, 5), (1, 6)])
def test_what_repeats_is_restored_exactly(method, period) -> None:
    image = tiling(period, (61, 74))
    mask = np.zeros((61, 74), bool)
    mask[20:41, 30:56] = True
    mask[:6, :9] = True
    assert np.array_equal(method(image, mask), image)
    assert (harmonic(image, mask) != image)[mask].mean() > 0.5


def test_exemplar_continues_an_edge_and_diffusion_blurs_it() -> None:
    rows, columns = np.mgrid[:60, :60]
    image = np.where((rows + 2 * columns < 90)[..., None], np.uint8([200, 40, 30]), np.uint8([20, 60, 180]))
    mask = (rows - 30) ** 2 + (columns - 30) ** 2 < 120
    assert (exemplar(image, mask) != image).any(axis=2).mean() < 0.005
    assert (harmonic(image, mask) != image).any(axis=2)[mask].all()


def test_exemplar_copies_colours_of_the_known_part_only() -> None:
    image, mask = draw_scene(7, 64).image, hole((64, 64), 7)
    known = {*map(tuple, image[~mask].tolist())}
    assert {*map(tuple, exemplar(image, mask)[mask].tolist())} <= known


@pytest.mark.parametrize("method", [exemplar, patchmatch])
def test_where_no_patch_is_whole_the_answer_is_harmonic(method) -> None:
    image, mask = draw_scene(8, 32).image, np.zeros((32, 32), bool)
    mask[::2, ::2] = mask[1::2, 1::2] = True
    assert np.array_equal(method(image, mask), harmonic(image, mask))
    mask[:] = True
    mask[10:15, 3:9] = False  # patches of 5 × 5 are whole here, no greater ones
    colours = {*map(tuple, image[~mask].tolist())}
    assert {*map(tuple, exemplar(image, mask)[mask].tolist())} <= colours
    assert (method(image, mask)[mask].std(axis=0) > 0).all()


def test_patch_distances_are_exact() -> None:
    rng = np.random.default_rng(1)
    picture = rng.integers(-128, 128, (20, 31, 3))
    patch, known = rng.integers(-128, 128, (9, 9, 3)), rng.random((9, 9)) < 0.6
    wanted = np.empty((12, 23), int)
    for row, column in np.ndindex(12, 23):
        wanted[row, column] = (((picture[row : row + 9, column : column + 9] - patch) ** 2)[known]).sum()
    answer = patch_distances(picture.astype(np.float32), patch.astype(np.float32), known)
    assert np.array_equal(answer, wanted)


def priority_as_the_paper_says(grey, known, confidence, width, row, column) -> float:
    """Criminisi's Section III for one pixel, in loops; patches end at the picture's border."""
    radius, (height, across) = width // 2, known.shape
    trust, steepest = 0.0, (0.0, 0.0)

    def is_known(y, x):
        return not (0 <= y < height and 0 <= x < across) or known[y, x]

    for y in range(max(row - radius, 0), min(row + radius + 1, height)):
        for x in range(max(column - radius, 0), min(column + radius + 1, across)):
            trust += confidence[y, x]
            if all(is_known(y + b, x + a) for b, a in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))):
                ahead, behind, right, left = (
                    min(y + 1, height - 1),
                    max(y - 1, 0),
                    min(x + 1, across - 1),
                    max(x - 1, 0),
                )
                slope = (
                    (grey[ahead, x] - grey[behind, x]) / (ahead - behind),
                    (grey[y, right] - grey[y, left]) / (right - left),
                )
                steepest = max(steepest, slope, key=lambda s: s[0] ** 2 + s[1] ** 2)
    y, x = row, column
    ahead, behind, right, left = min(y + 1, height - 1), max(y - 1, 0), min(x + 1, across - 1), max(x - 1, 0)
    normal = np.array(
        [
            (float(known[ahead, x]) - known[behind, x]) / (ahead - behind),
            (float(known[y, right]) - known[y, left]) / (right - left),
        ]
    )
    length = np.linalg.norm(normal)
    normal = normal / length if length else normal
    isophote = -steepest[1], steepest[0]  # (down, across), a quarter turn from the slope
    return trust / width**2 * (abs(isophote[0] * normal[0] + isophote[1] * normal[1]) / 255 + 1e-3)


def test_priorities_are_the_paper_s() -> None:
    rng = np.random.default_rng(2)
    grey, confidence = rng.uniform(0, 255, (24, 31)), rng.uniform(0, 1, (24, 31))
    known = ~hole((24, 31), 2)
    known[10:14, 0:6] = False
    answer = priorities(steepest_slopes(grey, known, 5), known, confidence, 5)
    front = ndimage.binary_dilation(known) & ~known  # the default is the cross of four neighbours
    assert np.array_equal(answer > 0, front) and (answer[~front] == 0).all()
    for row, column in np.argwhere(front):
        wanted = priority_as_the_paper_says(grey, known, confidence, 5, row, column)
        assert answer[row, column] == pytest.approx(wanted, rel=1e-9)


# -------------------------------------------------------------------------------------------- structure and texture


def test_decomposition_adds_up_and_separates() -> None:
    rows, columns = np.mgrid[:64, :64]
    edge = np.where(columns < 32, 60.0, 190.0)
    fine = np.where((rows + columns) % 2, 25.0, -25.0)
    picture = np.repeat((edge + fine)[..., None], 3, axis=2)
    structure, texture = decompose(picture)
    assert np.array_equal(structure.astype(int) + texture, picture)
    inner = (slice(8, -8), slice(8, -8))
    assert structure[8:-8, 8:28].std() < 2 and structure[8:-8, 36:-8].std() < 2  # of 25
    assert np.diff(structure[32, :, 0].astype(int)).max() > 60  # the edge stays steep
    assert np.corrcoef(texture[inner][..., 0].ravel(), fine[inner].ravel())[0, 1] > 0.9


def test_structure_and_texture_does_what_neither_does_alone() -> None:
    rows, columns = np.mgrid[:64, :64]
    down, across = rows / 63 - 0.5, columns / 63 - 0.5
    smooth = 128 + 700 * (down**3 - 3 * down * across**2)  # no patch of it recurs, and diffusion restores it
    image = np.rint(smooth + 12.0 * (-1.0) ** (rows + columns)).astype(np.uint8)[..., None].repeat(3, axis=2)
    mask = (rows - 44) ** 2 + (columns - 32) ** 2 < 100
    methods = (structure_and_texture, harmonic, exemplar)
    both, diffused, copied = (np.abs(method(image, mask)[mask] / 1.0 - image[mask]).mean() for method in methods)
    assert both < 0.12 * diffused and both < 0.12 * copied
    flat = np.full_like(image, 97)
    assert np.array_equal(structure_and_texture(flat, mask), flat)


# --------------------------------------------------------------------------------------------------------- PatchMatch


def nearest_by_force(target: np.ndarray, source: np.ndarray, width: int) -> np.ndarray:
    """The least cost of each patch, over all patches of the source."""
    ours, theirs = (
        np.stack([
            picture[row : row + width, column : column + width].ravel().astype(float)
            for row, column in np.ndindex(len(picture) - width + 1, picture.shape[1] - width + 1)
        ])
        for picture in (target, source)
    )  # fmt: skip
    cost = (ours**2).sum(1)[:, None] + (theirs**2).sum(1) - 2 * ours @ theirs.T
    return cost.min(axis=1).reshape(len(target) - width + 1, -1)


def cost_of(target: np.ndarray, source: np.ndarray, field: np.ndarray, width: int) -> np.ndarray:
    """What a field's matches cost, patch by patch."""
    cost = np.empty(field.shape[:2])
    for row, column in np.ndindex(*cost.shape):
        y, x = field[row, column]
        ours, theirs = target[row : row + width, column : column + width], source[y : y + width, x : x + width]
        cost[row, column] = ((ours.astype(int) - theirs) ** 2).sum()
    return cost


def test_nearest_patches_come_close_to_brute_force() -> None:
    target, source = draw_scene(1, 40, "windows").image, draw_scene(1, 56, "windows").image[:, :48]
    least = nearest_by_force(target, source, 5)
    field, cost = nearest_patches(target, source, 5, sweeps=12)
    assert field.shape == (36, 36, 2) and cost.shape == (36, 36)
    assert np.array_equal(cost, cost_of(target, source, field, 5)) and (cost >= least).all()
    assert cost.mean() < 1.15 * least.mean()
    assert (cost == least).mean() > 0.5
    before = nearest_patches(target, source, 5, sweeps=0)[1]
    assert cost.mean() < 0.3 * before.mean()


def test_a_part_of_a_picture_is_found_again() -> None:
    source = np.random.default_rng(3).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    field, cost = nearest_patches(source[11:35, 17:49], source, 7, sweeps=30)
    assert (cost == 0).all()
    assert np.array_equal(field - np.moveaxis(np.indices(cost.shape), 0, -1), np.broadcast_to((11, 17), field.shape))


def test_only_allowed_patches_are_matched_and_only_wanted_ones_cost() -> None:
    image, rng = draw_scene(2, 40).image, np.random.default_rng(4)
    allowed, wanted = rng.random((34, 34)) < 0.05, rng.random((34, 34)) < 0.5
    start = np.full((34, 34, 2), (99, -5))  # outside: brought in, and replaced where that is not allowed
    for first in (None, start):
        for sweeps in (0, 2):
            field, cost = nearest_patches(image, image, 7, sweeps, first, wanted, allowed)
            assert allowed[field[..., 0], field[..., 1]].all()
            assert np.array_equal(np.isfinite(cost), wanted)
    assert np.array_equal(nearest_patches(image, image, 7, 0, start)[0], start.clip(0, 33))


def test_propagation_spreads_a_find_and_keeps_what_is_better() -> None:
    wanted = np.moveaxis(np.indices((9, 11)), 0, -1) + np.array(
        (2, 3)
    )  # every patch's best match: two down, three across
    far = np.full((9, 11, 2), (0, 40))
    far[4, 5] = wanted[4, 5]

    def measure(field):
        return np.abs(field - wanted).sum(axis=2).astype(float)

    field, cost = propagate(far, measure(far), measure, (50, 50))
    right = (cost == 0) & (field == wanted).all(axis=2)
    assert right[4:6, 5:7].all() and right[3, 5] and right[4, 4] and (cost <= measure(far)).all()
    for _ in range(9):
        field, cost = propagate(field, cost, measure, (50, 50))
    assert (cost == 0).all()
    stuck, _ = propagate(far, measure(far), measure, (5, 50))
    assert stuck[..., 0].max() <= 6 and stuck[..., 1].max() <= 50  # tried matches stay inside, (4, 5)'s own stands


def test_random_search_tries_what_was_drawn() -> None:
    tried = []

    def measure(field):
        tried.append(field)
        return np.full((2, 3), 5.0)

    start, draws = np.full((2, 3, 2), 20), np.random.default_rng(0).uniform(-1, 1, (3, 2, 3, 2))
    field, cost = random_search(start, np.array([[9.0, 5, 1]] * 2), measure, (40, 25), draws)
    for k, scale in enumerate((40, 20, 10)):
        base = np.where(np.array([1, 0, 0])[:, None] & (k > 0), tried[0], start)  # the first column took the first draw
        assert np.array_equal(tried[k], (base + np.rint(scale * draws[k]).astype(int)).clip(0, (40, 25)))
    assert np.array_equal(field[:, 1:], start[:, 1:]) and np.array_equal(field[:, 0], tried[0][:, 0])
    assert cost.tolist() == [[5, 5, 1]] * 2


def test_votes_are_weighted_means() -> None:
    rng = np.random.default_rng(6)
    source, weight = (
        rng.integers(0, 256, (12, 10, 3), dtype=np.uint8),
        rng.uniform(0, 1, (5, 7)) * (rng.random((5, 7)) < 0.7),
    )
    field = np.stack([rng.integers(0, 10, (5, 7)), rng.integers(0, 8, (5, 7))], axis=-1)
    total, weights = np.zeros((7, 9, 3)), np.zeros((7, 9, 1))
    for row, column in np.ndindex(5, 7):
        y, x = field[row, column]
        total[row : row + 3, column : column + 3] += weight[row, column] * source[y : y + 3, x : x + 3]
        weights[row : row + 3, column : column + 3] += weight[row, column]
    wanted = np.divide(total, weights, out=np.zeros_like(total), where=weights > 0)
    assert np.allclose(vote(source, field, weight, 3), wanted)


def test_patchmatch_continues_a_facade_that_diffusion_cannot() -> None:
    image = draw_scene(5, 96, "windows", perspective=0.2).image
    mask = np.zeros((96, 96), bool)
    mask[34:62, 36:66] = True
    errors = {
        method: np.abs(method(image, mask)[mask] / 255 - image[mask] / 255).mean() for method in (patchmatch, harmonic)
    }
    assert errors[patchmatch] < 0.5 * errors[harmonic]


def test_coarser_pictures_know_nothing_of_the_hole() -> None:
    mask = hole((61, 90), 3)
    image = np.where(mask[..., None], np.uint8(255), np.zeros((61, 90, 3), np.uint8))
    levels = classical._pyramid(image, mask, 3)
    assert len(levels) > 2
    for picture, gap in levels:
        assert (picture[~gap] == 0).all() and not gap.all()
