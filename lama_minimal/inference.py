"""Filling holes in pictures of any size: 8-bit pictures in, 8-bit pictures out, known pixels untouched.

The network predicts every pixel; only those in the hole are used. What surrounds it here is what makes it usable:
reading pictures and masks in the forms people have them, padding to sizes that the network accepts, three ways to
deal with large pictures, wide holes in them from coarse to fine, and fillings that suit what is around them. Networks
run in one place, :meth:`Inpainter._run`.
"""

import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Literal, TypeVar, get_args

import cv2
import numpy as np
import torch
import torch.distributed as dist
from PIL import Image, ImageOps
from torch import Tensor, nn
from tqdm import tqdm

from lama_minimal.checkpoint import load_generator, pick_device
from lama_minimal.config import UserError
from lama_minimal.data import find_images, open_image, read_image
from lama_minimal.fast import FastGenerator
from lama_minimal.memory import return_freed_memory
from lama_minimal.models import FourierGenerator, ResidualGenerator, generator_input, pad_symmetric, size_limits
from lama_minimal.refine import Refinement
from lama_minimal.refine import refine as refine_prediction
from lama_minimal.shards import Shards, is_shards
from lama_minimal.surroundings import fit

Strategy = Literal["auto", "whole", "crop", "resize"]
"""How a picture reaches the network: as it is, as crops around its holes, or shrunk; ``auto`` is crop or whole."""

Precision = Literal["auto", "float32", "bfloat16"]
"""Arithmetic of the network; ``auto`` is bfloat16 where the device computes in it, otherwise float32."""

Source = str | Path | Image.Image | np.ndarray
"""Where a picture or a mask comes from."""

Progress = Callable[[int, int], None]
"""Called with (done, total) after each part of a long work."""

DEPTH, SPREAD = 16, 8
"""How far inside a hole the plan of the coarser scale begins to count, and the standard deviation of the blur that
divides low frequencies from high ones, pixels. Tried at 512 pixels: 8 to 24 and 4 to 12 differ little."""

LONG_SIDE = 1024
"""Pixels: ``auto`` takes crops above it, ``resize`` shrinks to it. Far above its training size a network weakens."""
REACH = 32
"""Holes less than about twice this many pixels apart share a crop."""
LEAST_MARGIN = 64
"""Known pixels around a hole in its crop, at least; more around thick holes."""
LEAST_CROP = 256
"""Side of a crop, at least, where the picture is large enough: the paper's training size."""

# How a picture is written, by its suffix: Pillow's name of the format and its settings.
_FORMATS: dict[str, tuple[str, dict]] = {
    ".png":  ("PNG",  {}),
    ".webp": ("WEBP", dict(lossless=True, exact=True)),  # exact: keep the colours of transparent pixels
    ".tif":  ("TIFF", dict(compression="tiff_adobe_deflate")),
    ".tiff": ("TIFF", dict(compression="tiff_adobe_deflate")),
    ".bmp":  ("BMP",  {}),
    ".jpg":  ("JPEG", dict(quality=95, subsampling=0)),
    ".jpeg": ("JPEG", dict(quality=95, subsampling=0)),
}  # fmt: skip
_WITHOUT_ALPHA = (".bmp", ".jpg", ".jpeg")
_LOSSY = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF")

Item = TypeVar("Item")


# ------------------------------------------------------------------------------------------------- pictures and masks


def _check_array(pixels: np.ndarray, what: str, dtypes: tuple[type, ...]) -> np.ndarray:
    """The array without a last axis of length 1.

    Raises:
        UserError: another shape or type than pictures have here.
    """
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    shape_fits = (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))) and pixels.size > 0
    if not shape_fits or pixels.dtype not in dtypes:
        names = " or ".join(np.dtype(dtype).name for dtype in dtypes)
        raise UserError(
            f"expected the {what} as an array of {names}, shape (H, W), (H, W, 3) or (H, W, 4), "
            f"got {pixels.dtype} {pixels.shape}: convert it first"
        )
    return pixels


def _decoded(source: Source, what: str) -> tuple[np.ndarray, np.ndarray | None]:
    """As :func:`~lama_minimal.data.read_image`, which see for what it raises."""
    if not isinstance(source, str | Path | Image.Image):
        raise UserError(f"expected the {what} as a path, a PIL image or a NumPy array, got {type(source).__name__}")
    return read_image(source)


def read_picture(source: Source) -> tuple[np.ndarray, np.ndarray | None]:
    """A picture as uint8 (H, W, 3) and its alpha (H, W), ``None`` without one."""
    if not isinstance(source, np.ndarray):
        return _decoded(source, "image")
    pixels = _check_array(source, "image", (np.uint8,))
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2), None
    return pixels[..., :3], pixels[..., 3] if pixels.shape[2] == 4 else None


def _read_mask_pixels(source: str | Path | Image.Image) -> tuple[np.ndarray, bool]:
    """A mask's pixels, (H, W), (H, W, 3) or (H, W, 4), and whether they come from a lossy format."""
    rgb, alpha = _decoded(source, "mask")
    with nullcontext(source) if isinstance(source, Image.Image) else Image.open(source) as mask:
        lossy = mask.format in _LOSSY
        if mask.mode in ("I", "F") or mask.mode.startswith("I;16"):  # not as 8 bits: 1 of 65535 is a hole, too
            return np.asarray(ImageOps.exif_transpose(mask)), lossy
    return rgb if alpha is None else np.dstack([rgb, alpha]), lossy


def _mask_values(pixels: np.ndarray) -> np.ndarray:
    """One number for each pixel, (H, W), larger than 0 in the hole.

    A layer painted in one colour on a transparent ground is its alpha, whatever the colour; everywhere else colours
    count, over black.
    """
    if pixels.ndim == 2:
        return pixels
    brightest = pixels[..., :3].max(axis=2)
    if pixels.shape[2] == 3:
        return brightest
    alpha = pixels[..., 3]
    if alpha.min() < alpha.max():
        visible = pixels[alpha > 0][:, :3]
        if (visible == visible[0]).all():
            return alpha
    return np.minimum(brightest, alpha)


def read_mask(source: Source, size: tuple[int, int]) -> np.ndarray:
    """Read a mask in any form.

    A hole is where the mask is larger than 0: 1 bit, grey of any depth, palette or colour (the brightest channel).
    A mask with transparency whose visible pixels have one colour is a painted layer: the hole is where it was painted,
    in black too. Compression leaves noise around a hole's edge, therefore in a mask of a lossy format (JPEG, WebP) the
    hole is what is brighter than half of its brightest pixel. Masks as arrays are bool, or uint8 with 0 = known.

    Args:
        source: path, PIL image, or array of bool or uint8, (H, W), (H, W, 3) or (H, W, 4).
        size: (H, W) of the image that the mask belongs to.

    Returns:
        (H, W) bool, True = hole.

    Raises:
        UserError: unreadable, no mask, or of another size than the image.
    """
    if isinstance(source, np.ndarray):
        pixels, lossy = _check_array(source, "mask", (np.bool_, np.uint8)), False
    else:
        pixels, lossy = _read_mask_pixels(source)
    values = _mask_values(pixels)
    if values.shape != tuple(size):
        (height, width), (image_height, image_width) = values.shape, size
        turned = " (is one of them rotated?)" if values.shape == tuple(size)[::-1] else ""
        raise UserError(
            f"the mask is {width} x {height} pixels, its image {image_width} x {image_height}{turned}: "
            "give a mask of the image's size"
        )
    # Compression makes a little noise of black: a mask whose brightest pixel is nearly black has no hole.
    return values > max(values.max() / 2, 16) if lossy else values > 0


def colour_profile(source: Source) -> bytes | None:
    """The ICC profile stored in an RGB picture, to be written beside the result; ``None`` if there is none."""
    if isinstance(source, np.ndarray):
        return None
    with nullcontext(source) if isinstance(source, Image.Image) else Image.open(source) as image:
        profile = image.info.get("icc_profile")
    return profile if profile and profile[16:20] == b"RGB " else None  # one of CMYK or grey would not fit the result


def save_image(
    pixels: np.ndarray, path: str | Path, *, icc_profile: bytes | None = None, inputs: Iterable[str | Path] = ()
) -> None:
    """Write a picture whole or not at all, in the format of the path's suffix; missing folders are made.

    PNG, WebP, TIFF and BMP are written without loss, JPEG with quality 95.

    Args:
        pixels: uint8 (H, W), (H, W, 3) or (H, W, 4).
        path: where to; a picture already there is replaced.
        icc_profile: as from :func:`colour_profile`.
        inputs: files that must not be overwritten.

    Raises:
        UserError: unknown suffix; one of ``inputs``; transparency that the format cannot hold; or it cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _FORMATS:
        raise UserError(f"cannot write {path}: unknown format {suffix!r}; use one of {', '.join(_FORMATS)}")
    pixels = _check_array(pixels, "picture", (np.uint8,))
    if pixels.shape[2:] == (4,) and suffix in _WITHOUT_ALPHA:
        if pixels[..., 3].min() < 255:
            raise UserError(f"{path} would lose the transparency: use .png, .webp or .tif instead of {suffix}")
        pixels = pixels[..., :3]
    if path.exists() and any(Path(given).exists() and path.samefile(given) for given in inputs):
        raise UserError(f"{path} is an input and would be overwritten: choose another name for the result")
    kind, settings = _FORMATS[suffix]
    if icc_profile is not None:
        settings = settings | dict(icc_profile=icc_profile)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            Image.fromarray(np.ascontiguousarray(pixels)).save(file, kind, **settings)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, ValueError) as error:  # ValueError: larger than the format allows
        raise UserError(f"cannot write {path}: {error}") from error
    finally:
        with suppress(OSError):  # the folder may be no folder
            temporary.unlink(missing_ok=True)


# --------------------------------------------------------------------------------------------------- sizes and crops


@dataclass(frozen=True)
class Crop:
    """A rectangle of the picture and the holes in it that are filled when it is their turn."""

    rows: slice
    columns: slice
    hole: np.ndarray
    """Bool, of the rectangle's size; holes of other crops are left out."""


def _span(start: int, stop: int, margin: int, length: int, multiple: int) -> slice:
    """``start`` to ``stop`` with a margin on both sides, moved inside 0 to ``length``, on the network's grid."""
    extent = min(length, max(LEAST_CROP, stop - start + 2 * margin))
    begin = min(max((start + stop - extent) // 2, 0), length - extent)
    end = begin + extent
    return slice(begin // multiple * multiple, min(length, -(-end // multiple) * multiple))


def crops_around(hole: np.ndarray, multiple: int = 8) -> list[Crop]:
    """Group the holes that lie near one another and lay a crop around each group, small holes first.

    The margin is half of the shorter side of a group's bounding box, at least :data:`LEAST_MARGIN`: the network sees
    about as large a share of known pixels as in its training. What lies farther away it cannot use: a pattern that
    could only be read off distant parts of the picture is continued better from the whole picture. A hole that
    crosses the picture leads to a crop that is the whole picture.

    Args:
        hole: (H, W) bool.
        multiple: crops begin and, but for the picture's border, end at multiples of this, pixels.
    """
    near = cv2.dilate(hole.astype(np.uint8), np.ones((2 * REACH + 1, 2 * REACH + 1), np.uint8))
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(near)
    crops = []
    for group in range(1, count):
        x, y, width, height = boxes[group, : cv2.CC_STAT_AREA]
        around = np.s_[y : y + height, x : x + width]
        inner_x, inner_y, width, height = cv2.boundingRect(((labels[around] == group) & hole[around]).astype(np.uint8))
        top, left = int(y) + inner_y, int(x) + inner_x
        margin = max(LEAST_MARGIN, min(width, height) // 2)
        rows = _span(top, top + height, margin, hole.shape[0], multiple)
        columns = _span(left, left + width, margin, hole.shape[1], multiple)
        crops.append(Crop(rows, columns, (labels[rows, columns] == group) & hole[rows, columns]))
    return sorted(crops, key=lambda crop: int(crop.hole.sum()))


def _tracked(items: Sequence[Item], progress: Progress | None, unit: str) -> Iterator[Item]:
    """Yield the items; report to ``progress`` after each, or show a bar if there are several and it takes long."""
    hidden = progress is not None or len(items) < 2
    for done, item in enumerate(tqdm(items, unit=unit, delay=2, leave=False, disable=hidden), start=1):
        yield item
        if progress is not None:
            progress(done, len(items))


# --------------------------------------------------------------------------------------------------------- inpainting


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` has instructions for bfloat16, so that it is faster than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    able = torch.cpu.get_capabilities()
    return device.type == "cpu" and (able.get("avx512_bf16", False) or able.get("amx_bf16", False))


class Inpainter:
    """A generator, and all it takes to fill holes in pictures with it.

    >>> inpainter = Inpainter.load("big-lama")
    >>> result = inpainter("photograph.jpg", "mask.png")  # uint8 (H, W, 3)
    """

    def __init__(
        self,
        generator: nn.Module,
        *,
        device: str | torch.device | None = None,
        name: str = "",
        precision: Precision = "auto",
        coarse_to_fine: bool | None = None,
        seamless: bool | None = None,
    ) -> None:
        """Take over ``generator``: it is set to evaluation mode and moved to ``device``.

        What runs is its fast form (:class:`~lama_minimal.fast.FastGenerator`), with the same weights.

        Args:
            generator: maps :func:`~lama_minimal.models.generator_input` to a prediction in [0, 1].
            device: where it runs; None = the GPU if there is one.
            name: what to call it in messages and reports.
            precision: see :data:`Precision`; the README says what bfloat16 changes.
            coarse_to_fine: whether wide holes in pictures of twice the training size and more follow a filling of the
                picture at half the size; None = as measured to be better for these weights, and noted with them.
            seamless: whether a filling is shifted so that it meets the known pixels around it, and varies hardly more
                than they do (:func:`~lama_minimal.surroundings.fit`); None = as the generator says: yes for this
                package's, no for those from the authors' files, which give what their program gives.

        Raises:
            UserError: unknown precision.
        """
        if precision not in get_args(Precision):
            raise UserError(f"unknown precision {precision!r}; there are {', '.join(get_args(Precision))}")
        self.device = pick_device(device)
        self.generator = generator.eval().to(self.device)
        self.name = name
        self.multiple, self.least_side = size_limits(generator)
        self.training_size: int = getattr(generator, "training_size", 256)
        self.coarse_to_fine = getattr(generator, "coarse_to_fine", False) if coarse_to_fine is None else coarse_to_fine
        self.seamless = getattr(generator, "seamless", False) if seamless is None else seamless
        half = precision == "bfloat16" or (precision == "auto" and computes_in_bfloat16(self.device))
        self.network = self.generator
        if isinstance(generator, FourierGenerator | ResidualGenerator):
            self.network = FastGenerator(generator, torch.bfloat16 if half else torch.float32)
            return_freed_memory()  # packing the weights of lama-fourier left 50 MiB unused between them

    @classmethod
    def load(
        cls,
        model: str | Path,
        device: str | torch.device | None = None,
        precision: Precision = "auto",
        coarse_to_fine: bool | None = None,
        seamless: bool | None = None,
    ) -> "Inpainter":
        """Load a model by its name or from a checkpoint; the other arguments are those of the class.

        Raises:
            UserError: no such model, an unusable file, or unknown precision.
        """
        options = dict(device=device, precision=precision, coarse_to_fine=coarse_to_fine, seamless=seamless)
        return cls(load_generator(model), name=str(model), **options)

    def __call__(
        self,
        image: Source,
        mask: Source,
        *,
        strategy: Strategy = "auto",
        refine: bool = False,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Fill the hole; every other pixel, and alpha everywhere, stays exactly as it was.

        Args:
            image: path, PIL image, or uint8 array (H, W), (H, W, 3) or (H, W, 4).
            mask: path, PIL image or array of the same size, larger than 0 in the hole: see :func:`read_mask`.
            strategy: ``whole`` runs the network on the picture as it is. ``crop`` runs it on a crop around each group
                of holes (see :func:`crops_around`), one after another, later ones seeing earlier results: fast, little
                memory, and near the network's training size, but blind to what is far from the hole. ``resize`` runs
                it on the picture shrunk to 1024 pixels and enlarges what it filled: sees everything, blurs detail.
                ``auto`` is ``crop`` for pictures with a side over 1024 pixels, otherwise ``whole``.
            refine: fill what is larger than twice the size that the network was trained on from coarse to fine
                (:func:`~lama_minimal.refine.refine`): about thirty times as slow, better in thick holes.
            progress: called with (done, total) after each crop; None = a bar where it takes long.

        Returns:
            uint8 (H, W, 3), or (H, W, 4) if the image had alpha, upright where the file asked for a rotation.

        Raises:
            UserError: unreadable image or mask, sizes that differ, unknown strategy, too little memory.
        """
        rgb, alpha = read_picture(image)
        hole = read_mask(mask, rgb.shape[:2])
        filled = self.fill(rgb, hole, strategy=strategy, refine=refine, progress=progress)
        return filled if alpha is None else np.dstack([filled, alpha])

    def fill(
        self,
        rgb: np.ndarray,
        hole: np.ndarray,
        *,
        strategy: Strategy = "auto",
        refine: bool = False,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """As :meth:`__call__`, for a picture and a mask already read: uint8 (H, W, 3) and bool (H, W)."""
        if strategy not in get_args(Strategy):
            raise UserError(f"unknown strategy {strategy!r}; strategies are {', '.join(get_args(Strategy))}")
        if strategy == "auto":
            strategy = "crop" if max(hole.shape) > LONG_SIDE else "whole"
        filled, missing = rgb.copy(), hole.copy()
        if not hole.any():
            return filled
        if strategy == "resize" and max(hole.shape) > LONG_SIDE:
            filled[hole] = self._enlarged_from_small(rgb, hole, LONG_SIDE / max(hole.shape), refine)[hole]
            return filled
        crops = crops_around(hole, self.multiple) if strategy == "crop" else [Crop(slice(None), slice(None), hole)]
        for crop in _tracked(crops, progress, "crop"):
            window = crop.rows, crop.columns
            filled[window][crop.hole] = self._fill_at_scales(filled[window], missing[window], refine)[crop.hole]
            missing[window][crop.hole] = False
        return filled

    def _enlarged_from_small(self, rgb: np.ndarray, hole: np.ndarray, scale: float, refine: bool) -> np.ndarray:
        """Shrink the picture, fill its hole, enlarge it again; a small pixel is known if all it covers is known."""
        height, width = hole.shape
        small_size = max(1, round(width * scale)), max(1, round(height * scale))
        small = cv2.resize(rgb, small_size, interpolation=cv2.INTER_AREA)
        small_hole = cv2.resize(hole.astype(np.float32), small_size, interpolation=cv2.INTER_AREA) > 0
        small[small_hole] = self._fill_at_scales(small, small_hole, refine)[small_hole]
        return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)

    def _fill_at_scales(self, rgb: np.ndarray, hole: np.ndarray, refine: bool) -> np.ndarray:
        """The prediction, from coarse to fine and fitted to its surroundings if so wanted; only the hole is of use."""
        prediction = self._predict_array(rgb, hole, refine)
        if not refine and self.coarse_to_fine and min(hole.shape) >= 2 * self.training_size:
            prediction = self._with_coarse_structure(prediction, rgb, hole)
        return fit(prediction, rgb, hole) if self.seamless and not hole.all() else prediction

    def _with_coarse_structure(self, prediction: np.ndarray, rgb: np.ndarray, hole: np.ndarray) -> np.ndarray:
        """The prediction, inside wide holes with the coarse structure of the picture at half the size.

        A network that learned on small pictures sees structure up to about that size, so what it makes of a wide hole
        in a large picture is detail without a plan. At half the size it has the plan, but not the detail. As in a
        Laplacian pyramid (Burt and Adelson 1983), low frequencies are taken from the one and high frequencies from
        the other. Near the hole's border, where the known pixels are the better guide, little is changed.
        """
        square = np.ones((2 * DEPTH + 1, 2 * DEPTH + 1), np.uint8)  # beyond the picture's edge nothing is known, either
        deep = cv2.erode(hole.astype(np.uint8), square, borderType=cv2.BORDER_CONSTANT, borderValue=1)
        if not deep.any():
            return prediction
        plan = self._enlarged_from_small(rgb, hole, 1 / 2, refine=False)
        change = (plan.astype(np.float32) - prediction) * deep[..., None]
        change = cv2.GaussianBlur(change, (0, 0), SPREAD, borderType=cv2.BORDER_REFLECT)
        return (prediction + change).round().clip(0, 255).astype(np.uint8)

    def _predict_array(self, rgb: np.ndarray, hole: np.ndarray, refine: bool) -> np.ndarray:
        """The prediction for uint8 (H, W, 3) and bool (H, W), rounded to uint8 (H, W, 3)."""
        image = torch.from_numpy(np.ascontiguousarray(rgb)).to(self.device).permute(2, 0, 1)[None].float().div_(255)
        mask = torch.from_numpy(np.ascontiguousarray(hole)).to(self.device)[None, None].float()
        if refine:
            prediction = self.predict_refined(image, mask)
        else:
            network_input = generator_input(image, mask)
            del image, mask  # a large photograph's are not kept beside the feature maps
            prediction = self._run(network_input)
        return (prediction[0].permute(1, 2, 0) * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()

    def predict_refined(self, image: Tensor, mask: Tensor) -> Tensor:
        """As :meth:`predict`, for one picture, from coarse to fine, in float32.

        Raises:
            UserError: the network is none that can be refined.
        """
        if self.network is self.generator:
            raise UserError("only LaMa's generators can be refined: leave refinement out")
        settings = Refinement(least_side=2 * self.training_size)
        return refine_prediction(self.generator, image.to(self.device), mask.to(self.device), settings)

    @torch.no_grad()
    def predict(self, image: Tensor, mask: Tensor) -> Tensor:
        """Run the network on pictures of any size, extended at the bottom and right to a size that it accepts.

        Args:
            image: (B, 3, H, W) in [0, 1].
            mask: (B, 1, H, W), 1 = hole.

        Returns:
            The prediction for every pixel, (B, 3, H, W) in [0, 1], on the inpainter's device.

        Raises:
            UserError: the device's memory is too small for pictures of this size.
            ValueError: image and mask of different sizes.
        """
        if image.shape[-2:] != mask.shape[-2:]:
            raise ValueError(f"image {tuple(image.shape)} and mask {tuple(mask.shape)} differ in size")
        return self._run(generator_input(image.to(self.device), mask.to(self.device)))

    @torch.no_grad()
    def _run(self, network_input: Tensor) -> Tensor:
        """The prediction, (B, 3, H, W), for the generator's input, (B, 4, H, W), of any size."""
        height, width = network_input.shape[-2:]
        padded = [-(-max(side, self.least_side) // self.multiple) * self.multiple for side in (height, width)]
        try:
            prediction = self.network(pad_symmetric(network_input, *padded))
        except RuntimeError as error:
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):  # on a CPU
                raise
            raise UserError(
                f"too little memory on {self.device} for {width} x {height} pixels at once: use strategy crop or resize"
            ) from error
        return prediction[..., :height, :width].float()


# ------------------------------------------------------------------------------------------------------------ folders

NAMING = "images are named like x.png or x.jpg, their masks beside them x_mask.png, x_mask000.png, x_mask001.png, ..."
_MASK_STEM = re.compile(r"(.+)_mask(?:[^a-zA-Z].*)?")  # not x_masked, x_masks


@dataclass(frozen=True)
class FolderSummary:
    """What became of the pictures in a folder."""

    written: list[Path] = field(default_factory=list)
    """Results of this run."""
    existing: list[Path] = field(default_factory=list)
    """Results that were there before and stayed."""
    failed: dict[Path, str] = field(default_factory=dict)
    """Masks whose pictures could not be filled, and why."""
    without_image: list[Path] = field(default_factory=list)
    """Masks without an image."""
    without_mask: list[Path] = field(default_factory=list)
    """Images without a mask."""

    def __str__(self) -> str:
        """One line of counts, then one for each file that needs a look."""
        lines = [f"{len(self.written)} written, {len(self.existing)} already there, {len(self.failed)} failed"]
        lines += [f"failed: {path}: {reason}" for path, reason in self.failed.items()]
        lines += [f"mask without an image: {path}" for path in self.without_image]
        lines += [f"image without a mask: {path}" for path in self.without_mask]
        return "\n".join(lines)


@dataclass(frozen=True)
class FolderPlan:
    """What there is to do in a folder or in shards."""

    jobs: list[tuple[Path, Path, Path]]
    """(image, mask, result), sorted by the mask's path."""
    summary: FolderSummary
    """Where files that take part in no job are listed already."""
    shards: Shards | None = None
    """Where images and masks are; None = in files."""
    numbers: dict[Path, int] = field(default_factory=dict)
    """What stands for a file, SHARD/NAME, → number in the shards."""

    def source(self, path: Path) -> Path | Image.Image:
        """An image or mask of a job."""
        return path if self.shards is None else open_image(self.shards[self.numbers[path]])


def _pictures(folder: Path, out: Path) -> list[Path]:
    """All pictures in ``folder`` and its subfolders, without those in ``out`` where that is one of these.

    Raises:
        UserError: no such folder, no picture, or ``out`` is ``folder`` itself or a file.
    """
    place = out.resolve()
    if place == folder.resolve() or (out.exists() and not out.is_dir()):
        raise UserError(f"results are named after the masks and need a folder of their own: {out} is not one")
    try:
        found = find_images(folder)
    except UserError as error:
        raise UserError(f"{error}; {NAMING}") from None
    if not place.is_relative_to(folder.resolve()):
        return found
    return [path for path in found if not path.parent.resolve().is_relative_to(place)]


def _numbered(shards: Shards) -> dict[Path, int]:
    """What stands for each image's file, SHARD/NAME, sorted, and its number.

    Raises:
        UserError: a name that leads out of the folder in which a result would be named after it.
    """
    numbers = {}
    for number in range(len(shards)):
        shard, name = Path(shards.place(number)).stem, Path(shards.name(number))
        if name.is_absolute() or ".." in name.parts:
            raise UserError(f"{shards.place(number)} is not safe: {str(name)!r} leads out of the folder")
        numbers[shard / name] = number
    return dict(sorted(numbers.items()))


def plan_folder(folder: str | Path, out: str | Path) -> FolderPlan:
    """Pair images and masks by the naming of the original's ``predict.py``, subfolders included.

    Results are PNG files named after the masks, in the same subfolders of ``out``; those of shards in a subfolder for
    each shard.

    Args:
        folder: a folder, or shards as :func:`lama_minimal.shards.expand` takes them.
        out: where the results shall go.

    Raises:
        UserError: no such folder, ``out`` is no other folder, nothing to do, or a result would overwrite an input.
    """
    if not is_shards(folder):
        return _pair(FolderPlan([], FolderSummary()), _pictures(Path(folder), Path(out)), Path(folder), Path(out))
    shards = Shards(str(folder))
    plan = FolderPlan([], FolderSummary(), shards, _numbered(shards))
    return _pair(plan, list(plan.numbers), Path(), Path(out))


def _pair(plan: FolderPlan, pictures: list[Path], folder: Path, out: Path) -> FolderPlan:
    """Fill a plan for pictures below ``folder``; see :func:`plan_folder`."""
    by_stem: dict[Path, list[Path]] = {}
    for path in pictures:
        by_stem.setdefault(path.with_suffix(""), []).append(path)
    masks = [path for path in pictures if _MASK_STEM.fullmatch(path.stem)]
    used, results = set(), {}
    for mask in masks:
        images = by_stem.get(mask.with_name(_MASK_STEM.fullmatch(mask.stem)[1]), [])
        images = [path for path in images if path.suffix.lower() == mask.suffix.lower()] or images
        result = (out / mask.relative_to(folder)).with_suffix(".png")
        used.update(images)
        if not images:
            plan.summary.without_image.append(mask)
        elif len(images) > 1:
            plan.summary.failed[mask] = f"several images fit: {', '.join(path.name for path in images)}; keep one"
        elif result in results:
            plan.summary.failed[mask] = f"its result would be named as that of {results[result].name}: rename one"
        else:
            results[result] = mask
            plan.jobs.append((images[0], mask, result))
    orphans = [mask for mask in plan.summary.without_image if mask not in used]  # carnival_mask.jpg may be a photograph
    plan.summary.without_image[:] = orphans
    plan.summary.without_mask.extend(sorted(set(pictures) - used - set(masks)))
    if not plan.jobs and not plan.summary.failed:
        raise UserError(f"no image with a mask among the {len(pictures)} pictures there: {NAMING}")
    inputs = {path.resolve() for path in pictures} if plan.shards is None else set()
    if overwritten := [result for result in results if result.resolve() in inputs]:
        raise UserError(f"{overwritten[0]} is an input and would be overwritten: choose another folder for the results")
    return plan


def inpaint_folder(
    inpainter: Inpainter,
    folder: str | Path,
    out: str | Path,
    *,
    strategy: Strategy = "auto",
    refine: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    rank: int = 0,
    world: int = 1,
) -> FolderSummary:
    """Fill every picture in a folder or in shards that has a mask, in the naming of the original's ``predict.py``.

    An image ``x.png`` and its masks ``x_mask000.png``, ``x_mask001.png`` lead to results ``x_mask000.png``,
    ``x_mask001.png`` in ``out``. A picture that cannot be filled is reported, and the rest goes on. A run that was
    interrupted is taken up by running it again.

    Args:
        inpainter: what fills the holes.
        folder: images and masks, subfolders included, or shards of them.
        out: where the results go, always as PNG.
        strategy: as in :meth:`Inpainter.__call__`.
        refine: as in :meth:`Inpainter.__call__`.
        overwrite: write results again that are already there.
        progress: called with (done, total) after each picture; None = a bar where it takes long.
        rank: which of several processes this is, 0 … world - 1; each fills every ``world``-th picture.
        world: number of processes.

    Raises:
        UserError: as :func:`plan_folder`; unknown strategy; or a result cannot be written.
    """
    if strategy not in get_args(Strategy):
        raise UserError(f"unknown strategy {strategy!r}; strategies are {', '.join(get_args(Strategy))}")
    plan = plan_folder(folder, out)
    summary = plan.summary
    for image, mask, result in _tracked(plan.jobs[rank::world], progress, "picture"):
        if result.exists() and not overwrite:
            summary.existing.append(result)
            continue
        try:
            picture, hole = plan.source(image), plan.source(mask)
            filled = inpainter(picture, hole, strategy=strategy, refine=refine, progress=lambda done, total: None)
        except UserError as error:
            summary.failed[mask] = str(error)
            continue
        inputs = (image, mask) if plan.shards is None else ()
        save_image(filled, result, icc_profile=colour_profile(picture), inputs=inputs)
        summary.written.append(result)
    return summary


def this_process() -> tuple[int, int]:
    """Which of how many processes this is, by what torchrun sets or a person: ``RANK`` and ``WORLD_SIZE``.

    Raises:
        UserError: they are no such numbers.
    """
    rank, world = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (rank.isdigit() and world.isdigit() and int(rank) < int(world)):
        raise UserError(f"RANK is {rank!r} and WORLD_SIZE {world!r}: set both, RANK from 0 to WORLD_SIZE - 1, or none")
    return int(rank), int(world)


def gather_summaries(summary: FolderSummary, rank: int, world: int) -> FolderSummary | None:
    """The summaries of all processes as one, in the first process; None in the others.

    Processes that were started apart, without torchrun, do not know of each other: each keeps its own.
    """
    if world == 1 or "MASTER_ADDR" not in os.environ:
        return summary
    dist.init_process_group("gloo", timeout=timedelta(days=30))  # the others may have much to do still
    found: list[FolderSummary] = [summary] * world
    dist.gather_object(summary, found if rank == 0 else None)
    dist.destroy_process_group()
    if rank:
        return None
    written = [path for one in found for path in one.written]
    existing = [path for one in found for path in one.existing]
    failed = {mask: reason for one in found for mask, reason in one.failed.items()}
    return replace(summary, written=written, existing=existing, failed=failed)
