"""Chapter 03: answers as learners get them wrong; ``tests/test_course.py`` explains the columns."""

GROW = "size += (kernel - 1) * dilation * jump"
STRIDE_FIRST = (f"{GROW}\n        jump *= stride", f"jump *= stride\n        {GROW}")

SLOPE = "(slope,) = torch.autograd.grad(y[:, channel].sum(), x, retain_graph=True)"
BACKWARD = "y[:, channel].sum().backward(retain_graph=True)\n        slope = x.grad"
SQUARES = "slope.square().sum(dim=(0, 1))"

ADD = "variance += (kernel**2 - 1) / 12 * (dilation * jump) ** 2"
REST = f"{ADD}\n        jump *= stride\n    return variance**0.5"
SPREADS = "variance += ((kernel**2 - 1) / 12) ** 0.5 * dilation * jump\n        jump *= stride\n    return variance"

HYPOT = "torch.hypot(rows[:, None], columns[None])"
HELD = "field.flatten()[order].cumsum(0) / field.sum()"
ROWS = "torch.arange(height, dtype=torch.float64)"
COLUMNS = "torch.arange(width, dtype=torch.float64)"
SHAPE = "height, width = field.shape"

WRONG = {
    "receptive_fields": [
        ("taps instead of gaps", 0, "k − 1 gaps", "(kernel - 1)", "kernel"),
        ("starts at 0", 0, "starts at 1", "size, jump, fields = 1, 1", "size, jump, fields = 0, 1"),
        ("one side only", 0, "k // 2", "(kernel - 1)", "(kernel // 2)"),
        ("last layer only", 0, "for each layer", "return fields", "return fields[-1:]"),
        ("own stride first", 2, "own stride", *STRIDE_FIRST),
        ("jump forgotten", 2, "the jump times as much", " * jump", ""),
        ("strides added", 0, "product of the strides", "jump *= stride", "jump += stride"),
        ("from the output backwards", 0, "in the order of the data", "in layers", "in reversed(layers)"),
        ("dilation ignored", 2, "dilation is ignored", " * dilation", ""),
        ("dilation multiplies the taps", 2, "number of taps", "(kernel - 1) * dilation", "(kernel * dilation - 1)"),
        ("dilation lengthens later steps", 2, "this layer only", "jump *= stride", "jump *= stride * dilation"),
        ("stride of the last layer left out", 2, None, "size, jump))", "size, jump // stride))"),
    ],
    "field_by_gradient": [
        ("BatchNorm in training mode", 4, "network.eval()", "network.eval()", "network.train()"),
        ("row and column swapped", 4, "swapped", "row, column = pixel", "column, row = pixel"),
        ("channels added first", 2, "channels are added", "in range(y.shape[1])", "in [slice(None)]"),
        ("pictures averaged first", 4, "averaged before", SQUARES, "slope.mean(0).square().sum(0) * len(inputs)"),
        ("pictures added first", 4, "added before they are squared, where", SQUARES, "slope.sum(0).square().sum(0)"),
        ("magnitudes", 0, "instead of squares", "slope.square()", "slope.abs()"),
        ("sum over pictures", 4, "not their mean", "field / len(inputs)", "field"),
        ("mean over the input's channels", 1, "averaged, not summed", SQUARES, "slope.square().sum(dim=0).mean(dim=0)"),
        ("gradients pile up", 2, "channels before", SLOPE, BACKWARD),
        ("only the first channel", 2, "numbers are off", "range(y.shape[1])", "range(1)"),
        ("normalised", 0, "numbers are off", "field / len(inputs)", "field / field.sum()"),
        ("every output position", 0, "numbers are off", "[:, :, row, column]", ".sum(dim=(2, 3))"),
    ],
    "spread": [
        ("variance returned", 0, "root is missing", "return variance**0.5", "return variance"),
        ("standard deviations added", 0, "variances that add", REST, SPREADS),
        ("variance of an interval", 0, "(k² − 1) / 12", "(kernel**2 - 1)", "kernel**2"),
        ("mean of the variances", 0, "mean of the variances", "variance**0.5", "(variance / len(layers)) ** 0.5"),
        ("step not squared", 1, "its square", "(dilation * jump) ** 2", "dilation * jump"),
        ("jump forgotten", 1, "the jump is missing", "(dilation * jump)", "dilation"),
        ("own stride first", 1, "own stride", f"{ADD}\n        jump *= stride", f"jump *= stride\n        {ADD}"),
        ("dilation ignored", 2, "dilation is ignored", "(dilation * jump)", "jump"),
        ("dilation not squared", 2, "dilation is not squared", "(dilation * jump) ** 2", "dilation * jump**2"),
    ],
    "radius_of": [
        ("from the middle", 2, "given centre", SHAPE, f"{SHAPE}\n    centre = (height // 2, width // 2)"),
        ("row and column swapped", 1, "swapped", SHAPE, f"{SHAPE}\n    centre = centre[::-1]"),
        ("squared distance", 0, "squared distance", HYPOT, "(rows[:, None] ** 2 + columns[None] ** 2)"),
        ("sum of the distances", 1, "are added", HYPOT, "(rows[:, None].abs() + columns[None].abs())"),
        ("squares instead of discs", 1, "not a disc", HYPOT, "torch.maximum(rows[:, None].abs(), columns[None].abs())"),
        ("not divided by the sum", 0, "divide by its sum", " / field.sum()", ""),
        ("one distance too few", 1, "less than the share", "[held >= share][0]", "[held < share][-1]"),
        ("pixels counted", 0, "counts alike", HELD, "torch.linspace(0, 1, len(order))"),
        ("field not sorted", 0, "numbers are off", "field.flatten()[order]", "field.flatten()"),
        ("amplitude instead of energy", 1, None, "held = ", "field = field.sqrt()\n    held = "),
        ("a tensor", 0, "a Tensor, not a float", ".item()", ""),
    ],
}  # fmt: skip

# Found by ``tests/mutants.py``; as right as the reference.
EQUIVALENT = {
    "field_by_gradient": [
        ("x = inputs.clone().requires_grad_()", "x = inputs.requires_grad_()"),
        ("for channel in range(y.shape[1]):", "for channel in range(y.shape[-1]):"),
        ("field = torch.zeros_like(inputs[0, 0])", "field = torch.zeros_like(inputs[-1, 0])"),
        ("field = torch.zeros_like(inputs[0, 0])", "field = torch.zeros_like(inputs[0, -1])"),
    ],
    "spread": [("variance, jump = (0.0, 1)", "variance, jump = (0.0, -1)")],  # it is squared
    "radius_of": [
        (f"rows = {ROWS} - centre[0]", "rows = torch.arange(height) - centre[0]"),  # torch.hypot promotes
        (f"columns = {COLUMNS} - centre[1]", "columns = torch.arange(width) - centre[1]"),
        (f"columns = {COLUMNS} - centre[1]", f"columns = {COLUMNS} - centre[-1]"),
        (f"held = {HELD}", f"held = {HELD.replace('cumsum(0)', 'cumsum(-1)')}"),
    ],
}
