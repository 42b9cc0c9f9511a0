"""Fit a filling to its surroundings: it meets the known pixels, and it varies hardly more than they do.

A network that saw few pictures, or little of this kind, fails in two ways that the picture itself gives away. What it
makes of the known pixels beside the hole, which it has to predict as well, is a shade off; and far inside it brings
colours, patterns and blotches that nothing near the hole has. Both are taken back here, after the network, from one
filling and its picture alone.

Shape letters: H × W pixels, uint8 or float32 of 0…255; C = 3 channels.
"""

import cv2
import numpy as np

from lama_minimal.classical import settle

SEAM_REACH = 8
"""How far inside a hole the error beside it still counts for 1/e, pixels. With 8, 2 of 100 pictures have a larger error
in thick holes than without, by .0006 at most; without a limit one in four of 60."""

OCTAVES = 4
"""Frequency bands of an octave each that are compared, and below them the rest: what is wider than 2^OCTAVES pixels."""

WINDOW = 1.5
"""Standard deviation of the neighbourhood over which a band's energy is averaged, pixels of its scale."""

LOUDER = 1.25
"""How many times as loud as around the hole a band may be. What fluctuates by itself, such as a texture's contrast, is
let through: with 1 the error falls a little more, but fillings get further from the originals to one of two judges."""

MARGIN = 128
"""What is further from every hole than this many pixels counts for nothing: five deviations at the coarsest scale."""

# Brightness and two differences of colours, orthonormal: pictures vary much less in colour than in brightness.
_OPPONENT = np.float32([[1, 1, 1], [1, -1, 0], [1, 1, -2]]) / np.sqrt(np.float32([[3], [2], [6]]))


def fit(prediction: np.ndarray, rgb: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The prediction, (H, W, 3) uint8, :func:`without_seam` and :func:`no_louder` than its surroundings."""
    near = tuple(_near(hole.any(axis=axis)) for axis in (1, 0))
    filling = no_louder(without_seam(prediction[near], rgb[near], hole[near]), rgb[near], hole[near])
    fitted = prediction.copy()
    fitted[near] = filling.round().clip(0, 255)
    return fitted


def _near(holes: np.ndarray) -> slice:
    """The rows, or columns, about :data:`MARGIN` around those with a hole."""
    at, step = np.flatnonzero(holes), 2**OCTAVES  # in whole steps, so that scales have the pixels they have anyhow
    return slice(max(0, at[0] - MARGIN) // step * step, at[-1] + MARGIN + 1)


def without_seam(prediction: np.ndarray, rgb: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The prediction, shifted near the hole's border so that it meets the known pixels.

    A network predicts known pixels, too, and what it gets wrong beside the hole it gets wrong in much the same way a
    few pixels further inside. This error, continued into the hole as heat would spread that leaks away, is taken off.
    (In seamless cloning, Pérez et al. 2003, nothing leaks. That gains more in the mean, but it harms a quarter of the
    pictures: deep inside the error is another one.)

    Args:
        prediction: (H, W, 3), of known pixels as well.
        rgb: (H, W, 3), the picture.
        hole: (H, W) bool, with a known pixel somewhere.

    Returns:
        (H, W, 3) float32; only what is in the hole is of use.
    """
    return prediction - settle(prediction.astype(np.float32) - rgb, hole, SEAM_REACH)


def no_louder(filling: np.ndarray, rgb: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The filling, varying in no band of frequencies and no colour much more than its surroundings do.

    The harmonic surface through the known pixels is what a hole looks like where nothing happens in it. What the
    filling adds to it is divided into bands, as in a Laplacian pyramid (Burt and Adelson 1983), and each band, in
    brightness and in two differences of colours, is scaled down to :data:`LOUDER` times the standard deviation that the
    band has around the hole, where it exceeds that. A smooth sky stays smooth, and grey bricks stay grey; nothing is
    ever amplified.

    Args:
        filling: (H, W, 3); only what is in the hole is looked at.
        rgb: (H, W, 3), the picture.
        hole: (H, W) bool, with a known pixel somewhere.

    Returns:
        (H, W, 3) float32; only what is in the hole is of use.
    """
    known, picture = (~hole).astype(np.float32), rgb.astype(np.float32)
    surface = settle(picture, hole)
    added = cv2.transform((filling - surface) * (1 - known)[..., None], _OPPONENT)
    quiet = _quietened(added, cv2.transform(picture, _OPPONENT), known, OCTAVES)
    return surface + cv2.transform(quiet, _OPPONENT.T)


def _quietened(added: np.ndarray, picture: np.ndarray, known: np.ndarray, octaves: int) -> np.ndarray:
    """What a filling adds, (H, W, C), kept down band by band to the picture where ``known``, (H, W) in [0, 1]."""
    weight, size = known[..., None], known.shape[::-1]
    if not octaves or min(size) == 1:
        return _no_louder(added, picture - _local_mean(picture, weight), weight)
    small_added, share = cv2.pyrDown(added), cv2.pyrDown(known)
    small = cv2.pyrDown(picture * weight) / np.maximum(share, 1e-6)[..., None]
    rest = cv2.pyrUp(_quietened(small_added, small, share, octaves - 1), dstsize=size)
    band_added, band = added - cv2.pyrUp(small_added, dstsize=size), picture - cv2.pyrUp(small, dstsize=size)
    return rest + _no_louder(band_added, band, weight)


def _no_louder(added: np.ndarray, band: np.ndarray, known: np.ndarray) -> np.ndarray:
    """A band of what a filling adds, (H, W, C), scaled down to what the same band allows where ``known``."""
    allowed = settle(np.sqrt(_local_mean(np.square(band), known)), known[..., 0] == 0)
    found = np.sqrt(_local_mean(np.square(added), 1 - known))
    return added * np.minimum(1, LOUDER * allowed / np.maximum(found, 1e-3))


def _local_mean(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The weighted mean around each pixel, (H, W, C), of values (H, W, C) with weights (H, W, 1)."""
    sums, weights = cv2.GaussianBlur(values * weight, (0, 0), WINDOW), cv2.GaussianBlur(weight, (0, 0), WINDOW)
    return sums / np.maximum(weights, 1e-6)[..., None]
