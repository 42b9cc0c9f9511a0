"""Inpainting without learning: the methods that a trained network has to beat.

Each takes an 8-bit picture (H, W, 3) and a mask (H, W), True = hole, and answers with the filled 8-bit picture. What
was under the hole is never looked at: the methods see the mean colour there. Known pixels come back bit for bit; a mask
without a hole gives the picture back, and a mask that covers everything a uniform mid-grey, since nothing is known.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from skimage import restoration

Inpaint = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(picture (H, W, 3) uint8, mask (H, W) bool) → filled picture (H, W, 3) uint8."""

RADIUS = 3
"""How far OpenCV's methods look for known pixels, pixels."""

MID_GREY = 128
"""The answer where no pixel is known."""

PATCH = 9
"""Side of the patches that are copied and compared, pixels; as in Criminisi et al."""

CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
"""A pixel and its four neighbours."""

SWEEPS = 8
"""Steps towards the rest at each scale of :func:`settle`. Of what it is used for here, 2 do nearly as well as 16."""


def _fill(image: np.ndarray, mask: np.ndarray, method: Inpaint) -> np.ndarray:
    """Hand ``method`` the picture with the hole blanked, and keep its answer inside the hole only."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be (H, W, 3) uint8, not {image.shape} {image.dtype}")
    if mask.dtype != bool or mask.shape != image.shape[:2]:
        raise ValueError(f"mask must be {image.shape[:2]} bool, not {mask.shape} {mask.dtype}")
    if not mask.any():
        return image.copy()
    if mask.all():
        return np.full_like(image, MID_GREY)
    hole = mask[..., None]  # (H, W, 1)
    # Telea's method reads a few pixels under the hole, which would give it a glimpse of the answer.
    mean = np.rint(image[~mask].mean(axis=0)).astype(np.uint8)
    blanked = np.where(hole, mean, image)
    return np.where(hole, method(blanked, mask), image)


def telea(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Fill from the border inwards, each pixel a weighted mean of its known neighbours (Telea 2004; OpenCV).

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) bool, True = hole.

    Returns:
        (H, W, 3) uint8.
    """
    return _fill(image, mask, lambda x, hole: cv2.inpaint(x, hole.astype(np.uint8), RADIUS, cv2.INPAINT_TELEA))


def navier_stokes(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Carry lines of equal brightness into the hole as a fluid would flow (Bertalmío et al. 2001; OpenCV).

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) bool, True = hole.

    Returns:
        (H, W, 3) uint8.
    """
    return _fill(image, mask, lambda x, hole: cv2.inpaint(x, hole.astype(np.uint8), RADIUS, cv2.INPAINT_NS))


def biharmonic(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The smoothest surface through the known pixels, ``Δ²u = 0`` (Damelin and Hoang 2018; scikit-image).

    One sparse linear system for all holes. With thick masks on one core: 6 ms at 64 pixels a side, 20 ms at 128,
    0.12 s at 256, 1.9 s at 512; a system for each region of its own is no faster up to 256.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) bool, True = hole.

    Returns:
        (H, W, 3) uint8.
    """

    def solve(x: np.ndarray, hole: np.ndarray) -> np.ndarray:
        surface = restoration.inpaint_biharmonic(x.astype(np.float64) / 255, hole, channel_axis=-1)
        return np.rint(surface.clip(0, 1) * 255).astype(np.uint8)

    return _fill(image, mask, solve)


def mean_colour(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Fill with the mean colour of the known pixels: the floor below which no method should fall.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) bool, True = hole.

    Returns:
        (H, W, 3) uint8.
    """
    return _fill(image, mask, lambda x, _: x)


# --------------------------------------------------------------------------------------------------- heat in a hole


def solve_laplace(u: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Let heat flow in the hole until it rests: ``Δu = 0`` there, and nothing crosses the picture's border.

    A step of the heat equation reaches one pixel further, and a wide hole takes thousands to settle. Conjugate
    gradients get there in a few times as many steps as the hole is wide, and need no matrix.

    Args:
        u: (H, W, C) float64; what stands in the hole is where the search starts.
        hole: (H, W) bool, with a known pixel somewhere.

    Returns:
        (H, W, C) float64, exact to about a hundredth of a grey level where u is 0…255.
    """
    at, number = np.nonzero(hole), np.arange(hole.size).reshape(hole.shape)
    padded = np.pad(number, 1, mode="edge")  # a neighbour beyond the border is the pixel itself: no flow
    above, left, right, below = (
        padded[at[0] + row, at[1] + column] for row, column in ((0, 1), (1, 0), (1, 2), (2, 1))
    )
    inside = number[at]  # (N,)

    def flow(x: np.ndarray) -> np.ndarray:  # (H·W, C) → (N, C): what the four neighbours have more than the pixel
        return x[above] + x[left] + x[right] + x[below] - 4 * x[inside]

    answer = u.reshape(hole.size, -1).copy()
    direction = np.zeros_like(answer)
    residual = direction[inside] = flow(answer)
    energy = np.square(residual).sum(axis=0)
    while energy.max() > 1e-8 * len(inside):
        back = -flow(direction)
        step = energy / np.maximum((direction[inside] * back).sum(axis=0), 1e-300)  # a channel at rest stays there
        answer[inside] += step * direction[inside]
        residual = residual - step * back
        before, energy = energy, np.square(residual).sum(axis=0)
        direction[inside] = residual + energy / np.maximum(before, 1e-300) * direction[inside]
    return answer.reshape(u.shape)


def settle(u: np.ndarray, hole: np.ndarray, reach: float = np.inf) -> np.ndarray:
    """Nearly what :func:`solve_laplace` finds, some hundred times as fast: from coarse to fine.

    At half the size, where the hole is half as wide, heat has to flow half as far; what has come to rest there is
    where the search starts here, and a few steps of the heat equation mend what the small picture cannot show. So it
    goes on down to a picture that is known everywhere (the first half of a multigrid cycle, Brandt 1977).

    Args:
        u: (H, W, C) float32; what stands in the hole is not looked at.
        hole: (H, W) bool, with a known pixel somewhere.
        reach: where heat also leaks away, ``Δu = u / reach²``: over this many pixels u falls to 1/e.

    Returns:
        (H, W, C) float32, as ``u`` outside the hole.
    """
    if not hole.any():
        return u
    (height, width), known = hole.shape, (~hole).astype(np.float32)
    small_size = -(-width // 2), -(-height // 2)
    share = cv2.resize(known, small_size, interpolation=cv2.INTER_AREA)  # of a small pixel's area
    sums = cv2.resize(u * known[..., None], small_size, interpolation=cv2.INTER_AREA)
    small = settle(sums / np.maximum(share, 1e-6)[..., None], share < 1e-6, reach / 2)
    start = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    inside, answer = hole.astype(np.uint8), u.copy()
    cv2.copyTo(start, inside, answer)
    neighbours = np.float32([[0, 1, 0], [1, 0, 1], [0, 1, 0]]) / (4 + 1 / reach**2)
    for _ in range(SWEEPS):  # beyond the border is the pixel itself: no flow
        cv2.copyTo(cv2.filter2D(answer, -1, neighbours, borderType=cv2.BORDER_REPLICATE), inside, answer)
    return answer


def harmonic(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The heat equation at rest, ``Δu = 0``: each pixel of the hole is the mean of its four neighbours.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) bool, True = hole.

    Returns:
        (H, W, 3) uint8.
    """
    return _fill(image, mask, lambda x, hole: _bytes(solve_laplace(x.astype(np.float64), hole)))


def _bytes(picture: np.ndarray) -> np.ndarray:
    return np.rint(picture.clip(0, 255)).astype(np.uint8)


# ---------------------------------------------------------------------------------- exemplars: copying whole patches


def _windows(picture: np.ndarray, width: int) -> np.ndarray:
    """Every patch (H - width + 1, W - width + 1, …, width, width) of a picture (H, W, …), as a view."""
    return sliding_window_view(picture, (width, width), axis=(0, 1))


def whole_patches(known: np.ndarray, width: int) -> np.ndarray:
    """At which upper left corners a patch is known completely: (H - width + 1, W - width + 1) bool."""
    return _windows(known, width).all(axis=(2, 3))


def _widest(hole: np.ndarray, width: int) -> int:
    """The widest odd patch up to ``width`` that is known completely somewhere, or 1."""
    fits = range(min(width, min(hole.shape) - 1 + min(hole.shape) % 2), 1, -2)
    return next((w for w in fits if whole_patches(~hole, w).any()), 1)


def front(known: np.ndarray) -> np.ndarray:
    """What is not known and has one of its four neighbours known: (H, W) bool."""
    return (cv2.dilate(known.astype(np.uint8), CROSS) > 0) & ~known


def steepest_slopes(grey: np.ndarray, known: np.ndarray, width: int) -> np.ndarray:
    """For each pixel of the front the steepest slope that its patch knows.

    Args:
        grey: (H, W) float.
        known: (H, W) bool.
        width: of a patch, pixels, odd.

    Returns:
        (2, H, W): change per pixel downwards and to the right; 0 off the front.
    """
    edge, radius = front(known), width // 2
    trusted = cv2.erode(known.astype(np.uint8), CROSS) > 0  # where no neighbour that the slope needs is missing
    slopes = np.pad(np.stack(np.gradient(grey)) * trusted, ((0, 0), (radius, radius), (radius, radius)))
    near = sliding_window_view(slopes, (width, width), axis=(1, 2))[:, edge].reshape(2, -1, width**2)
    steepest = np.square(near).sum(axis=0).argmax(axis=1)
    result = np.zeros((2, *known.shape))
    result[:, edge] = near[:, np.arange(len(steepest)), steepest]
    return result


def priorities(slopes: np.ndarray, known: np.ndarray, confidence: np.ndarray, width: int) -> np.ndarray:
    """Where to go on filling: confidence × data, for each pixel of the front (Criminisi et al. 2004, Section III).

    The confidence term is the mean confidence of the patch. The data term says how squarely a line of equal brightness
    hits the front: ``|∇⊥I · n| / 255``, ``∇⊥I`` the slope turned by a quarter, n the front's unit normal. A thousandth
    is added to it, so that flat surroundings are filled where they are known best.

    Args:
        slopes: (2, H, W), of :func:`steepest_slopes`, for grey levels 0…255.
        known: (H, W) bool.
        confidence: (H, W) float, 1 where the picture was known at first, 0 where nothing is known yet.
        width: of a patch, pixels, odd; beyond the picture's border the confidence is 0.

    Returns:
        (H, W) float: positive on the front, 0 elsewhere.
    """
    edge, radius = front(known), width // 2
    trust = _windows(np.pad(confidence, radius), width)[edge].mean(axis=(1, 2))
    down, right = slopes[:, edge]
    normal = np.stack(np.gradient(known.astype(np.float64)))[:, edge]
    length = np.sqrt(np.square(normal).sum(axis=0))
    data = np.abs(down * normal[1] - right * normal[0]) / np.maximum(length, 1e-12) / 255
    result = np.zeros(known.shape)
    result[edge] = trust * (data + 1e-3)
    return result


def patch_distances(picture: np.ndarray, patch: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Squared differences of one patch to every patch of the picture, over the patch's known pixels.

    Args:
        picture: (H, W, C) float32. Of whole numbers within ±128 every sum is exact: no rounding, whatever the machine.
        patch: (width, width, C) float32.
        known: (width, width) bool.

    Returns:
        (H - width + 1, W - width + 1) float32, by upper left corner.
    """
    weight, patch = known.astype(np.float32), patch * known[..., None]

    def slide(plane: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        height, width = kernel.shape
        return cv2.filter2D(plane, -1, kernel, anchor=(0, 0))[: len(plane) - height + 1, : plane.shape[1] - width + 1]

    cross = sum(slide(picture[..., c].copy(), patch[..., c].copy()) for c in range(picture.shape[2]))
    return slide(np.square(picture).sum(axis=2), weight) - 2 * cross + np.square(patch).sum()


def exemplar(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Copy whole patches of the known part, where a line meets the hole first (Criminisi, Pérez and Toyama 2004).

    Where no patch of :data:`PATCH` is known completely, smaller ones are copied; where not even one of
    3 × 3 is, the answer is :func:`harmonic`. With thick masks on one core: 0.3 s at 128 pixels a side, 3 s at 256.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) bool, True = hole.

    Returns:
        (H, W, 3) uint8.
    """
    return _fill(image, mask, _copy_patches)


def _copy_patches(x: np.ndarray, hole: np.ndarray) -> np.ndarray:
    width = _widest(hole, PATCH)
    if width == 1:
        return harmonic(x, hole)
    picture = x.astype(np.float32) - 128
    known, confidence = ~hole, (~hole).astype(np.float64)
    usable = whole_patches(known, width)  # patches are copied from the picture itself, never from what was filled
    while not known.all():
        order = priorities(steepest_slopes(picture.mean(axis=2), known, width), known, confidence, width)
        order = np.round(order / order.max(), 6)  # equal but for rounding: the first one, on every machine
        row, column = np.unravel_index(order.argmax(), order.shape)
        top, left = (np.clip((row, column) - np.array(width // 2), 0, np.array(usable.shape) - 1)).tolist()
        here = slice(top, top + width), slice(left, left + width)
        missing = ~known[here]
        distances = np.where(usable, patch_distances(picture, picture[here], ~missing), np.inf)
        top, left = np.unravel_index(distances.argmin(), distances.shape)
        there = slice(top, top + width), slice(left, left + width)
        picture[here][missing] = picture[there][missing]
        confidence[here][missing] = confidence[here].mean()
        known[here] = True
    return _bytes(picture + 128)


# -------------------------------------------------------------------------------------------- structure and texture


def decompose(picture: np.ndarray, weight: float = 40) -> tuple[np.ndarray, np.ndarray]:
    """Split a picture into structure and texture by total variation (Rudin, Osher and Fatemi 1992; scikit-image).

    The structure is the picture that stays close to this one and has little contrast along its outlines in total: flat
    regions with sharp edges. The texture is what is left.

    Args:
        picture: (H, W, 3), 0…255.
        weight: how much goes into the texture, grey levels.

    Returns:
        The structure, (H, W, 3) uint8, and the texture, (H, W, 3) int16; their sum is the picture, rounded.
    """
    structure = _bytes(255 * restoration.denoise_tv_chambolle(picture / 255, weight / 255, channel_axis=-1))
    return structure, _bytes(picture).astype(np.int16) - structure


def structure_and_texture(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Fill the structure by diffusion and the texture by copying, and add them (Bertalmío, Vese, Sapiro, Osher 2003).

    The paper grows texture pixel by pixel (Efros and Leung 1999) and continues structure along lines of equal
    brightness; here the two are :func:`exemplar` and :func:`harmonic`.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) bool, True = hole.

    Returns:
        (H, W, 3) uint8.
    """

    def solve(x: np.ndarray, hole: np.ndarray) -> np.ndarray:
        # A smooth filling first, or the decomposition would see an edge along the hole.
        structure, texture = decompose(harmonic(x, hole))
        texture = exemplar(_bytes(texture + 128.0), hole) - 128.0
        return _bytes(harmonic(structure, hole) + texture)

    return _fill(image, mask, solve)


# --------------------------------------------------------------------------------------------------------- PatchMatch

Measure = Callable[[np.ndarray], np.ndarray]
"""Matches (h, w, 2) int → their cost (h, w); infinite where a match is not allowed."""


def _better(
    field: np.ndarray, cost: np.ndarray, candidate: np.ndarray, measure: Measure, last: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The cheaper match of two fields, patch by patch; the candidate is brought into the picture first."""
    candidate = candidate.clip(0, last)
    tried = measure(candidate)
    better = tried < cost
    return np.where(better[..., None], candidate, field), np.where(better, tried, cost)


def propagate(
    field: np.ndarray, cost: np.ndarray, measure: Measure, last: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Each patch tries what its neighbours found: if theirs is good, the patch beside theirs may be good for me.

    All patches at once, one direction after another, where the paper goes through the picture pixel by pixel; a pixel
    at the border looks around the corner to the other side, which is a candidate like any other.

    Args:
        field: (h, w, 2) int, upper left corner (row, column) of each patch's match.
        cost: (h, w), of these matches.
        measure: the cost of other matches.
        last: greatest row and column of a match.

    Returns:
        The better field and its cost.
    """
    for shift in ((1, 0), (0, 1), (-1, 0), (0, -1)):
        candidate = np.roll(field, shift, axis=(0, 1)) + np.array(shift)
        field, cost = _better(field, cost, candidate, measure, last)
    return field, cost


def random_search(
    field: np.ndarray, cost: np.ndarray, measure: Measure, last: tuple[int, int], draws: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Each patch tries random places around its match, each time in a square half as large.

    Args:
        field: (h, w, 2) int, upper left corner (row, column) of each patch's match.
        cost: (h, w), of these matches.
        measure: the cost of other matches.
        last: greatest row and column of a match.
        draws: (K, h, w, 2) random numbers, -1…1; draw k is scaled by ``max(last) / 2**k``.

    Returns:
        The better field and its cost.
    """
    for k, draw in enumerate(draws):
        candidate = field + np.rint(draw * (max(last) / 2**k)).astype(field.dtype)
        field, cost = _better(field, cost, candidate, measure, last)
    return field, cost


def _measure(target: np.ndarray, source: np.ndarray, width: int, wanted: np.ndarray, allowed: np.ndarray) -> Measure:
    """Squared differences of the wanted patches to their matches; infinite elsewhere."""
    ours = _windows(target, width)[wanted].reshape(wanted.sum(), -1)  # (N, K)
    theirs = _windows(source, width).reshape(*allowed.shape, -1)

    def measure(field: np.ndarray) -> np.ndarray:
        rows, columns = field[wanted].T
        # Whole numbers below 2²⁴, up to patches of 9 × 9 × 3: every sum is exact.
        difference = np.subtract(ours, theirs[rows, columns], dtype=np.float32)
        distances = np.einsum("nk,nk->n", difference, difference)
        cost = np.full(wanted.shape, np.inf, np.float32)
        cost[wanted] = np.where(allowed[rows, columns], distances, np.inf)
        return cost

    return measure


def nearest_patches(
    target: np.ndarray,
    source: np.ndarray,
    width: int = PATCH,
    sweeps: int = 5,
    start: np.ndarray | None = None,
    wanted: np.ndarray | None = None,
    allowed: np.ndarray | None = None,
    rng: np.random.Generator | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """For each patch of one picture a similar one of another: PatchMatch (Barnes et al. 2009).

    Args:
        target: (H, W, 3) uint8.
        source: (H', W', 3) uint8.
        width: of a patch, pixels, at most 9.
        sweeps: how often to propagate and search.
        start: (h, w, 2) int, a first field, h = H - width + 1 and w = W - width + 1; random by default.
        wanted: (h, w) bool, the patches of the target that matter; all by default.
        allowed: (h', w') bool, the patches of the source that may be matched, one at least; all by default.
        rng: where the randomness comes from; by default always the same.

    Returns:
        The field, (h, w, 2) int: upper left corner (row, column) of each match, and its cost, (h, w) float32: squared
        differences, infinite for patches that are not wanted.
    """
    rng = rng or np.random.default_rng(0)
    size, sizes = ((len(picture) - width + 1, picture.shape[1] - width + 1) for picture in (target, source))
    wanted = np.ones(size, bool) if wanted is None else wanted
    allowed = np.ones(sizes, bool) if allowed is None else allowed
    measure, last = _measure(target, source, width, wanted, allowed), (sizes[0] - 1, sizes[1] - 1)
    places = np.argwhere(allowed)
    field = places[rng.integers(len(places), size=size)]
    if start is not None:
        start = start.clip(0, last)
        field = np.where(allowed[start[..., 0], start[..., 1]][..., None], start, field)
    cost = measure(field)
    for _ in range(sweeps):
        field, cost = propagate(field, cost, measure, last)
        draws = rng.uniform(-1, 1, (max(sizes).bit_length(), *size, 2))  # down to the next pixel
        field, cost = random_search(field, cost, measure, last, draws)
    return field, cost


def vote(source: np.ndarray, field: np.ndarray, weight: np.ndarray, width: int) -> np.ndarray:
    """Lay every patch's match over the picture; each pixel is the weighted mean of what lies there.

    Args:
        source: (H', W', 3) uint8.
        field: (h, w, 2) int, upper left corner of each patch's match.
        weight: (h, w), 0 = leave it out.
        width: of a patch, pixels.

    Returns:
        (h + width - 1, w + width - 1, 3) float64; black where nothing lies.
    """
    total = np.zeros((weight.shape[0] + width - 1, weight.shape[1] + width - 1, 4))  # three colours and the weight
    here = np.array(np.nonzero(weight))  # (2, N)
    there, strength = field[tuple(here)].T, weight[tuple(here)][:, None]
    for shift in np.argwhere(np.ones((width, width)))[:, :, None]:
        (row, column), (from_row, from_column) = here + shift, there + shift
        total[row, column, :3] += strength * source[from_row, from_column]
        total[row, column, 3:] += strength
    return total[..., :3] / np.maximum(total[..., 3:], 1e-300)


def patchmatch(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Match every patch that touches the hole, let the matches vote, repeat; from coarse to fine (Barnes et al. 2009).

    What the hole ends as is a picture all of whose patches occur in the known part (Wexler, Shechtman, Irani 2007).
    Where no patch of 3 × 3 is known completely, the answer is :func:`harmonic`. With thick masks on one core: 0.8 s at
    128 pixels a side, 3 s at 256.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) bool, True = hole.

    Returns:
        (H, W, 3) uint8.
    """
    return _fill(image, mask, _match_and_vote)


def _pyramid(x: np.ndarray, hole: np.ndarray, width: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Picture and hole at full size, half, a quarter …, as long as the smaller one holds four patches, one whole."""
    levels = [(x, hole)]
    while min(hole.shape) >= 4 * width:
        size = -(-hole.shape[1] // 2), -(-hole.shape[0] // 2)
        x = cv2.resize(x, size, interpolation=cv2.INTER_AREA)
        hole = cv2.resize(hole.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0  # whatever touches it
        if not whole_patches(~hole, width).any():
            break
        levels.append((x, hole))
    return levels


def _doubled(field: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A field for twice the size: the coarser matches, twice as far away."""
    rows, columns = np.indices(size)
    coarse = field[(rows // 2).clip(max=len(field) - 1), (columns // 2).clip(max=field.shape[1] - 1)]
    return 2 * coarse + np.stack([rows % 2, columns % 2], axis=-1)


def _match_and_vote(x: np.ndarray, hole: np.ndarray) -> np.ndarray:
    width, rng = _widest(hole, PATCH), np.random.default_rng(0)
    if width == 1:
        return harmonic(x, hole)
    levels = _pyramid(x, hole, width)
    filled, field = harmonic(*levels[-1]), None
    for level, (picture, gap) in reversed([*enumerate(levels)]):
        allowed, wanted = whole_patches(~gap, width), _windows(gap, width).any(axis=(2, 3))
        # The deeper in the hole, the less is known: a patch has less to say.
        depth = cv2.distanceTransform(gap.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        weight = wanted / np.square(1.0 + _windows(depth, width)[..., width // 2, width // 2])
        sweeps = [2] * (6 + 2 * level)  # coarse levels cost little, and decide what goes where
        if field is not None:
            filled, field = picture, _doubled(field, allowed.shape)
            sweeps = [0, *sweeps]  # first the coarser matches vote as they are
        for number in sweeps:
            field, _ = nearest_patches(filled, picture, width, number, field, wanted, allowed, rng)
            filled = np.where(gap[..., None], _bytes(vote(picture, field, weight, width)), picture)
    return filled


BASELINES: dict[str, Inpaint] = {
    "Telea": telea,
    "Navier-Stokes": navier_stokes,
    "biharmonic": biharmonic,
    "mean colour": mean_colour,
}
"""The methods that stand beside a network in every table, in the order in which they are shown."""

CLASSICS: dict[str, Inpaint] = {
    "mean colour": mean_colour,
    "heat equation": harmonic,
    "biharmonic": biharmonic,
    "Telea": telea,
    "Navier-Stokes": navier_stokes,
    "structure + texture": structure_and_texture,
    "exemplar": exemplar,
    "PatchMatch": patchmatch,
}
"""Every method of this module, in the order in which chapter 01 tells them."""
