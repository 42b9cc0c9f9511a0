"""Chapter 12: answers as learners get them wrong; ``tests/test_course.py`` explains the columns."""

CHANGED = "row = changed(base, **{part: {name: value}})"
TRIED = "[changed(row, generator=dict(width=w)) for w in range(1, 2 * base.generator.width + 1)]"
NEAREST = "return min(candidates, key=lambda settings: abs(cost(settings) - budget))"
STEPS = "max(1, int(base.run.steps * cost(base) / cost(row)))"
REFUSED = 'if getattr(getattr(base, part), name) == value or (part, name) in (fixed, ("run", "seed")):'

STACKED = "np.stack([first[seed] - second[seed] for seed in set(first) & set(second)])"
BY_ORDER = "np.stack([x - y for x, y in zip(first.values(), second.values())])"
KEPT = "differences = differences[:, ~np.isnan(differences).any(axis=0)]"
ZEROED = "differences = np.nan_to_num(differences)"
INTERVAL = "value, low, high = bootstrap_interval(differences.mean(axis=0), level=level)"
ALONE = """one, two = (bootstrap_interval(np.mean([*x.values()], axis=0), level=level) for x in (first, second))
    value, low, high = differences.mean(), one.low - two.high, one.high - two.low"""
SPREAD = "float(each.std(ddof=1)) if len(each) > 1 else np.nan"
AGREE = "agree = (each > 0).all() or (each < 0).all()"
SETTLED = "bool(agree and (low > 0 or high < 0))"

PICTURES = "pictures = found.low > 0 or found.high < 0"
OWN = """one_, other_ = (cell(rows[name], condition, measure) for name in (one, other))
    pictures = one_.high < other_.low or other_.high < one_.low"""
SEEDS = "seeds = len(common) > 1 and found.agree"
COMMON = "{record.seed for record in rows[one]} & {record.seed for record in rows[other]}"
BETTER = '(found.value < 0) == (MEASURED[measure].better == "lower")'

SIGNS = 'rng.choice([-1, 1], size=(1, 1, pictures) if by == "pictures" else (1, seeds, 1))'
OUTSIDE = "np.abs(mean.mean(axis=1)) > 1.96 * mean.std(axis=1) / pictures**0.5"
POOLED = """pooled = flipped.reshape(len(flipped), -1)
        outside = np.abs(pooled.mean(axis=1)) > 1.96 * pooled.std(axis=1) / pooled.shape[1] ** 0.5"""
LOOP = "for _ in range(trials):\n"

WRONG = {
    "fair_row": [
        ("built from the defaults", 1, "begin with `base`", CHANGED, CHANGED.replace("base", "type(base)()")),
        ("width as it is", 4, "compare with the cost of the base", NEAREST, "return row"),
        ("budget of the changed row", 4, "compare with the cost of the base", " = cost(base)", " = cost(row)"),
        ("the first that costs as much", 4, "the nearest; not", NEAREST,
         "return next((x for x in candidates if cost(x) >= budget), candidates[-1])"),
        ("the last that costs no more", 4, "the nearest; not", NEAREST,
         "return ([candidates[0]] + [x for x in candidates if cost(x) <= budget])[-1]"),
        ("the larger of two", 4, "take the smaller", "min(candidates", "min(candidates[::-1]"),
        ("up to the base's width", 4, None, "2 * base.generator.width", "base.generator.width"),
        ("seconds upside down", 4, "the wrong way round", "cost(base) / cost(row)", "cost(row) / cost(base)"),
        ("rounded", 4, "cut off", "int(base", "round(base"),
        ("steps in fractions", 3, "cut off", STEPS, "max(1, base.run.steps * cost(base) / cost(row))"),
        ("no step left", 4, None, "max(1, int(", "(int("),
        ("nothing refused", 4, "raise ValueError", REFUSED, "if False:"),
        ("the seed is a row", 4, "raise ValueError", ' or (part, name) in (fixed, ("run", "seed"))',
         " or (part, name) == fixed"),
        ("the budget's own setting", 4, None, 'in (fixed, ("run", "seed"))', '== ("run", "seed")'),
        ("the value that is there", 4, None, "getattr(getattr(base, part), name) == value or ", ""),
        ("width equal at equal seconds, too", 3, None, 'equal == "parameters"', 'equal != "steps"'),
        ("the first change is lost", 3, None, "[changed(row, generator", "[changed(base, generator"),
        ("steps of the base", 3, None, "return changed(row, run", "return changed(base, run"),
    ],
    "two_uncertainties": [
        ("second minus first", 0, "second minus first", "first[seed] - second[seed]", "second[seed] - first[seed]"),
        ("seeds as pictures", 0, "average over seeds before", "differences.mean(axis=0)", "differences.ravel()"),
        ("two separate intervals", 0, "the scores are paired", INTERVAL, ALONE),
        ("paired by order", 1, "by their names", STACKED, BY_ORDER),
        ("divisor S", 0, "ddof=1", "ddof=1", "ddof=0"),
        ("spread over pictures", 0, "not over pictures", SPREAD, "float(differences.mean(axis=0).std(ddof=1))"),
        ("spread of the mean", 0, "not of their mean", "float(each.std(ddof=1))",
         "float(each.std(ddof=1)) / len(each) ** 0.5"),
        ("agreement not asked", 3, "the seeds disagree", SETTLED, "bool(low > 0 or high < 0)"),
        ("only agreement", 3, None, SETTLED, "bool(agree)"),
        ("NumPy's truth", 0, "settled is a bool", SETTLED, "agree and (np.array(low) > 0 or np.array(high) < 0)"),
        ("NaN kept", 3, "leave out what is NaN", KEPT, ""),
        ("NaN as 0", 3, None, KEPT, ZEROED),
        ("0 for no spread", 2, "has no spread", "else np.nan", "else 0.0"),
        ("always 95%", 1, "the level is the one", ", level=level", ""),
        ("four values", 0, "five values", "spread, bool", "bool"),
        ("an end at 0 is enough", 3, None, "low > 0 or high < 0", "low >= 0 or high <= 0"),
        ("only above 0", 1, "below 0, too", " or (each < 0).all()", ""),
    ],
    "verdict": [
        ("lower is always better", 3, "higher scores are better", BETTER, "found.value < 0"),
        ("higher is always better", 2, "lower errors are better", BETTER, "found.value > 0"),
        ("the rows' own intervals", 1, "own intervals overlap", PICTURES, OWN),
        ("seeds not asked", 2, "whether the seeds agree", SEEDS, "seeds = True"),
        ("one seed agrees", 2, "one seed agrees with itself", "len(common) > 1 and ", ""),
        ("seeds counted, agreement not asked", 2, "whether the seeds agree", " and found.agree", ""),
        ("seeds of the first row", 3, None, f" & {COMMON.split(' & ')[1]}", ""),
        ("settled is all", 3, None, 'if not pictures:', 'if not found.settled:'),
        ("pictures not asked", 3, "the interval holds 0", PICTURES, "pictures = True"),
        ("an end at 0 is enough", 3, None, PICTURES, "pictures = found.low >= 0 or found.high <= 0"),
        ("never both", 3, "more of both", '"more pictures" if seeds else "more of both"', '"more pictures"'),
        ("the loser", 2, "lower errors are better", "return one if", "return other if not"),
        ("pictures and seeds exchanged", 3, None, '"more seeds"', '"more pictures"'),
    ],
    "stars_by_chance": [
        ("cells flipped by themselves", 3, "one for all cells", "(1, 1, pictures)", "(len(differences), 1, pictures)"),
        ("seeds flipped apart", 3, "one sign for a picture in all seeds", "(1, 1, pictures)", "(1, seeds, pictures)"),
        ("always by pictures", 2, "every second time", ' if by == "pictures" else (1, seeds, 1)', ""),
        ("always by seeds", 2, "hardly a star", '(1, 1, pictures) if by == "pictures" else ', ""),
        ("drawn once", 0, "anew in every trial", LOOP, f"{LOOP}        rng = np.random.default_rng(0)\n"),
        ("nothing flipped", 0, "anew in every trial", f" * {SIGNS}", ""),
        ("0 and 1", 0, None, "[-1, 1]", "[0, 1]"),
        ("no root", 2, "half width is that of a mean", " / pictures**0.5", ""),
        ("seeds as pictures", 3, None, f"outside = {OUTSIDE}", POOLED),
        ("agreement not asked", 2, "no agreement, no star", "(outside & agree)", "outside"),
        ("interval not asked", 2, "not enough", "(outside & agree)", "agree"),
        ("the mean of all trials", 0, "one number for each trial", "np.array(counts)", "np.array(np.mean(counts))"),
        ("only above 0", 0, "may lie below 0", " | (each < 0).all(axis=1)", ""),
        ("no absolute value", 0, "may lie below 0", "np.abs(mean.mean(axis=1))", "mean.mean(axis=1)"),
        ("one seed is enough", 0, None, "(each > 0).all(axis=1) | (each < 0).all(axis=1)", "(each > 0).any(axis=1)"),
        ("share instead of number", 1, "not their share", "(outside & agree).sum()", "(outside & agree).mean()"),
    ],
}  # fmt: skip

SIGNED = "flipped = differences * rng.choice([-1, 1], size=(1, 1, pictures) if by == 'pictures' else (1, seeds, 1))"
MEANS = "each, mean = (flipped.mean(axis=2), flipped.mean(axis=1))"
AGREED = "agree = (each > 0).all(axis=1) | (each < 0).all(axis=1)"
FAR = "outside = np.abs(mean.mean(axis=1)) > 1.96 * mean.std(axis=1) / pictures ** 0.5"

EQUIVALENT = {  # `make mutants`
    "fair_row": [
        ("raise ValueError(f'{part}.{name} = {value} is no question at equal {equal}')", "raise ValueError()")
    ],
    "two_uncertainties": [
        ("spread = float(each.std(ddof=1)) if len(each) > 1 else np.nan", ...),  # of one seed it is NaN by itself
        ("each = differences.mean(axis=1)", "each = differences.mean(axis=-1)"),
    ],
    "verdict": [
        (
            "return one if (found.value < 0) == (MEASURED[measure].better == 'lower') else other",
            "return one if (found.value <= 0) == (MEASURED[measure].better == 'lower') else other",
        )
    ],
    "stars_by_chance": [
        ("return np.array(counts)", "return counts"),
        (SIGNED, SIGNED.replace("differences *", "differences /")),
        (MEANS, MEANS.replace("flipped.mean(axis=2)", "flipped.sum(axis=2)")),  # the sign is the same
        (MEANS, MEANS.replace("flipped.mean(axis=1)", "flipped.sum(axis=1)")),  # and so is the ratio
        (FAR, FAR.replace(">", ">=")),  # of all zeros no seed is on a side
        (FAR, FAR.replace("mean.mean(axis=1)", "mean.mean(axis=-1)")),
        (FAR, FAR.replace("std(axis=1)", "std(axis=-1)")),
        (AGREED, AGREED.replace("(axis=1) |", "(axis=-1) |")),
        (AGREED, AGREED.removesuffix("1)") + "-1)"),
    ],
}
