"""Chapter 10: answers as learners get them wrong; ``tests/test_course.py`` explains the columns."""

SIDES = "channels, (rows, columns) = image.shape[1], (side // 2 for side in window.shape)"
BLANKED = f"composite, image = composite * mask, image * mask; {SIDES}"
CENTRES = "mask[..., rows:-rows, columns:-columns]"
WHOLLY = "(F.conv2d(mask, torch.ones_like(window)[None, None]) > window.numel() - 0.5).double()"
SIMILARITY = "brightness * (2 * covariance + c2) / (variances + c2)"
UNCENTRED = "local_mean(composite**2 + image**2)"
SQUARES = "local_mean(composite**2) - mean_x**2 + local_mean(image**2) - mean_y**2"

DRAWN = "scores[rng.integers(count, size=count)]"
FRESH = DRAWN.replace("rng", "np.random.default_rng(seed)")
RETURNED = "return statistic(scores), low, high"
NORMAL = "low, high = scores.mean() + np.array((-2, 2)) * scores.std() / count**0.5"
QUANTILES = "np.quantile(found, [(1 - level) / 2, (1 + level) / 2])"
APART = "np.stack([rng.choice(column, count) for column in scores.T], axis=1) if scores.ndim == 2 else "

DIFFERENCES = "differences = first - second"
RULE = "(~np.isnan(differences)).sum() < 10 or low <= 0 <= high"
SIGNED = 'return "better" if (high < 0) == (better == "lower") else "worse", low, high'
INTERVAL = "_, low, high = bootstrap_interval(differences, level=level)"
TWO_INTERVALS = """one, two = bootstrap_interval(first, level=level), bootstrap_interval(second, level=level)
    low, high = one.low - two.high, one.high - two.low"""
DROPPED = """first, second = first[~np.isnan(first)], second[~np.isnan(second)]
    least = min(len(first), len(second))
    differences = first[:least] - second[:least]"""

ROOT = "torch.linalg.svdvals(x @ y.T).sum()"
CENTRED = """x = (real - real.mean(dim=0)) / (len(real) - 1) ** 0.5
    y = (fake - fake.mean(dim=0)) / (len(fake) - 1) ** 0.5"""
RAW = CENTRED.replace(" - real.mean(dim=0)", "").replace(" - fake.mean(dim=0)", "")
SHIFT = "(real.mean(dim=0) - fake.mean(dim=0)).square().sum()"

WRONG = {
    "ssim_in_hole": [
        ("the whole picture", 1, "mean over the whole picture", CENTRES, f"torch.ones_like({CENTRES})"),
        ("known windows", 1, "mean over the known windows", CENTRES, f"1 - {CENTRES}"),
        ("the window's corner for its centre", 1, "numbers are off", CENTRES, "mask[..., 2 * rows :, 2 * columns :]"),
        ("cut at the end only", 1, "at all four sides", CENTRES, "mask[..., : -2 * rows, : -2 * columns]"),
        ("divided by the whole mask", 0, "divide by the sum of the *cut* mask", "/ (centres.sum", "/ (mask.sum"),
        ("windows wholly in the hole", 0, "if its *centre* is in the hole", CENTRES, WHOLLY),
        ("covariance once", 1, "counts twice", "2 * covariance", "covariance"),
        ("variance without the squared mean", 1, "mean of squares minus", SQUARES, UNCENTRED),
        ("covariance without the means", 1, "lacks the product", " - mean_x * mean_y", ""),
        ("constants not squared", 2, "0.01² and 0.03²", "0.01**2, 0.03**2", "0.01, 0.03"),
        ("no constants", 2, "C₁ and C₂ are missing", "0.01**2, 0.03**2", "0, 0"),
        ("sum over the channels", 1, "three times too large", " * channels)", ")"),
        ("one number for the batch", 0, "one number for each picture", "dim=(1, 2, 3)", "dim=(0, 1, 2, 3)"),
        ("known pixels blanked", 2, "do not blank", SIDES, BLANKED),
        ("rows and columns swapped", 1, None, CENTRES, "mask[..., columns:-columns, rows:-rows]"),
        ("an eleven in the code", 1, None, "(side // 2 for side in window.shape)", "(5, 5)"),
        ("0 where there is no window", 3, None, " * channels)", " * channels).clamp(min=1e-9)"),
        ("brightness alone", 2, "numbers are off", SIMILARITY, "brightness"),
    ],
    "bootstrap": [
        ("without replacement", 0, "with replacement", DRAWN, "scores[rng.permutation(count)]"),
        ("numbers of a row drawn apart", 4, "draw whole rows", "[statistic(", f"[statistic({APART}"),
        ("cut off twice too much", 1, "not 1 − level", QUANTILES, "np.quantile(found, [1 - level, level])"),
        ("value is the mean of the resamples", 0, "as they are", RETURNED, "return np.mean(found), low, high"),
        ("spread of the scores", 0, "too wide", "np.quantile(found", "np.quantile(scores"),
        ("high before low", 1, "low must come before high", RETURNED, "return statistic(scores), high, low"),
        ("no value", 0, "three numbers", RETURNED, "return low, high"),
        ("always the mean", 3, "apply `statistic`", "[statistic(", "[np.mean("),
        ("two standard errors", 1, None, f"low, high = {QUANTILES}", NORMAL),
        ("the same draw each time", 1, "draw anew each time", DRAWN, FRESH),
        ("half a sample", 0, "as many pictures as the scores", "size=count", "size=count // 2"),
        ("resamples for pictures", 0, "as many pictures as the scores", "size=count", "size=resamples"),
        ("too few resamples", 0, "as many resamples", "range(resamples)", "range(30)"),
        ("low first", 0, "the order is", RETURNED, "return low, statistic(scores), high"),
        ("ends in a pair", 0, "three numbers", RETURNED, "return statistic(scores), (low, high)"),
        ("more than asked for", 4, "as many resamples", "range(resamples)", "range(resamples + 10)"),
        ("seed ignored", 4, None, "default_rng(seed)", "default_rng(0)"),
    ],
    "judge": [
        ("second minus first", 0, "second minus first", DIFFERENCES, "differences = second - first"),
        ("two separate intervals", 0, "take the interval of the differences", INTERVAL, TWO_INTERVALS),
        ("higher is always better", 0, "errors are lower", '(better == "lower")', "False"),
        ("lower is always better", 3, "higher scores are better", '(better == "lower")', "True"),
        ("few pictures do", 3, "too few to tell", "(~np.isnan(differences)).sum() < 10 or ", ""),
        ("NaNs counted", 3, "NaNs do not count", "(~np.isnan(differences)).sum()", "len(differences)"),
        ("NaNs dropped apart", 3, "leave a picture out of both", DIFFERENCES, DROPPED),
        ("an end at 0 is enough", 3, "touches it", "low <= 0 <= high", "low < 0 < high"),
        ("always 95%", 3, "hand it on", ", level=level", ""),
        ("no cannot tell", 2, "too few to tell", RULE, "False"),
        ("ten are too few", 3, None, "< 10", "<= 10"),
        ("ends in a pair", 0, "three values", SIGNED, f"{SIGNED[:-9]}(low, high)"),
        ("the verdict alone", 0, "three values", "else \"worse\", low, high", 'else "worse"'),
    ],
    "frechet": [
        ("the root once", 0, "counts twice", "2 * root", "root"),
        ("no means", 1, "means are missing", f"shift = {SHIFT}", "shift = 0"),
        ("means not squared", 1, "is to be squared", SHIFT, f"{SHIFT}.sqrt()"),
        ("divided by N", 1, "not by N", " - 1) ** 0.5", ") ** 0.5"),
        ("root of each number", 2, "root of the matrix", ROOT, "(x.T @ x @ y.T @ y).abs().sqrt().trace()"),
        ("own spreads only", 2, "how they go together", ROOT, "(x.norm(dim=0) * y.norm(dim=0)).sum()"),
        ("not centred", 1, "subtract the mean", CENTRED, RAW),
        ("one set not centred", 0, "numbers are off", "(real - real.mean(dim=0))", "real"),
        ("no root of N - 1", 1, "square root", " - 1) ** 0.5", " - 1)"),
        ("the distance itself", 0, "no root at the end", ".item())", ".item()) ** 0.5"),
        ("a tensor", 0, "return a float", ".item())", ".item()) * torch.ones(())"),
        ("float32", 4, "compute in float64", "real.double(), fake.double()", "real, fake"),
        ("below 0", 4, None, "max(0.0, (", "float(("),
        ("the wrong product", 1, None, "x @ y.T", "x.T @ x @ y.T @ y"),
        ("one mean for all features", 2, "a mean of its own", "mean(dim=0)", "mean()"),
    ],
}  # fmt: skip

SUMS = "return (similarity * centres).sum(dim=(1, 2, 3)) / (centres.sum(dim=(1, 2, 3)) * channels)"
SIDE = "return ('better' if (high < 0) == (better == 'lower') else 'worse', low, high)"

EQUIVALENT = {  # `make mutants`
    "ssim_in_hole": [
        ("c1, c2 = (0.01 ** 2, 0.03 ** 2)", "c1, c2 = ((-0.01) ** 2, 0.03 ** 2)"),
        ("c1, c2 = (0.01 ** 2, 0.03 ** 2)", "c1, c2 = (0.01 ** 2, (-0.03) ** 2)"),
        (SUMS, SUMS.replace("(1, 2, 3)", "(1, -2, 3)", 1)),
        (SUMS, SUMS.replace("(centres.sum(dim=(1, 2, 3)", "(centres.sum(dim=(1, -2, 3)")),
    ],
    "judge": [(SIDE, SIDE.replace("high < 0", "high <= 0"))],  # 0 in the interval has been told before
}
