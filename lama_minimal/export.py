"""A trained generator as one ONNX file, which fills holes where PyTorch is not.

    export_onnx(generator, "lama.onnx", height=512, width=512)

Complex numbers are what keeps exporters from Fourier convolutions. But a Fourier transform is a product with matrices,
one for the columns and one for the rows of a feature map, and real and imaginary parts can be computed apart. The
fast algorithm would save little at the trunk's size, an eighth of the picture's: in ``lama-fourier`` the products are
4% of the work for a picture of 512×512 pixels and 9% for 1024×1024. :func:`exportable` gives the same network with
real matrices only; nothing else about it is special, and every exporter takes it.

Shape letters: B batch, C channels, H × W pixels, K = W // 2 + 1 columns of the half spectrum.
"""

import copy
import logging
import math
import os
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lama_minimal import __version__
from lama_minimal.config import UserError
from lama_minimal.fast import fold
from lama_minimal.fourier import FFCBlock, FourierUnit, SpectralTransform
from lama_minimal.models import ColourConv, Generator, ParallelConv, composite, generator_input, size_limits

Session = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Fills a hole: image (1, 3, H, W) in [0, 1] and mask (1, 1, H, W), 1 = hole, to the filled image, all float32."""

OPSETS = range(18, 24)
"""Versions of ONNX's operators that PyTorch's exporter writes; newer ones bring nothing to this graph."""


# --------------------------------------------------------------------------------------------- without complex numbers


def fourier_matrices(size: int) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of the orthonormal DFT matrix, ``exp(-2πi · k · n / size) / √size``, float64."""
    index = torch.arange(size)
    angle = (index[:, None] * index % size).double() * (2 * math.pi / size)  # whole turns dropped while exact
    return angle.cos() / math.sqrt(size), -angle.sin() / math.sqrt(size)


class MatrixTransform(nn.Module):
    """``rfft2`` and ``irfft2`` (``norm="ortho"``) of H × W maps, by real matrices.

    A spectrum is a real tensor (B, 2C, H, K) with channels re₀, im₀, re₁, im₁, …, as
    :class:`~lama_minimal.fourier.FourierUnit` mixes them.
    """

    def __init__(self, height: int, width: int) -> None:
        """Compute the matrices, in float64, and round them once to float32."""
        super().__init__()
        half = width // 2 + 1
        real, imaginary = fourier_matrices(width)
        across = real[:, :half], imaginary[:, :half]  # (W, K) each
        real, imaginary = fourier_matrices(height)
        # (re + i·im) · (a + i·b) for a column of H complex numbers, written as 2H real ones: re above im.
        down = torch.cat([torch.cat([real, -imaginary], dim=1), torch.cat([imaginary, real], dim=1)])
        # Each column of a half spectrum stands for itself and its mirror image; the first, and for an even width the
        # last one, are their own mirror images and count once.
        count = torch.full((half, 1), 2.0, dtype=torch.float64)
        count[:: half if width % 2 else width // 2] = 1
        self.real_across, self.imaginary_across = (nn.Buffer(matrix.float().contiguous()) for matrix in across)
        self.down, self.up = nn.Buffer(down.float()), nn.Buffer(down.T.float().contiguous())  # orthogonal: Aᵀ = A⁻¹
        self.real_back, self.imaginary_back = (nn.Buffer((count * matrix.T).float()) for matrix in across)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to its half spectrum (B, 2C, H, K)."""
        rows = torch.cat([x @ self.real_across, x @ self.imaginary_across], dim=2)  # (B, C, 2H, K)
        return (self.down @ rows).unflatten(2, (2, -1)).flatten(1, 2)

    def inverse(self, spectrum: Tensor) -> Tensor:
        """Map a half spectrum (B, 2C, H, K) to (B, C, H, W).

        :func:`~lama_minimal.fourier.project_hermitian` is implied. It takes the mean of X[k] and conj(X[-k]) in the
        columns that are their own mirror images. In the inverse transform along such a column this is the real part,
        and the imaginary one is never read: its rows in ``imaginary_back`` are sin(0) and sin(πn).
        """
        real, imaginary = (self.up @ spectrum.unflatten(1, (-1, 2)).flatten(2, 3)).chunk(2, dim=2)
        return real @ self.real_back + imaginary @ self.imaginary_back


class MatrixFourierUnit(nn.Module):
    """:class:`~lama_minimal.fourier.FourierUnit` for maps of one size."""

    def __init__(self, unit: FourierUnit, transform: MatrixTransform) -> None:
        """Take over ``unit``'s convolution, with its normalisation folded in."""
        super().__init__()
        fold_sum([unit.conv], unit.norm)
        self.transform, self.conv = transform, unit.conv

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C_out, H, W)."""
        return self.transform.inverse(F.relu(self.conv(self.transform(x))))


def fold_sum(convs: Sequence[nn.Conv2d | nn.ConvTranspose2d | None], norm: nn.BatchNorm2d) -> nn.Identity:
    """Fold ``norm`` into the convolutions whose sum it normalises; the first one takes all that is constant.

    Args:
        convs: changed in place; ``None`` where a path is absent.
        norm: in evaluation mode.

    Returns:
        What stands in the place of ``norm`` from now on.
    """
    first, *others = (conv for conv in convs if conv is not None)
    biases = [conv.bias for conv in (first, *others) if conv.bias is not None]
    first.bias = nn.Parameter(sum(biases)) if biases else None
    first.weight, first.bias = fold(first, norm)
    for conv in others:
        conv.weight, conv.bias = fold(conv, norm)[0], None
    return nn.Identity()


def fold_norms(network: nn.Module) -> None:
    """Fold each BatchNorm of a generator, in evaluation mode, into the convolutions before it."""
    for module in network.modules():
        if isinstance(module, nn.Sequential):
            for place, (before, norm) in enumerate(pairwise(module)):
                if isinstance(norm, nn.BatchNorm2d):
                    convs = before.convs if isinstance(before, ParallelConv) else [before]
                    module[place + 1] = fold_sum(convs, norm)
        elif isinstance(module, FFCBlock):
            ffc = module.ffc
            expand = ffc.global_to_global and ffc.global_to_global.expand
            if module.local_norm is not None:
                module.local_norm = fold_sum([ffc.local_to_local, ffc.global_to_local], module.local_norm)
            if module.global_norm is not None:
                module.global_norm = fold_sum([ffc.local_to_global, expand], module.global_norm)


def blockwise(conv: ColourConv) -> nn.Sequential:
    """The last convolution with its blocks of 2×2 pixels computed now, not in the graph."""
    weight, bias = conv.blockwise(2)
    blocks = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2:], stride=2)
    blocks.weight, blocks.bias = nn.Parameter(weight), nn.Parameter(bias)
    return nn.Sequential(nn.ReflectionPad2d(conv.padding[0]), blocks, nn.PixelShuffle(2))


@torch.no_grad()
def exportable(generator: Generator, height: int, width: int) -> nn.Module:
    """The same function as a generator in evaluation mode, for one picture size and without complex numbers.

    Equal to float32 rounding; BatchNorm is folded. ``generator`` stays as it is.

    Args:
        generator: trained, on any device.
        height: of the pictures, pixels.
        width: of the pictures, pixels.

    Returns:
        A network on the CPU that maps (B, 4, height, width) to (B, 3, height, width).

    Raises:
        UserError: a size that the generator does not take.
    """
    multiple, least = size_limits(generator)
    if height % multiple or width % multiple or min(height, width) < least:
        fit = "×".join(str(max(least, -(-side // multiple) * multiple)) for side in (height, width))
        raise UserError(
            f"this model takes no pictures of {height}×{width} pixels: sides are multiples of {multiple} "
            f"and at least {least}; try {fit}"
        )
    network = copy.deepcopy(generator).cpu().float().eval().requires_grad_(False)
    fold_norms(network)
    rows, columns = height // multiple, width // multiple
    whole = MatrixTransform(rows, columns)
    quadrant = MatrixTransform(-(-rows // 2), -(-columns // 2))
    for module in network.modules():
        if isinstance(module, SpectralTransform):
            module.fourier_unit = MatrixFourierUnit(module.fourier_unit, whole)
            if module.local_fourier_unit is not None:
                module.local_fourier_unit.unit = MatrixFourierUnit(module.local_fourier_unit.unit, quadrant)
    network.decoder[-1] = blockwise(network.decoder[-1])
    return network.requires_grad_(False)


# ---------------------------------------------------------------------------------------------------------- the file


class Filling(nn.Module):
    """What the file holds: everything from picture and mask to the filled picture."""

    def __init__(self, network: nn.Module) -> None:
        """Wrap the ``network`` of :func:`exportable`."""
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Map image (B, 3, H, W) in [0, 1] and mask (B, 1, H, W), 1 = hole, to the filled image (B, 3, H, W)."""
        return composite(self.network(generator_input(image, mask)), image, mask)


def export_onnx(generator: Generator, path: str | Path, height: int = 512, width: int = 512, opset: int = 18) -> None:
    """Write a generator as one ONNX file, whole or not at all; a file already there is replaced.

    Inputs are ``image`` (1, 3, height, width) in [0, 1] and ``mask`` (1, 1, height, width), 1 = hole; the output
    ``filled`` is the image with its hole filled. All are float32. Sizes are fixed, since the matrices that stand for
    the Fourier transforms are constants in the file: write one file for each size, or pad pictures to it.

    Args:
        generator: trained.
        path: where to; its stem is the model's name in the file.
        height: of the pictures, pixels.
        width: of the pictures, pixels.
        opset: version of ONNX's operators, one of :data:`OPSETS`; more programs read the old ones.

    Raises:
        UserError: a size that the generator does not take, an unknown ``opset``, a missing exporter, or a file that
            cannot be written.
    """
    path = Path(path)
    if opset not in OPSETS:
        raise UserError(f"opset {opset} cannot be written: use {OPSETS[0]} to {OPSETS[-1]}")
    for needed in ("onnx", "onnxscript"):
        _import(needed, "lama-minimal[export]")
    filling = Filling(exportable(generator, height, width)).eval()
    example = torch.zeros(1, 3, height, width), torch.zeros(1, 1, height, width)
    with _quiet_exporter():
        program = torch.onnx.export(
            filling,
            example,
            dynamo=True,
            input_names=["image", "mask"],
            output_names=["filled"],
            opset_version=opset,
            verbose=False,
        )
    _describe(program.model, path.stem, height, width)
    _write(path, program.model_proto.SerializeToString())


def _describe(model: Any, name: str, height: int, width: int) -> None:
    """Say in an ``onnx_ir.Model`` what it is, instead of the source files and lines that it was made from."""
    for part in (model.graph, *model.graph):
        part.metadata_props.clear()
    model.graph.name = name
    model.producer_name, model.producer_version = "lama-minimal", __version__
    model.doc_string = "Fills holes in pictures (LaMa, WACV 2022)."
    model.metadata_props.update(
        name=name,
        height=str(height),
        width=str(width),
        image=f"float32 (1, 3, {height}, {width}), RGB in [0, 1]",
        mask=f"float32 (1, 1, {height}, {width}), 1 = hole, 0 = known",
        filled="the image with its hole filled, like image",
        licence="The graph is written by lama-minimal (Apache-2.0). The weights keep the licence they came with.",
    )


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}") from error
    finally:
        with suppress(OSError):  # the folder may be no folder
            temporary.unlink(missing_ok=True)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Without the exporter's remarks on itself and on torchvision, which is not needed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def _import(module: str, package: str) -> ModuleType:
    """The optional ``module``, or a message that says which ``package`` brings it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(f"{module} is not installed: pip install '{package}'") from error


# ------------------------------------------------------------------------------------------- programs that run the file


def onnxruntime_session(path: str | Path, threads: int) -> Session:
    """The file of :func:`export_onnx` in onnxruntime, on the CPU.

    Args:
        path: the file.
        threads: how many, at most.

    Raises:
        UserError: no such file, or onnxruntime is missing.
    """
    runtime = _import("onnxruntime", "lama-minimal[export]")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")  # idle threads leave the cores to others
    session = runtime.InferenceSession(_existing(path), options, providers=["CPUExecutionProvider"])

    def fill(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return session.run(["filled"], {"image": image, "mask": mask})[0]

    return fill


def openvino_session(path: str | Path, threads: int, precision: Literal["float32", "bfloat16"] = "float32") -> Session:
    """The file of :func:`export_onnx` in OpenVINO, on the CPU.

    Args:
        path: the file.
        threads: how many, at most.
        precision: arithmetic; the result is float32 either way.

    Raises:
        UserError: no such file, OpenVINO is missing, or the processor has no bfloat16.
    """
    core = _import("openvino", "openvino").Core()
    if precision == "bfloat16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise UserError("OpenVINO has no bfloat16 on this processor: use float32")
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
    }
    model = core.compile_model(_existing(path), "CPU", settings)

    def fill(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return model({"image": image, "mask": mask})["filled"]

    return fill


def _existing(path: str | Path) -> str:
    """The path of a file that is there, as text."""
    if not Path(path).is_file():
        raise UserError(f"no file {path}: write it with export_onnx")
    return str(path)
