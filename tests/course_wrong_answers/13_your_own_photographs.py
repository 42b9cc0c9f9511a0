"""Chapter 13: answers as learners get them wrong; ``tests/test_course.py`` explains the columns."""

NEAR = "cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)"
DISTANCE = f"    distance = {NEAR}\n    return distance <= radius"
SQUARE = (
    "    side = 2 * int(radius) + 1\n    return cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)) > 0"
)
DIAMOND = "cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L1, 3)"
ELLIPSE = (
    "    side = int(radius) + 1\n"
    "    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))\n"
    "    return cv2.dilate(mask.astype(np.uint8), disc) > 0"
)

ENDS = "ends += [begin, begin + length]"
CUT = "middle = (start + stop - length) // 2; ends += [max(middle, 0), min(middle + length, side)]"
LENGTH = "min(side, max(least, stop - start + 2 * margin))"
BEGIN = "min(max((start + stop - length) // 2, 0), side - length)"

RAMP = "np.minimum(distance / width, 1)[..., None]"
BLEND = "np.rint(weight * filled + (1 - weight) * picture).astype(np.uint8)"
EXCHANGED = "np.rint((1 - weight) * filled + weight * picture).astype(np.uint8)"
ROUNDED = "np.rint(weight * filled + (1 - weight) * picture)"
BYTES = "filled * weight.astype(np.uint8) + picture * (1 - weight).astype(np.uint8)"
SOFT = "cv2.GaussianBlur(mask.astype(np.float64), (0, 0), width / 2)[..., None]"

WRONG = {
    "grow": [
        ("a square", 0, "a square", DISTANCE, SQUARE),
        ("a diamond", 0, "a diamond", NEAR, DIAMOND),
        ("less than the radius", 1, "exactly this distance", "<= radius", "< radius"),
        ("the radius as a diameter", 0, "not the diameter", "<= radius", "<= radius / 2"),
        ("a structuring element of the radius's size", 0, "numbers are off", DISTANCE, ELLIPSE),
        ("known and hole exchanged", 0, "wrong way round", "<= radius", "> radius"),
        ("distance to the known pixels", 0, "hole must be zero", "(~mask).astype", "mask.astype"),
        ("the ring alone", 0, "only the ring", "distance <= radius", "(distance <= radius) & ~mask"),
        ("in place", 3.5, None, "return distance <= radius", "mask |= distance <= radius\n    return mask"),
        ("rough distances", 2.5, None, "cv2.DIST_MASK_PRECISE", "3"),
        ("a whole radius", 3, None, "<= radius", "<= int(radius)"),
    ],
    "window_around": [
        ("columns first", 0, "columns come first", "for axis in (1, 0)", "for axis in (0, 1)"),
        ("last row left out", 0.5, "one after", "int(covered[-1]) + 1", "int(covered[-1])"),
        ("margin on one side", 1, "on both sides", "2 * margin", "margin"),
        ("bounding box", 1, "without a margin", LENGTH, "min(side, max(least, stop - start))"),
        ("sticks out", 2, "sticks out", BEGIN, "(start + stop - length) // 2"),
        ("moved at the top only", 4, "at the top and left only", BEGIN, "max((start + stop - length) // 2, 0)"),
        ("moved at the bottom only", 3, None, BEGIN, "min((start + stop - length) // 2, side - length)"),
        ("cut instead of moved", 2, "cut where it would", ENDS, CUT),
        ("least forgotten", 4, "numbers are off", "max(least, stop - start + 2 * margin)", "stop - start + 2 * margin"),
        ("margin on top of least", 0, None, LENGTH, "min(side, max(least, stop - start) + 2 * margin)"),
        ("the other side of the picture", 3, None, "mask.shape[1 - axis]", "mask.shape[axis]"),
        ("start and size", 1, "not ends", "[begin, begin + length]", "[begin, length]"),
    ],
    "feathered": [
        ("weights exchanged", 0, "wrong way round", BLEND, EXCHANGED),
        ("pasted", 1, "no feather", RAMP, "mask[..., None]"),
        ("mask blurred", 0, "outside the hole", RAMP, SOFT),
        ("distance of the known pixels", 0, "outside the hole", "(mask.astype", "((~mask).astype"),
        ("first pixel at distance 0", 1, "distance 1, not 0", "distance / width", "(distance - mask) / width"),
        ("width as a diameter", 1, "half as wide", "distance / width", "2 * distance / width"),
        ("weight beyond 1", 2, "beyond 1", RAMP, "(distance / width)[..., None]"),
        ("cut off instead of rounded", 4.5, "cut off", ROUNDED, ROUNDED.removeprefix("np.rint")),
        ("the widest distance instead of the width", 1, None, "distance / width", "distance / distance.max()"),
        ("bytes multiplied", 1, None, BLEND, BYTES),
    ],
}  # fmt: skip

ENDS_OF_HOLE = "start, stop, side = (int(covered[0]), int(covered[-1]) + 1, mask.shape[1 - axis])"

EQUIVALENT = {  # `make mutants`
    "window_around": [
        ("return tuple(ends)", "return ends"),
        (ENDS_OF_HOLE, ENDS_OF_HOLE.replace("int(covered[0])", "covered[0]")),
        (ENDS_OF_HOLE, ENDS_OF_HOLE.replace("int(covered[-1])", "covered[-1]")),
        (ENDS_OF_HOLE, ENDS_OF_HOLE.replace("shape[1 - axis]", "shape[-1 - axis]")),
    ],
}
