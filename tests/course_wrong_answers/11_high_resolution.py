"""Chapter 11: answers as learners get them wrong; ``tests/test_course.py`` explains the columns."""

LARGER = 'F.interpolate(mask[None], scale_factor=multiple, mode="nearest")'
SUM = "(predict(image, mask) - image).abs() * mask\n            row.append(wrong.sum() / (3 * mask.sum()))"
HEIGHTS = "heights.append((heights[-1] + 2 * padding - kernel) // stride + 1)"
KNOWN = "((prediction - image).abs() * known).sum() / (3 * known.sum())"
COARSE = "((scale_down(prediction) - coarser).abs() * region).sum() / (3 * region.sum())"
HOLES = "count, labels, boxes, _ = cv2.connectedComponentsWithStats(hole.astype(np.uint8))"
ALL = "count, labels, boxes = 2, hole, np.array([[0] * 4, cv2.boundingRect(hole.astype(np.uint8))])"
ALONE = "for x, slope in zip(features, torch.autograd.grad(loss, features), strict=True):\n        x.grad = slope"
ZIPPED = "for (kernel, stride, padding), rows in zip(reversed(convolutions), heights[-2::-1], strict=True):"
SLOPES = "for x, slope in zip(features, torch.autograd.grad(loss, features), strict=True):"
SHRUNK = "(scale_down(prediction) - coarser)"
ENLARGED = "(prediction - F.interpolate(coarser, size=image.shape[-2:]))"

WRONG = {
    "resolution_sweep": [
        (
            "mean over all pixels", 0, "known pixels are counted",
            SUM,
            "(predict(image, mask) - image).abs()\n            row.append(wrong.mean())",
        ),
        ("mean over the picture", 0, "divided by all pixels", "(3 * mask.sum())", "(3 * mask.numel())"),
        ("sum of the colours", 0, "three times too large", "(3 * mask.sum())", "mask.sum()"),
        (
            "error of the known pixels", 0, "a mask is 1 in the hole",
            ".abs() * mask\n",
            ".abs() * (1 - mask)\n            mask = 1 - mask\n",
        ),
        ("grey border", 2, "turned grey", 'mode="nearest"', 'mode="bilinear"'),
        ("scenes in rows", 1, "not the other way round", "return torch.stack(errors)", "return torch.stack(errors).T"),
        ("averaged over the scenes", 0, "do not average", "torch.stack(row)", "torch.stack(row).mean()"),
        ("mask as it is", 2, "RuntimeError", LARGER, "mask[None]"),
        ("scenes at their own size", 2, "RuntimeError", "draw(number, multiple)", "draw(number, 1)"),
        ("the first scene again and again", 2, None, "draw(number, multiple)", "draw(0, multiple)"),
        ("all colours as grey", 0, None, "(predict(image, mask) - image)", "(predict(image, mask) - image).mean(1)"),
    ],
    "rows_needed": [
        ("last row counted twice", 0, "off by one", "(end - 1) * stride", "end * stride"),
        ("padding ignored", 0, "padding is ignored", "stride - padding", "stride"),
        (
            "from the first to the last", 1, "goes backwards",
            "zip(reversed(convolutions), heights[-2::-1]",
            "zip(convolutions, heights[:-1]",
        ),
        ("strides forgotten", 1, "strides are missing", " * stride - padding", " - padding"),
        (
            "begins above the picture", 3, "nothing begins before 0",
            "max(0, first * stride - padding)",
            "first * stride - padding",
        ),
        (
            "ends below the picture", 3, "nothing ends after",
            "min(rows, (end - 1) * stride - padding + kernel)",
            "(end - 1) * stride - padding + kernel",
        ),
        ("clipped at the picture only", 3, "clip at each layer", "min(rows,", "min(height,"),
        ("kernel on both sides", 0, "not k", "first * stride - padding)", "first * stride - kernel)"),
        ("the window's last row instead of its end", 0, "off by one", "padding + kernel)", "padding + kernel - 1)"),
        ("heights without padding", 3, None, HEIGHTS, HEIGHTS.replace(" + 2 * padding", "")),
    ],
    "fill_by_crops": [
        (
            "whole crop pasted", 0, "known pixels changed",
            "[mine] = predict(picture[crop], hole[crop])[mine]",
            "[:] = predict(picture[crop], hole[crop])",
        ),
        ("in place", 0, "work on a copy", "picture.copy()", "picture"),
        ("no margin", 0, "margin is missing", "filled = picture.copy()", "filled, margin = picture.copy(), 0"),
        ("margin before only", 0, "on both sides", "start + extent + margin", "start + extent"),
        (
            "not on multiples", 0, "not on multiples",
            "crop.append(slice(begin, min(end, length)))",
            "crop.append(slice(max(0, start - margin), min(start + extent + margin, length)))",
        ),
        (
            "end rounded down", 0, "on both sides",
            "-(-(start + extent + margin) // multiple) * multiple",
            "(start + extent + margin) // multiple * multiple",
        ),
        ("rows and columns swapped", 0, "swapped", "x, y, width, height", "y, x, height, width"),
        ("the other hole known", 3, "is missing, too", "hole[crop])[mine]", "mine)[mine]"),
        ("one crop for all", 2, "a crop of its own", HOLES, ALL),
        ("others' pixels written, too", 3, "its own hole only", "labels[crop] == label", "hole[crop]"),
        ("begins before the picture", 3, "stay within", "max(0, start - margin)", "(start - margin)"),
        (
            "one multiple too many", 3, None,
            "-(-(start + extent + margin) // multiple)",
            "((start + extent + margin) // multiple + 1)",
        ),
    ],
    "refinement_step": [
        ("first term in the hole", 1, "1 - mask", "1 - mask", "mask"),
        ("first term everywhere", 1, "not over all", "1 - mask", "torch.ones_like(mask)"),
        (
            "second term everywhere", 1, "over the region only",
            COARSE,
            "(scale_down(prediction) - coarser).abs().mean()",
        ),
        ("known pixels forgotten", 1, "known pixels is missing", KNOWN, "0"),
        ("coarser result forgotten", 1, "coarser result is missing", f"loss + {COARSE}", "loss"),
        ("sum of the colours", 1, "three times too large", "(3 * ", "(1 * "),
        ("first mean over all pixels", 1, "the first term is to be divided", ".sum() / (3 * known.sum())", ".mean()"),
        (
            "second mean over all pixels", 1, "the second term is to be divided",
            ".sum() / (3 * region.sum())",
            ".mean()",
        ),
        ("gradients for the weights, too, added up", 3, "ask for those of the features", ALONE, "loss.backward()"),
        (
            "gradients for the weights, too", 4, "ask for those of the features",
            ALONE,
            "optimizer.zero_grad()\n    loss.backward()",
        ),
        ("no step", 2, "stays as it was", "    optimizer.step()\n", ""),
        ("detached", 2, None, "scale_down(prediction)", "scale_down(prediction.detach())"),
        ("coarser result enlarged", 0, None, SHRUNK, ENLARGED),
    ],
}  # fmt: skip

EQUIVALENT = {  # `make mutants`
    "resolution_sweep": [
        (
            "mask = F.interpolate(mask[None], scale_factor=multiple, mode='nearest')",
            "mask = F.interpolate(mask[None], scale_factor=multiple)",
        )
    ],
    "rows_needed": [
        (ZIPPED, "for (kernel, stride, padding), rows in zip(reversed(convolutions), heights[-2::-1]):"),
        (ZIPPED, "for (kernel, stride, padding), rows in zip(reversed(convolutions), heights[-2::-1], strict=False):"),
    ],
    "fill_by_crops": [
        (
            "for start, extent, length in ((y, height, len(hole)), (x, width, hole.shape[1])):",
            "for start, extent, length in ((y, height, len(hole)), (x, width, hole.shape[-1])):",
        ),
        ("crop.append(slice(begin, min(end, length)))", "crop.append(slice(begin, end))"),
        (
            "begin = max(0, start - margin) // multiple * multiple",
            "begin = max(1, start - margin) // multiple * multiple",
        ),
    ],
    "refinement_step": [
        (SLOPES, "for x, slope in zip(features, torch.autograd.grad(loss, features)):"),
        (SLOPES, "for x, slope in zip(features, torch.autograd.grad(loss, features), strict=False):"),
    ],
}
