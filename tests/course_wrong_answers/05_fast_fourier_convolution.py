"""Chapter 05: answers as learners get them wrong; ``tests/test_course.py`` explains the columns."""

SCALED = "{} * scale[:, None, None] + shift[:, None, None]"
AFFINE, AFTER_RELU = f"({SCALED.format('mixed')}).relu()", SCALED.format("mixed.relu()")
MATRIX = f"weight, parts)\n    mixed = {AFFINE}"
SCALED_FIRST = f"weight, {SCALED.format('parts')})\n    mixed = mixed.relu()"
PROJECTED = "project_hermitian(torch.view_as_complex(mixed), x.shape[-1])"

LOCAL = "self.local_to_local(local) + self.global_to_local(glob)"
GLOBAL = "self.local_to_global(local) + self.global_to_global(glob)"
PAIR = f"{LOCAL},\n            {GLOBAL},"
BY_ORIGIN = (
    "self.local_to_local(local) + self.local_to_global(local), self.global_to_local(glob) + self.global_to_global(glob)"
)

UNIT = "(2 * half) ** 2 + 2 * (2 * half)"

VARIANCE = '(state["norm.running_var"] + 1e-5).sqrt()'

WRONG = {
    "fourier_unit": [
        ("blocks", 0, "stand in blocks", "(c part)", "(part c)"),
        ("blocks on the way in", 0, "in blocks on the way in", "part -> b (c part) h k", "part -> b (part c) h k"),
        ("blocks on the way out", 0, "in blocks on the way out", "b (c part) h k ->", "b (part c) h k ->"),
        ("norm missing", 0, "a norm is missing", ', norm="ortho"', ""),
        ("ReLU missing", 0, "the ReLU is missing", ".relu()", ""),
        ("ReLU before scale and shift", 0, "the ReLU comes last", AFFINE, AFTER_RELU),
        ("scale and shift first", 0, "the matrix comes first", MATRIX, SCALED_FIRST),
        ("scale and shift left out", 0, "are not used", AFFINE, "mixed.relu()"),
        ("width not told", 2, "one column is missing", "s=x.shape[-2:], ", ""),
        ("not projected", 4, None, PROJECTED, "torch.view_as_complex(mixed)"),
        ("projected as if the width were even", 2, "numbers are off", "x.shape[-1])", "2 * half.shape[-1] - 2)"),
        ("matrix transposed", 0, "numbers are off", '"oc,bchk', '"co,bchk'),
        ("detached", 4, None, "torch.view_as_real(half)", "torch.view_as_real(half.detach())"),
        ("no return", 0, "return statement", "return torch", "torch"),
    ],
    "FourPaths": [
        ("added by origin", 1, "by where the paths come from", PAIR, f"{BY_ORIGIN},"),
        ("global output first", 1, "local and global are swapped", PAIR, f"{GLOBAL},\n            {LOCAL},"),
        ("zeros beyond the border", 1, "filled with zeros", ', padding_mode="reflect"', ""),
        ("bias", 3, "no bias", "bias=False", "bias=True"),
        ("global to local forgotten", 2, "lacks what comes from the global", " + self.global_to_local(glob)", ""),
        ("local to global forgotten", 2, "lacks what comes from the local", "self.local_to_global(local) + ", ""),
        ("spectral transform forgotten", 2, "lacks its spectral transform", " + self.global_to_global(glob)", ""),
        ("ReLU after the sum", 2, "numbers are off", LOCAL, f"({LOCAL}).relu()"),
        ("detached", 4, None, "self.global_to_local(glob)", "self.global_to_local(glob.detach())"),
        ("own name for a path", 1, "as keys", "self.global_to_local", "self.conv_global_to_local"),
    ],
    "ffc_parameters": [
        ("BatchNorms forgotten", 1, "two BatchNorms", f"2 * half + {UNIT}", "(2 * half) ** 2"),
        ("unit's BatchNorm of half the channels", 1, "two BatchNorms", "2 * (2 * half)", "2 * half"),
        ("running averages, too", 1, "not trained", f"2 * half + {UNIT}", "4 * half + (2 * half) ** 2 + 8 * half"),
        ("real parts only", 1, "real and imaginary", "(2 * half) ** 2", "half**2"),
        ("unit on all global channels", 1, "not on G", UNIT, UNIT.replace("half", "glob")),
        ("one of two paths between", 1.5, "between the branches", "2 * local * glob", "local * glob"),
        ("global to global by 3×3", 1, "no 3×3", "local * local + 2", "local * local + glob * glob + 2"),
        ("ordinary convolution", 1, "no 3×3", "return convolutions + spectral", "return 9 * channels**2"),
    ],
    "read_unit": [
        ("four dimensions", 2, "four dimensions", "[:, :, 0, 0]", ""),
        ("mean not scaled", 2, "in the shift it is scaled", '["norm.running_mean"] * scale', '["norm.running_mean"]'),
        ("mean forgotten", 2, "lacks the mean", ' - state["norm.running_mean"] * scale', ""),
        ("mean added", 2, "wrong sign", '- state["norm.running_mean"]', '+ state["norm.running_mean"]'),
        ("square root forgotten", 1, "square root", ".sqrt()", ""),
        ("1e-5 forgotten", 1, "1e-5 is added", " + 1e-5", ""),
        ("1e-5 outside of the root", 1, "numbers are off", VARIANCE, '(state["norm.running_var"].sqrt() + 1e-5)'),
        ("variance forgotten", 1, "numbers are off", f" / {VARIANCE}", ""),
    ],
}  # fmt: skip

SPECTRAL = "spectral = glob * half + 2 * half + ({} * half) ** 2 + 2 * (2 * half) + half * glob"
TAKEN = "return (state['conv.weight'][:, :, {}], scale, shift)"

EQUIVALENT = {  # `make mutants`
    "fourier_unit": [
        (
            "return torch.fft.irfft2(half, s=x.shape[-2:], norm='ortho')",
            "return torch.fft.irfft2(half, s=x.shape[2:], norm='ortho')",
        )
    ],
    "ffc_parameters": [(SPECTRAL.format(2), SPECTRAL.format(-2))],
    "read_unit": [(TAKEN.format("0, 0"), TAKEN.format("-1, 0")), (TAKEN.format("0, 0"), TAKEN.format("0, -1"))],
}
