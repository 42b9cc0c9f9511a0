"""Chapter 02: answers as learners get them wrong; ``tests/test_course.py`` explains the columns."""

KEPT = "return mask * prediction + (1 - mask) * image"
IN_PLACE = "image[(mask == 1).expand_as(image)] = prediction[(mask == 1).expand_as(image)]; return image"

DISTANCE = "cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)"
FULL = '    if mask.all():\n        return float("inf")\n'
EMPTY = "    if not mask.any():\n        return 0.0\n"
BORDER_KNOWN = "cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)"
PADDED = f"{DISTANCE.replace('mask.astype(np.uint8)', BORDER_KNOWN)}[1:-1, 1:-1]"

END = ", endpoint=True"
ANGLE = "rng.choice(DIRECTIONS)"
THICKNESS = "rng.integers(*width, endpoint=True)"
DOWN = "y + reach * np.cos(angle)"
BOTH = "vertices, widths = [(x, y)], []"
LOOP = f"for _ in range(rng.integers(*segments, endpoint=True)):\n        angle = {ANGLE}"

PENS = "strokes=(5, 10),\n        width=(10, 30),\n        length=(20, 80)"
MORE = "strokes=(10, 20),\n        width=(10, 30),\n        length=(40, 160)"
FEW = "strokes=(2, 5),\n        width=(20, 60),\n        length=(20, 80)"

WRONG = {
    "keep_known": [
        ("sign of the mask", 0, "sign of the mask", KEPT, "return (1 - mask) * prediction + mask * image"),
        ("hole left black", 0, "still black", KEPT, "return (1 - mask) * image"),
        ("prediction inside only", 1, "outside the hole", KEPT, "return mask * prediction"),
        ("prediction everywhere", 0, "prediction everywhere", KEPT, "return prediction"),
        ("picture everywhere", 0, "picture everywhere", KEPT, "return image"),
        ("picture not blacked out", 1, "sum of both", "(1 - mask) * image", "image"),
        ("prediction not cut out", 0, "known pixels hold the sum", "mask * prediction", "prediction"),
        ("first mask for all", 1, "numbers are off", KEPT, KEPT.replace("mask", "mask[:1]")),
        ("written into the picture", 2, None, KEPT, IN_PLACE),
        ("detached", 2, None, "mask * prediction", "mask * prediction.detach()"),
    ],
    "mean_width": [
        ("mean over all pixels", 1, "over all pixels", "distance[mask].mean()", "distance.mean()"),
        ("greatest distance", 1, "greatest distance", "distance[mask].mean()", "distance.max()"),
        ("from side to side", 1, "twice as much", "distance[mask].mean()", "2 * distance[mask].mean()"),
        ("distances of known pixels", 0, "known pixels to the hole", "### BEGIN SOLUTION", "mask = ~mask"),
        ("steps along rows and columns", 2, "steps along", DISTANCE, DISTANCE.replace("L2", "L1")),
        ("chessboard steps", 2, "chessboard", DISTANCE, DISTANCE.replace("L2", "C").replace("PRECISE", "3")),
        ("approximated by 3 × 3", 1, "3 × 3 accuracy", "cv2.DIST_MASK_PRECISE", "cv2.DIST_MASK_3"),
        ("approximated by 5 × 5", 2, "5 × 5 accuracy", "cv2.DIST_MASK_PRECISE", "cv2.DIST_MASK_5"),
        ("edge of the picture known", 2, "edge is no known pixel", DISTANCE, PADDED),
        ("no special case without a known pixel", 3, "nothing known", FULL, ""),
        ("no special case without a hole", 3, "no hole", EMPTY, ""),
        ("mask not converted", 1, "error", "mask.astype(np.uint8)", "mask"),
    ],
    "sample_stroke": [
        ("last length never drawn", 5, "greatest length never comes", f"*length{END}", "*length"),
        ("last number of segments never drawn", 5, "greatest number of segments", f"*segments{END}", "*segments"),
        ("last thickness never drawn", 5, None, f"*width{END}", "*width"),
        ("one segment too many", 5, "not right yet", f"*segments{END})", f"*segments{END}) + 1"),
        ("sine and cosine swapped", 5, "sine and cosine", ANGLE, f"np.pi / 2 - {ANGLE}"),
        ("rows and columns swapped", 4, "mixed up", "rows, columns = size", "columns, rows = size"),
        ("not clipped", 5, "leaves the picture", f"np.clip({DOWN}, 0, rows)", DOWN),
        ("clipped a pixel early", 5, "a pixel too early", "0, columns)", "0, columns - 1)"),
        ("any direction", 5, "one of the four", ANGLE, "rng.uniform(0, 2 * np.pi)"),
        ("one thickness for the stroke", 5, None, f"({THICKNESS})", f"([*widths, {THICKNESS}][0])"),
        ("one direction for the stroke", 5, None, LOOP, f"angle = {ANGLE}\n    {LOOP.replace(ANGLE, 'angle')}"),
        ("always from the middle", 4, None, "rng.integers(columns), rng.integers(rows)", "columns / 2, rows / 2"),
        ("a seed of its own", 0, None, "rows, columns = size", "rng = np.random.default_rng(0); rows, columns = size"),
        ("NumPy's global generator", 5, None, "for _ in", "rng = np.random.default_rng()\n    for _ in"),
        ("the start forgotten", 0, "Error", BOTH, "vertices, widths = [], []"),
    ],
    "design_recipe": [
        ("odds as a share", 3, "odds of 2 : 1", "1 / 3", "1 / 2"),
        ("share of the strokes", 3, "not of the strokes", "1 / 3", "2 / 3"),
        ("percent", 3, "no percentage", "most_area=0.4", "most_area=40"),
        ("no limit", 3, "more than 40%", "        most_area=0.4,\n", ""),
        ("pair turned round", 1, "in this order", "(10, 30)", "(30, 10)"),
        ("half as thick", 2, "too little", "(10, 30)", "(5, 15)"),
        ("twice as thick, half as many", 3, "too wide", PENS, FEW),
        ("too few and small boxes", 3, "too little", "(7, 13)", "(1, 3)"),
        ("long strokes, thrown away", 3, "throws too much away", PENS, MORE),
        ("too many boxes", 3, "too much", "(7, 13)", "(14, 30)"),
        ("a limit that nothing passes", 1, None, "most_area=0.4", "most_area=0.004"),
        ("four numbers for two", 0, "Error", "        strokes=(5, 10),\n", ""),
    ],
}  # fmt: skip

RIGHT_TOO = (
    "return MaskRecipe(strokes=(5, 10), width=(10, 30), length=(20, 80), box_share=1 / 3, boxes=(7, 13), "
    "box_side=(22, 48), most_area=0.4)"
)
CLIPPED = "x = np.clip(x + reach * np.sin(angle), 0, columns)"

EQUIVALENT = {  # `make mutants`
    "mean_width": [("return float(distance[mask].mean())", "return distance[mask].mean()")],  # a number all the same
    "sample_stroke": [
        ("return (np.array(vertices, dtype=float), np.array(widths))", "return (np.array(vertices), np.array(widths))"),
        (CLIPPED, CLIPPED.replace(" 0,", " -1,")),  # without mirroring no step leads to the left
    ],
    "design_recipe": [(RIGHT_TOO, ...)],  # many recipes are right: a range may be a pixel longer
}
