"""Chapter 01: answers as learners get them wrong; ``tests/test_course.py`` explains the columns."""

MEAN = "(padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:])"
HELD = "return np.where(hole[..., None], mean, u)"
IN_TURN = """u = u.copy()
    for row, column in np.argwhere(hole):
        p = np.pad(u, ((1, 1), (1, 1), (0, 0)), mode="edge")
        u[row, column] = (
            p[row, column + 1] + p[row + 2, column + 1] + p[row + 1, column] + p[row + 1, column + 2]
        ) / 4
    return u"""

TRUST = 'ndimage.uniform_filter(confidence, width, mode="constant")'
TURNED = "-right * normal[0] + down * normal[1]"
UNIT = "normal = normal / np.maximum(np.sqrt((normal**2).sum(axis=0)), 1e-12)"

ROLLED = "np.roll(field, shift, axis=(0, 1)) + np.array(shift)"
CLIPPED = "candidate = candidate.clip(0, last)"
TAKE = "field = np.where(better[..., None], candidate, field)"
COST = "cost = np.where(better, tried, cost)"
REACH = "field + np.rint(draw * max(last) / 2**k).astype(int)"

WRONG = {
    "heat_step": [
        ("everything flows", 1, "known pixels must be held", HELD, "return mean"),
        ("sum, not mean", 1, "not their mean", f"{MEAN} / 4", MEAN),
        ("its own neighbour", 1, "not among its neighbours", f"{MEAN} / 4", f"({MEAN} + u) / 5"),
        ("divided by three", 1, "numbers are off", " / 4", " / 3"),
        ("black beyond the border", 4, "there is not black", 'mode="edge"', 'mode="constant"'),
        ("wraps around", 4, "wraps around", 'mode="edge"', 'mode="wrap"'),
        ("mirrored border", 4, None, 'mode="edge"', 'mode="reflect"'),
        ("sign of the mask", 0, "other way round", "hole[..., None], mean, u", "hole[..., None], u, mean"),
        ("one after another", 2, "one after another", HELD, IN_TURN),
        ("in place", 4, None, HELD, "u[hole] = mean[hole]\n    return u"),
        ("above and below only", 1, "numbers are off", " + padded[1:-1, :-2] + padded[1:-1, 2:]) / 4", ") / 2"),
        ("no return", 0, "return statement", HELD, HELD.removeprefix("return ")),
    ],
    "fill_priority": [
        ("confidence of the pixel itself", 0, "that is the pixel's own", TRUST, "confidence"),
        ("front on the known side", 0, "the front belongs to the hole", "known) & ~known", "~known) & known"),
        ("diagonal neighbours", 3, "diagonal", "binary_dilation(known)", "binary_dilation(known, np.ones((3, 3)))"),
        ("slope not turned", 2, "by a quarter", TURNED, "down * normal[0] + right * normal[1]"),
        ("turned the wrong way in one place", 3, "numbers are off", TURNED, "right * normal[0] + down * normal[1]"),
        ("normal of any length", 2, "of length 1", UNIT, "normal = normal"),
        ("no absolute value", 1, "absolute", f"np.abs({TURNED})", f"({TURNED})"),
        ("not divided by 255", 2, "divide the data term", " / 255", ""),
        ("nothing added", 1, "add 0.001", " + 0.001", ""),
        ("sum instead of product", 1, "not a sum", "trust * (", "trust + ("),
        ("confidence repeated beyond the border", 4, None, 'mode="constant"', 'mode="nearest"'),
        ("width fixed", 4, None, "confidence, width, mode", "confidence, 5, mode"),
    ],
    "propagate_matches": [
        ("the neighbour's own match", 1, "add the shift", " + np.array(shift)", ""),
        ("on the wrong side", 1, "do not subtract", "+ np.array(shift)", "- np.array(shift)"),
        ("dearer matches kept", 0, "is the cheaper match taken", "tried < cost", "tried > cost"),
        ("costs not updated", 0, "costs are the old ones", COST, "pass"),
        ("field not updated", 0, "is the cheaper match taken", TAKE, "pass"),
        ("from above and from the left only", 1, None, ", (-1, 0), (0, -1))", ")"),
        ("another order", 2, None, "((1, 0), (0, 1), (-1, 0), (0, -1))", "((0, -1), (-1, 0), (0, 1), (1, 0))"),
        ("not clipped", 3, "clip the candidate", CLIPPED, "pass"),
        ("clipped at zero only", 3, "clip the candidate", "clip(0, last)", "clip(0, None)"),
        ("rolled one after another, not asked", 1, None, COST, f"{COST}\n        break"),
    ],
    "search_nearby": [
        ("not rounded to whole numbers", 3, None, ".astype(int)", ""),
        ("not halved", 2, "divide by 2**k", " / 2**k", ""),
        ("around the start", 2, "around the best so far", "= field +", "= (start := start if k else field) +"),
        ("cut off instead of rounded", 1, "rounds towards 0", REACH, "field + (draw * max(last) / 2**k).astype(int)"),
        ("smaller side", 1, "max(last)", "max(last)", "min(last)"),
        ("not clipped", 3, "clip the candidate", CLIPPED, "pass"),
        ("costs not updated", 0, "costs are the old ones", COST, "pass"),
        ("dearer matches kept", 0, "numbers are off", "tried < cost", "tried > cost"),
        ("halved from the start", 1, "numbers are off", "2**k", "2 ** (k + 1)"),
        ("first draw only", 1, "numbers are off", COST, f"{COST}\n        break"),
    ],
}  # fmt: skip

EQUIVALENT = {  # `make mutants`
    "fill_priority": [
        (
            "data_term = np.abs(-right * normal[0] + down * normal[1]) / 255",
            "data_term = np.abs(-right * normal[0] + down * normal[-1]) / 255",
        )
    ],
    "propagate_matches": [
        ("better = tried < cost", "better = tried <= cost"),  # which of two equal matches is kept is left open
        (
            "candidate = np.roll(field, shift, axis=(0, 1)) + np.array(shift)",
            "candidate = np.roll(field, shift, axis=(0, 1)) + shift",
        ),
    ],
    "search_nearby": [("better = tried < cost", "better = tried <= cost")],
}
