"""3×3 convolutions with half the multiplications: minimal filtering along the height of the picture.

F(4, 3) (Winograd, "Arithmetic Complexity of Computations", 1980; Lavin and Gray, "Fast Algorithms for Convolutional
Neural Networks", CVPR 2016): six rows of the input become six sums of rows, each goes through a 1×3 convolution of its
own, and sums of the six results are four rows of the output: 6 · 3 multiplications instead of 4 · 9. Sums of whole rows
cost little; the same along the width would cost more than it saves.

:func:`convolve` is the whole convolution, for training, and :func:`convolve_backward` goes the same way back: what is
linear has a transpose. Filling has its own form, with weights made ready once
(:class:`~lama_minimal.kernels.WinogradBank`).

Shape letters: B batch, C channels, H × W pixels, n tiles of rows, d dilation. Functions of rows take any dimensions
behind the third.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lama_minimal import gradients

LEAST_PRODUCTS = 2**26
"""Fewest products of an input's and an output's channel, over all pixels of a batch, for which :func:`convolve` is
faster: 1.1 times at 128 × 384 channels of 2 × 32² pixels, its gradients 1.4 times; half as much work loses some."""

LEAST_CHANNELS = 128
"""Fewest channels of input and of output: with 64, what the sums take exceeds what they save, in time and memory."""


def empty(like: Tensor, batch: int, channels: int, *size: int) -> Tensor:
    """An empty (B, C, …), channels innermost, of the type and on the device of ``like``."""
    return torch.empty(batch, *size, channels, dtype=like.dtype, device=like.device).movedim(-1, 1)


def _rows_of(sums: Sequence[Tensor], rows: int, more: int = 0) -> Tensor:
    """An empty (B, C, rows · n + more, …) for sums (B, C, n, …)."""
    batch, channels, count, *rest = sums[0].shape
    return empty(sums[0], batch, channels, rows * count + more, *rest)


# --------------------------------------------------------------------------------------------------------------- rules


def split_four(x: Tensor) -> list[Tensor]:
    """Four rows and their neighbours above and below, (B, C, 4n + 2, …) → six sums of rows, (B, C, n, …)."""
    row = [x[:, :, offset : x.shape[2] - 5 + offset : 4] for offset in range(6)]
    even, odd = torch.add(row[4], row[2], alpha=-4), torch.add(row[3], row[1], alpha=-4)
    even_2, odd_2 = row[4] - row[2], row[3] - row[1]
    return [
        torch.add(row[4], row[2], alpha=-5).add_(row[0], alpha=4),
        even + odd,
        even.sub_(odd),
        torch.add(even_2, odd_2, alpha=2),
        even_2.sub_(odd_2, alpha=2),
        torch.add(row[5], row[3], alpha=-5).add_(row[1], alpha=4),
    ]


def split_four_transposed(sums: Sequence[Tensor]) -> Tensor:
    """The transpose of :func:`split_four`: six slopes (B, C, n, …), used up, → (B, C, 4n + 2, …)."""
    out, (zero, one, minus_one, two, minus_two, infinity) = _rows_of(sums, 4, more=2), sums
    row = [out[:, :, offset : out.shape[2] - 5 + offset : 4] for offset in range(6)]
    even, odd = one + minus_one, one.sub_(minus_one)
    even_2, odd_2 = two + minus_two, two.sub_(minus_two)
    torch.mul(zero, 4, out=row[0])
    torch.add(infinity, odd, alpha=-1, out=row[1]).mul_(4).sub_(odd_2, alpha=2)
    torch.add(odd.add_(odd_2, alpha=2), infinity, alpha=-5, out=row[3])
    torch.mul(zero, -5, out=row[2]).sub_(even, alpha=4).sub_(even_2)
    out[:, :, -2:] = 0
    row[4].add_(zero.add_(even).add_(even_2))  # the next tile's first two rows
    row[5].add_(infinity)
    return out


def join_four(sums: Sequence[Tensor]) -> Tensor:
    """Six results (B, C, n, …), used up, → (B, C, 4n, …)."""
    out, (zero, one, minus_one, two, minus_two, infinity) = _rows_of(sums, 4), sums
    even, odd = one + minus_one, one.sub_(minus_one)
    even_2, odd_2 = two + minus_two, two.sub_(minus_two)
    torch.add(odd, odd_2, alpha=2, out=out[:, :, 1::4])
    torch.add(even, even_2, alpha=4, out=out[:, :, 2::4])
    torch.add(zero, even.add_(even_2), out=out[:, :, 0::4])
    torch.add(infinity, odd.add_(odd_2, alpha=8), out=out[:, :, 3::4])
    return out


def join_four_transposed(slope: Tensor) -> list[Tensor]:
    """The transpose of :func:`join_four`: (B, C, 4n, …) → six slopes (B, C, n, …), of which two are views."""
    row = [slope[:, :, offset::4] for offset in range(4)]
    even, odd = row[0] + row[2], row[1] + row[3]
    even_2, odd_2 = torch.add(row[0], row[2], alpha=4), torch.add(row[1], row[3], alpha=4)
    return [
        row[0],
        even + odd,
        even.sub_(odd),
        torch.add(even_2, odd_2, alpha=2),
        even_2.sub_(odd_2, alpha=2),
        row[3],
    ]


def split_two(x: Tensor) -> list[Tensor]:
    """Two rows and their neighbours above and below, (B, C, 2n + 2, …) → four sums of rows, (B, C, n, …).

    The last one has the other sign than in Lavin and Gray, here and in :func:`join_two`.
    """
    row = [x[:, :, offset : x.shape[2] - 3 + offset : 2] for offset in range(4)]
    return [row[0] - row[2], row[1] + row[2], row[2] - row[1], row[3] - row[1]]


def join_two(sums: Sequence[Tensor]) -> Tensor:
    """Four results (B, C, n, …), used up, → (B, C, 2n, …)."""
    out, (zero, one, minus_one, infinity) = _rows_of(sums, 2), sums
    torch.add(zero.add_(one), minus_one, out=out[:, :, 0::2])
    torch.add(one.sub_(minus_one), infinity, out=out[:, :, 1::2])
    return out


class MinimalFiltering(NamedTuple):
    """A rule F(rows, 3): rows of the output by ``join`` of convolutions of ``split``, with ``filters`` of a kernel."""

    rows: int
    filters: tuple[tuple[float, float, float], ...]
    """A kernel's three rows → one for each point: multiples of a polynomial's values at 0, 1, -1, (2, -2), infinity."""
    split: Callable[[Tensor], list[Tensor]]
    join: Callable[[Sequence[Tensor]], Tensor]

    def kernels(self, weight: Tensor) -> Iterator[Tensor]:
        """A weight (C_out, C, 3, 3) → (C_out, C, 1, 3) for each point, one after another: together they are larger."""
        return (_weighted(weight.split(1, dim=2), factors) for factors in self.filters)

    def kernels_transposed(self, by_kernel: Sequence[Tensor]) -> Tensor:
        """The transpose of :meth:`kernels`."""
        return torch.cat([_weighted(by_kernel, factors) for factors in zip(*self.filters, strict=True)], dim=2)


def _weighted(terms: Sequence[Tensor], factors: Sequence[float]) -> Tensor:
    """``Σ factor · term``, without those that count nothing."""
    (first, factor), *others = [pair for pair in zip(terms, factors, strict=True) if pair[1]]
    total = first * factor
    for term, factor in others:
        total.add_(term, alpha=factor)
    return total


TWO_ROWS = MinimalFiltering(
    2, ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)), split_two, join_two
)
"""F(2, 3): factors of 1 and -1 only, which bfloat16 can bear; 1.7 times the rounding error of the direct sums."""
FOUR_ROWS = MinimalFiltering(
    4,
    (
        (1 / 4, 0, 0),
        (-1 / 6, -1 / 6, -1 / 6),
        (-1 / 6, 1 / 6, -1 / 6),
        (1 / 24, 1 / 12, 1 / 6),
        (1 / 24, -1 / 12, 1 / 6),
        (0, 0, 1),
    ),
    split_four,
    join_four,
)
"""F(4, 3): two to three times the rounding error of the direct sums, some 2e-6 of the output's spread in float32."""


# --------------------------------------------------------------------------------------------------- whole convolutions


def pays(x: Tensor, weight: Tensor, stride: tuple[int, ...], dilation: tuple[int, ...]) -> bool:
    """Whether :func:`convolve` and its way back serve, and are faster, for ``x`` (B, C, H, W) without its border.

    In float32, on a CPU, for 3×3 kernels without a stride, if the rows come in whole tiles, and many pixels in many
    channels, which lie innermost.
    """
    return (
        x.device.type == "cpu"
        and x.is_contiguous(memory_format=torch.channels_last)
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and weight.shape[2:] == (3, 3)
        and set(stride) == {1}
        and dilation[0] == dilation[1]
        and x.shape[2] % (4 * dilation[0]) == 0
        and min(weight.shape[:2]) >= LEAST_CHANNELS
        and len(weight) * x.numel() >= LEAST_PRODUCTS
    )


def convolve(x: Tensor, weight: Tensor, dilation: int = 1) -> Tensor:
    """Convolve (B, C, H + 2d, W + 2d), d the ``dilation``, H a multiple of 4d, with (C_out, C, 3, 3): (B, C_out, H, W).

    Rows a dilation apart belong together: of each d rows, every one has its own neighbours. Not differentiable.
    """
    parts, kernels = map(_together, split_four(_apart(x, dilation))), FOUR_ROWS.kernels(weight)
    sums = [F.conv2d(part, kernel, None, 1, 0, (1, dilation)) for part, kernel in zip(parts, kernels, strict=True)]
    return _together(join_four([_apart(each, dilation) for each in sums]))


def convolve_backward(
    slope: Tensor, x: Tensor | None, weight: Tensor, dilation: int, of_x: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of :func:`convolve` by ``x``, if wanted, and by ``weight``, unless ``x`` is ``None``."""
    of_weight = x is not None
    slopes = [_together(each) for each in join_four_transposed(_apart(slope, dilation))]
    if of_weight:
        parts = [_together(part) for part in split_four(_apart(x, dilation))]
    else:  # only their shape counts
        batch, _, height, width = slopes[0].shape
        parts = [empty(slope, batch, weight.shape[1], height, width + 2 * dilation)] * 6
    by_part, by_kernel = [], []
    for one_slope, part, kernel in zip(slopes, parts, FOUR_ROWS.kernels(weight), strict=True):
        of_part, of_kernel, _ = gradients.backward(
            one_slope, part, kernel, (1, 1), (1, dilation), (of_x, of_weight, False)
        )
        by_part.append(of_part)
        by_kernel.append(of_kernel)
    by_x = _together(split_four_transposed([_apart(each, dilation) for each in by_part])) if of_x else None
    return by_x, FOUR_ROWS.kernels_transposed(by_kernel) if of_weight else None


def _apart(x: Tensor, dilation: int) -> Tensor:
    """(B, C, d · n, W) → (B, C, n, d, W): behind each other come rows a dilation apart."""
    return x.unflatten(2, (-1, dilation))


def _together(x: Tensor) -> Tensor:
    """And back, channels innermost."""
    return x.movedim(1, -1).flatten(1, 2).movedim(-1, 1)
