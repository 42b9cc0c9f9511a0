"""Chapter 04: answers as learners get them wrong; ``tests/test_course.py`` explains the columns."""

PRODUCT = "left @ picture.to(torch.complex128) @ right"
SPECTRA = "torch.fft.rfft2(picture) * torch.fft.rfft2(placed)"

BY_CONV2D = "F.conv2d(picture[None, None], kernel.flip((0, 1))[None, None], padding=(height // 2, width // 2))[0, 0]"
COLUMNS = "(0,) if width % 2 else (0, width // 2)"

WRONG = {
    "dft2": [
        ("norm missing", 1, "factor 1/√N", " / side**0.5", ""),
        ("divided by N", 1, "divide by √N", "side**0.5", "side"),
        ("plus in the exponent", 2, "conjugate", "-2j", "2j"),
        ("rows only", 1, "on the left is missing", PRODUCT, "picture.to(torch.complex128) @ right"),
        ("columns only", 1, "on the right is missing", PRODUCT, "left @ picture.to(torch.complex128)"),
        ("conjugate transpose on the right", 1, "in reverse", "@ right", "@ right.conj().T"),
        ("counts from 1", 1, "start at 1", "torch.arange(side,", "torch.arange(1, side + 1,"),
        ("right for squares only", 0, "RuntimeError", "left, right = matrices", "left = right = matrices[0]"),
        ("detached through numpy", 3, None, "picture.to(", "torch.from_numpy(picture.detach().numpy()).to("),
        ("magnitudes", 2, "not complex128", f"return {PRODUCT}", f"return ({PRODUCT}).abs()"),
        ("no return", 0, "return statement", "return left", "left"),
    ],
    "convolve_wrapped": [
        ("cross-correlation", 1, "mirrored", "kernel[i, j]", "kernel[height - 1 - i, width - 1 - j]"),
        ("zeros beyond the border", 1, "filled with zeros", "return result", f"return {BY_CONV2D}"),
        ("origin at the kernel's corner", 0, "not its corner", "(i - height // 2, j - width // 2)", "(i, j)"),
        ("rows and columns swapped", 1, "swapped", "dims=(0, 1)", "dims=(1, 0)"),
        ("height for both radii", 3, None, "j - width // 2", "j - height // 2"),
        ("last row forgotten", 0, "numbers are off", "range(height)", "range(height - 1)"),
        ("kernel normalised", 1, "numbers are off", "kernel[i, j] *", "kernel[i, j] / kernel.sum() *"),
    ],
    "convolve_spectrum": [
        ("width not told", 3, "one column is missing", ", s=picture.shape", ""),
        ("one norm too many", 0, "too small", SPECTRA, f"{SPECTRA} / picture.numel() ** 0.5"),
        ("kernel left in the corner", 0, "rolled to pixel", "(-(height // 2), -(width // 2))", "(0, 0)"),
        ("rolled the wrong way", 0, "the other way", "(-(height // 2), -(width // 2))", "(height // 2, width // 2)"),
        ("conjugate product", 2, "cross-correlation", "torch.fft.rfft2(placed)", "torch.fft.rfft2(placed).conj()"),
        ("roll of rows and columns swapped", 2, None, "dims=(0, 1)", "dims=(1, 0)"),
        ("detached kernel", 3, None, "[:height, :width] = kernel", "[:height, :width] = kernel.detach()"),
        ("sum of spectra", 0, "numbers are off", "(picture) * torch", "(picture) + torch"),
    ],
    "project_half": [
        ("as it came", 1, "as it came", "return projected", "return half_spectrum"),
        ("last column bound at odd widths", 3, "last column is free", COLUMNS, "(0, width // 2)"),
        ("first column only", 2, "last column is its own", COLUMNS, "(0,)"),
        ("conjugate missing", 0, "conjugate is missing", ".conj()", ""),
        ("flip without roll", 0, "off by one", ".roll(1, dims=-2)", ""),
        ("sum instead of mean", 0, "not the mean", " / 2", ""),
        ("in place", 3, None, "half_spectrum.clone()", "half_spectrum"),
        ("real part", 0, "numbers are off", "(old + mirrored) / 2", "old.real + 0j"),
    ],
}  # fmt: skip

EQUIVALENT = {  # `make mutants`
    "convolve_wrapped": [
        (
            "result = result + kernel[i, j] * picture.roll(shift, dims=(0, 1))",
            "result = result + kernel[i, j] * picture.roll(shift, dims=(0, -1))",
        )
    ],
    "convolve_spectrum": [
        (
            "placed = placed.roll((-(height // 2), -(width // 2)), dims=(0, 1))",
            "placed = placed.roll((-(height // 2), -(width // 2)), dims=(0, -1))",
        )
    ],
    "project_half": [
        (
            "for column in (0,) if width % 2 else (0, width // 2):",
            "for column in (0,) if width % -2 else (0, width // 2):",
        ),
        ("mirrored = old.flip(-2).roll(1, dims=-2).conj()", "mirrored = old.flip(2).roll(1, dims=-2).conj()"),
        ("mirrored = old.flip(-2).roll(1, dims=-2).conj()", "mirrored = old.flip(-2).roll(1, dims=2).conj()"),
    ],
}
