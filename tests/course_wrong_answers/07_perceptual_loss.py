"""Chapter 07: answers as learners get them wrong; ``tests/test_course.py`` explains the columns."""

SUMMED = "return sum(F.mse_loss(ours, theirs) for ours, theirs in zip(found, wanted, strict=True))"
TOGETHER = """\
flat = (torch.cat([features.flatten() for features in maps]) for maps in (found, wanted))
    return F.mse_loss(*flat)"""
TARGET = """\
    with torch.no_grad():
        wanted = encoder((target - mean) / std)
    found = encoder((prediction - mean) / std)
"""
BOTH_DETACHED = """\
    with torch.no_grad():
        wanted = encoder((target - mean) / std)
        found = encoder((prediction - mean) / std)
"""
BOTH_ATTACHED = """\
    wanted = encoder((target - mean) / std)
    found = encoder((prediction - mean) / std)
"""

DIFFERENCE = "(slopes[1] - slopes[0])[0].abs().sum(dim=0)"

PIXEL = "changed[..., pixel[0], pixel[1]]"

PADDED, SPREAD = "rate * old for old in layer.padding", "rate * old for old in layer.dilation"
STRETCHED = """\
            layer.dilation = tuple(rate * old for old in layer.dilation)
            layer.padding = tuple(rate * old for old in layer.padding)
"""
STRIDE_TAKEN = """\
            if jump * stride > farthest:
                layer.stride = (1, 1)
                rate *= stride
            else:
                jump *= stride
"""
COUNTED = """\
            if jump * stride > farthest:
                layer.stride = (1, 1)
                rate *= stride
            jump *= stride
"""
TOO_FAR = COUNTED.replace("jump * stride >", "jump >=")

CUT_OFF = "with torch.no_grad():\n            return self.encoder(x)"

WRONG = {
    "perceptual_distance": [
        ("averaged over the maps", 2, "LaMa sums them", SUMMED, f"{SUMMED} / len(found)"),
        ("not normalised", 1, "not normalised", "mean) / std", "0)"),
        ("mean only", 1, "divide by the standard deviation", "mean) / std", "mean)"),
        ("standard deviation only", 1, "the mean is not taken off", " - mean)", ")"),
        ("squares summed", 1, "squares are summed", "theirs) for", 'theirs, reduction="sum") for'),
        ("absolute differences", 1, "absolute difference", "F.mse_loss", "F.l1_loss"),
        ("deepest map only", 2, "only the deepest map", SUMMED, "return F.mse_loss(found[-1], wanted[-1])"),
        ("one mean over all maps", 2, "one mean over all maps", SUMMED, TOGETHER),
        ("only the prediction normalised", 1, "only the prediction is", "(target - mean) / std", "target"),
        ("only the target normalised", 1, "only the target is", "(prediction - mean) / std", "prediction"),
        ("a gradient for the target", 4, "a gradient reaches the target", TARGET, BOTH_ATTACHED),
        ("no gradient at all", 3, "no gradient reaches the prediction", TARGET, BOTH_DETACHED),
        ("maps of one batch entry", 1, "numbers are off", "F.mse_loss(ours, theirs)", "F.mse_loss(ours[0], theirs[0])"),
    ],
    "pull_change": [
        ("row and column swapped", 0, "swapped", PIXEL, "changed[..., pixel[1], pixel[0]]"),
        ("in place", 0, "clone it first", "changed = picture.clone()", "changed = picture"),
        ("one channel", 0, "only one channel", "changed[..., pixel[0]", "changed[:, 0, pixel[0]"),
        ("the gradient itself", 0, "not how it changes", DIFFERENCE, "slopes[1][0].abs().sum(dim=0)"),
        ("not absolute", 1, "absolute", ".abs()", ""),
        ("absolute after the sum", 1, "before you sum", ".abs().sum(dim=0)", ".sum(dim=0).abs()"),
        ("channels kept", 0, "the shape is", "[0].abs().sum(dim=0)", ".abs()"),
        ("the pixel set, not changed", 0, "numbers are off", "+= step", "= step"),
        ("wants gradients of the caller's", 0, "clone it first", "version.clone()", "version"),
    ],
    "dilate": [
        ("as it came", 0, "as it came", STRETCHED + STRIDE_TAKEN, "            pass\n"),
        ("strides gone, nothing stretched", 0, "no kernel is stretched", "rate *= stride", "pass"),
        ("rate first", 0, "still reads the old map", STRETCHED + STRIDE_TAKEN, STRIDE_TAKEN + STRETCHED),
        ("padding forgotten", 0, "padding must grow", PADDED, "old for old in layer.padding"),
        ("last stride only", 3, "not the last one", "rate *= stride", "rate = stride"),
        ("strides added", 0, "not their sum", "rate *= stride", "rate += stride"),
        ("all strides gone", 1, "two pixels apart", "jump * stride > farthest", "stride > 1"),
        ("in place", 0, "deepcopy it", "copy.deepcopy(stack)", "stack"),
        ("strides that are gone counted", 4, "at most 4 apart: ", STRIDE_TAKEN, COUNTED),
        ("too far by one stride", 4, "at most 4 apart: ", STRIDE_TAKEN, TOO_FAR),
        ("one pixel's dilation for all", 4, None, SPREAD, "rate for old in layer.dilation"),
        ("3×3 only", 4, None, PADDED, "layer.dilation[0] for old in layer.padding"),
    ],
    "FrozenEncoder": [
        ("follows the caller", 1.5, "uses the statistics of the batch", "train(self.batch_statistics)", "train(mode)"),
        ("not set at the beginning", 3.5, "uses the statistics of the batch", "        self.train()\n", ""),
        ("modes exchanged", 1, "uses the running", "train(self.batch_statistics)", "train(not self.batch_statistics)"),
        ("running statistics drift", 2.5, "have changed", "layer.momentum = 0.0", "pass"),
        ("momentum None", 2.5, "have changed", "layer.momentum = 0.0", "layer.momentum = None"),
        ("children only", 2.5, "have changed", "encoder.modules()", "encoder.children()"),
        ("weights not frozen", 3, "not frozen", ".requires_grad_(False)", ""),
        ("cut off", 3, "no gradient reaches the picture", "return self.encoder(x)", CUT_OFF),
        ("train returns nothing", 3, "must return self", "return super().train", "super().train"),
    ],
}  # fmt: skip

NORMALISER = "mean, std = (torch.tensor(numbers).view({}) for numbers in (IMAGENET_MEAN, IMAGENET_STD))"
SUM = "return sum((F.mse_loss(ours, theirs) for ours, theirs in zip(found, wanted{})))"

EQUIVALENT = {  # `make mutants`
    "perceptual_distance": [
        (NORMALISER.format("3, 1, 1"), NORMALISER.format("3, -1, 1")),
        (NORMALISER.format("3, 1, 1"), NORMALISER.format("3, 1, -1")),
        (SUM.format(", strict=True"), SUM.format("")),
        (SUM.format(", strict=True"), SUM.format(", strict=False")),
    ],
    "pull_change": [
        ("changed[..., pixel[0], pixel[1]] += step", "changed[..., pixel[0], pixel[-1]] += step"),
        (
            "slopes.append(torch.autograd.grad(loss(x), x)[0])",
            "slopes.append(torch.autograd.grad(loss(x), x)[-1])",
        ),
        (f"return {DIFFERENCE}", f"return {DIFFERENCE}".replace(")[0]", ")[-1]")),
        (f"return {DIFFERENCE}", f"return {DIFFERENCE}".replace("slopes[1]", "slopes[-1]")),
    ],
    "dilate": [
        ("stride = layer.stride[0]", "stride = layer.stride[1]"),
        ("stride = layer.stride[0]", "stride = layer.stride[-1]"),
    ],
    "FrozenEncoder": [("if isinstance(layer, nn.BatchNorm2d):", "if layer:")],
}
