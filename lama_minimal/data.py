"""Pictures for training and evaluation: folders and shards of photographs, built-in scenes, the paper's augmentations.

Sample ``n`` of a run is a pure function of (seed, n): which picture, how it is cropped and changed, which mask. Nothing
else has state, so a run can stop at any step and go on, with any number of workers, and see the same batches; process
``r`` of ``w`` takes at step ``s`` the samples ``(s * w + r) * batch_size + 0 … batch_size - 1``. So whatever the number
of processes and workers, and however often a run is killed and resumed, each image comes once in each epoch.

Pictures are 8-bit RGB arrays (H, W, 3) and masks bool arrays (H, W), True = hole, until :func:`collate` makes tensors.
"""

import io
import itertools
import math
import os
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch.utils.data import DataLoader, Dataset

from lama_minimal.config import DataSettings, UserError
from lama_minimal.masks import draw_mask, recipe_for
from lama_minimal.scenes import SCENE_CLASSES, draw_scene
from lama_minimal.shards import SUFFIXES, Member, Shards, is_shards

# First number of every seed, so that no two purposes ever share random numbers.
TRAINING_SCENE, EVALUATION_SCENE, SAMPLE, EPOCH, EVALUATION_CHOICE, EVALUATION_MASK = range(6)

# What Pillow's decoders raise on damaged files.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError, struct.error, zlib.error)


# ------------------------------------------------------------------------------------------------------ reading files


def read_image(source: str | Path | Member | Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """Read any picture as 8-bit RGB, turned upright as its EXIF data say; 8-bit lossless input comes out bit-exact.

    16-bit grey is rounded to 8 bits; of 16-bit colour Pillow keeps the upper 8 bits (at most 1 away).
    32-bit integers are read as 16-bit values, floats as 0…1, or as 0…255 or 0…65535 if they exceed that; not-a-number
    becomes black. CMYK is converted without a colour profile. Of an animation the first frame is taken.

    Args:
        source: a file, an image of a shard, or an opened picture (left as it is).

    Returns:
        (H, W, 3) uint8 and the alpha channel (H, W) uint8, or None if the picture has no transparency.

    Raises:
        UserError: the file does not exist, is damaged or not an image, or exceeds Pillow's limit (179 megapixels).
    """
    if not isinstance(source, Image.Image):
        return _read_file(source if isinstance(source, Member) else Path(source))
    with _one_line(getattr(source, "filename", "") or "the picture"):
        return _to_arrays(ImageOps.exif_transpose(source))


def open_image(source: Path | Member) -> Image.Image:
    """Open a file or an image of a shard; its pixels are not read yet.

    Raises:
        UserError: it is missing or no image.
    """
    with _one_line(source):
        if isinstance(source, Path):
            return Image.open(source)
        picture = Image.open(io.BytesIO(source.content))
        picture.filename = str(source)  # for messages
        return picture


def _read_file(source: Path | Member, least: int = 0) -> tuple[np.ndarray, np.ndarray | None]:
    """As :func:`read_image`; if ``least`` is given, JPEG may come at ½, ¼ or ⅛, no side below ``least`` pixels."""
    with _one_line(source), open_image(source) as picture:
        if least:
            picture.draft(None, (least, least))
        ImageOps.exif_transpose(picture, in_place=True)
        return _to_arrays(picture)


@contextmanager
def _one_line(name: str | Path | Member) -> Iterator[None]:
    """Turn what Pillow raises on missing, foreign and damaged files into one line that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"no such image: {name}") from None
    except IsADirectoryError:
        raise UserError(f"{name} is a folder, not an image") from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise UserError(f"{name} has more than {limit} megapixels; make it smaller first") from None
    except UnidentifiedImageError:
        raise UserError(f"{name} is not an image, or of a kind that cannot be read; use jpg, png or webp") from None
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{name} cannot be read ({reason}); save or copy it again") from None


def _to_arrays(picture: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """8-bit RGB and alpha of an upright picture of any of Pillow's modes."""
    if 0 in picture.size:
        raise ValueError("it has no pixels")
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        grey = _to_8_bit(np.asarray(picture), (1, 255, 65535) if picture.mode == "F" else (65535,))
        return np.repeat(grey[..., None], 3, axis=2), None
    if picture.has_transparency_data:
        pixels = np.array(picture.convert("RGBA"))
        return np.ascontiguousarray(pixels[..., :3]), np.ascontiguousarray(pixels[..., 3])
    return np.array(picture if picture.mode == "RGB" else picture.convert("RGB")), None


def _to_8_bit(values: np.ndarray, scales: tuple[int, ...]) -> np.ndarray:
    """Grey values as uint8; white is the first of ``scales`` that no value exceeds, else the greatest value."""
    values = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)
    most = values.max()
    white = next((scale for scale in scales if most <= scale), most)
    return np.rint(values.clip(0) * (255 / white)).astype(np.uint8)


def _flatten(image: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """Lay a transparent picture on white, as browsers do."""
    if alpha is None:
        return image
    cover = alpha[..., None].astype(np.uint16)
    return ((image * cover + 255 * (255 - cover) + 127) // 255).astype(np.uint8)


def find_images(folder: str | Path) -> list[Path]:
    """All images below a folder, sorted by path; hidden files and folders are skipped, linked folders followed once.

    Raises:
        UserError: no such folder, or no image in it.
    """
    if not Path(folder).is_dir():
        raise UserError(f"no such folder of images: {folder}")
    found, seen = [], {os.path.realpath(folder)}
    for root, folders, files in os.walk(folder, followlinks=True):
        inner = [name for name in folders if not name.startswith(".")]
        real = {name: os.path.realpath(os.path.join(root, name)) for name in sorted(inner)}
        folders[:] = [name for name, place in real.items() if place not in seen]
        seen.update(real.values())
        names = (name for name in files if name.lower().endswith(SUFFIXES) and not name.startswith("."))
        found += [Path(root, name) for name in names]
    if not found:
        if any(Path(folder).glob("*.tar")):
            raise UserError(f"no images in {folder}, but tar files: name them, such as '{folder}/train-*.tar'")
        kinds = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
        raise UserError(f"no images in {folder}; looked there and in all folders below for {kinds}")
    return sorted(found)


class Files:
    """Image files by number, the counterpart of :class:`~lama_minimal.shards.Shards`."""

    def __init__(self, paths: Sequence[Path]) -> None:
        # One array instead of a million objects: their reference counts would unshare the workers' memory.
        self.paths = np.array([os.fsencode(path) for path in paths], dtype=np.bytes_)

    def __len__(self) -> int:
        """Number of files."""
        return len(self.paths)

    def __getitem__(self, n: int) -> Path:
        """File ``n``."""
        return Path(os.fsdecode(self.paths[n]))

    def take(self, numbers: np.ndarray) -> "Files":
        """The files of these numbers, in this order."""
        taken = Files([])
        taken.paths = self.paths[numbers]
        return taken

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """An order in which an epoch takes the files."""
        return rng.permutation(len(self))


def open_images(source: str | Path, cache: float = 20.0) -> Files | Shards:
    """The images of a folder, or of tar shards such as ``train-{000000..000999}.tar``, by number.

    Args:
        source: a folder, or what :func:`lama_minimal.shards.expand` takes.
        cache: most disk space for shards that come over HTTP, GB.

    Raises:
        UserError: there are none, or they cannot be had.
    """
    return Shards(str(source), cache) if is_shards(source) else Files(find_images(source))


def split_images(source: str | Path, held_out: int, cache: float = 20.0) -> tuple[Files | Shards, Files | Shards]:
    """Divide a folder or shards into training images and held-out ones, always in the same way.

    At most a tenth is held out. Below ten images nothing can be spared: then the same images serve for both.

    Returns:
        Training images, and at most ``held_out`` others in a fixed random order.
    """
    images = open_images(source, cache)
    if len(images) < 10:
        return images, images.take(np.arange(min(held_out, len(images))))
    chosen = _evaluation_order(len(images), 0)[: min(held_out, len(images) // 10)]
    return images.take(np.delete(np.arange(len(images)), chosen)), images.take(chosen)


def _evaluation_order(count: int, seed: int) -> np.ndarray:
    """The order in which the images of a folder are chosen for evaluation."""
    return np.random.default_rng((EVALUATION_CHOICE, seed)).permutation(count)


# ------------------------------------------------------------------------------------------------- crops and resizing


def _resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize by area averages where that makes the picture smaller, else bicubic."""
    if (height, width) == image.shape[:2]:
        return image
    smaller = width <= image.shape[1] and height <= image.shape[0]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


def _cut(image: np.ndarray, top: int, left: int, window: int, size: int) -> np.ndarray:
    """Cut out a square of ``window`` pixels and resize it to ``size``."""
    return np.ascontiguousarray(_resize(image[top : top + window, left : left + window], size, size))


def centre_square(image: np.ndarray, size: int) -> np.ndarray:
    """The picture's central square, (H, W, 3) → (size, size, 3)."""
    height, width = image.shape[:2]
    window = min(height, width)
    return _cut(image, (height - window) // 2, (width - window) // 2, window, size)


def random_square(image: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A random square, mirrored half of the time, (H, W, 3) → (size, size, 3).

    Pictures smaller than ``size`` are enlarged; of larger ones at least half of the shorter side is seen.
    """
    shorter = min(image.shape[:2])
    window = min(shorter, max(size, shorter // 2))
    top, left = (int(rng.integers(side - window, endpoint=True)) for side in image.shape[:2])
    square = _cut(image, top, left, window, size)
    return cv2.flip(square, 1) if rng.random() < 0.5 else square


# --------------------------------------------------------------------------------------------- the paper's augmentation


@dataclass(frozen=True)
class Augmentation:
    """What happens to one picture, in this order; None = left out (each with probability ½)."""

    corners: np.ndarray | None
    """Perspective: how far corners (clockwise from the top left) move inwards, (4, 2) shares of width and height."""
    affine: tuple[float, float, float] | None
    """Scale of each axis (x, y), then rotation about the centre, radians."""
    distortion: float | None
    """Optical distortion: both radial coefficients of the camera model."""
    place: tuple[float, float]
    """Random crop: how far down and to the right among all possible places, 0…1."""
    mirror: bool
    """Horizontal flip."""
    clahe: float | None
    """Clip limit of the contrast-limited histogram equalisation."""
    tone: tuple[float, float] | None
    """Contrast factor, and brightness added, share of white."""
    colour: tuple[float, float, float] | None
    """Added to hue (of 180), saturation and value (of 255)."""


def draw_augmentation(rng: np.random.Generator) -> Augmentation:
    """Draw the paper's augmentation (the authors' code, ``distortions``): strong, so that few pictures go far."""

    def chance() -> bool:
        return rng.random() < 0.5

    return Augmentation(
        corners=np.abs(rng.normal(0, rng.uniform(0, 0.06), (4, 2))) if chance() else None,
        affine=(*rng.uniform(0.7, 1.3, 2), np.deg2rad(rng.uniform(-40, 40))) if chance() else None,
        distortion=rng.uniform(-0.05, 0.05) if chance() else None,
        place=(rng.random(), rng.random()),
        mirror=chance(),
        clahe=rng.uniform(1, 4) if chance() else None,
        tone=(1 + rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2)) if chance() else None,
        colour=tuple(rng.uniform(-1, 1, 3) * (5, 30, 5)) if chance() else None,
    )


def _reflect(x: np.ndarray, length: int) -> np.ndarray:
    """Fold coordinates into 0 … length - 1, as a border that mirrors the picture about its outermost pixels does."""
    last = length - 1
    if last == 0:
        return np.zeros_like(x)
    least, most = x.min(), x.max()
    if least >= 0 and most <= last:
        return x
    x = np.abs(x)
    if max(-least, most) >= 2 * last:
        x %= 2 * last
    np.subtract(last, x, out=x)
    np.abs(x, out=x)
    return np.subtract(last, x, out=x)


def source_coordinates(a: Augmentation, height: int, width: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where in a picture each pixel of its augmented crop comes from.

    Steps are undone from the last to the first, for the crop's pixels only, so that the picture is interpolated once.

    Returns:
        x and y, broadcasting to (size, size) float32, within the picture.
    """
    tall, wide = max(height, size), max(width, size)  # padded to the crop's size
    top, left = (int(share * (side - size + 1)) for share, side in zip(a.place, (tall, wide), strict=True))
    x = np.arange(left, left + size, dtype=np.float32)[None, :: -1 if a.mirror else 1]
    y = np.arange(top, top + size, dtype=np.float32)[:, None]
    if a.distortion is not None:  # OpenCV's camera model with focal lengths equal to the sides
        u, v = x - wide / 2, y - tall / 2
        square = (u / wide) ** 2 + (v / tall) ** 2
        stretch = 1 + a.distortion * square * (1 + square)
        x, y = _reflect(u * stretch + wide / 2, wide), _reflect(v * stretch + tall / 2, tall)
    if (tall, wide) != (height, width):
        x, y = _reflect(x - (wide - width) // 2, width), _reflect(y - (tall - height) // 2, height)
    if a.affine is not None:
        across, down, angle = map(float, a.affine)  # NumPy's own would make the maps float64
        centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
        cos, sin = math.cos(angle), math.sin(angle)
        u = _plane(cos / across, x, sin / across, y, centre_x - (cos * centre_x + sin * centre_y) / across)
        v = _plane(-sin / down, x, cos / down, y, centre_y - (cos * centre_y - sin * centre_x) / down)
        x, y = _reflect(u, width), _reflect(v, height)
    if a.corners is not None:
        sides, outline = np.array((width, height)), np.array(((0, 0), (1, 0), (1, 1), (0, 1)))
        moved = (outline + a.corners * (1 - 2 * outline)) * sides - 0.5
        rows = cv2.getPerspectiveTransform(np.float32(outline * sides - 0.5), np.float32(moved)).tolist()
        u, v, depth = (_plane(by_x, x, by_y, y, constant) for by_x, by_y, constant in rows)
        x, y = _reflect(u / depth, width), _reflect(v / depth, height)
    return x, y


def _plane(by_x: float, x: np.ndarray, by_y: float, y: np.ndarray, constant: float) -> np.ndarray:
    """``by_x · x + by_y · y + constant``; maps of equal shape are read once."""
    if x.shape == y.shape:
        return cv2.addWeighted(x, by_x, y, by_y, constant)
    return by_x * x + (by_y * y + constant)


def warp(image: np.ndarray, a: Augmentation, size: int) -> np.ndarray:
    """The geometric part: perspective, affine, padding, optical distortion, crop and flip as one resampling.

    Returns:
        (size, size, 3) uint8.
    """
    height, width = image.shape[:2]
    x, y = source_coordinates(a, height, width, size)
    if a.corners is None and a.affine is None and a.distortion is None:  # whole pixels: no interpolation
        return image.take(y.astype(np.intp).ravel(), axis=0).take(x.astype(np.intp).ravel(), axis=1)
    if max(height, width) >= 2**15:  # more than OpenCV takes: only the part that the crop sees
        left, top = int(x.min()), int(y.min())
        image, x, y = image[top : int(y.max()) + 2, left : int(x.max()) + 2], x - left, y - top
    # To 1/32 pixel, as the authors' OpenCV 4 did it by itself; OpenCV 5 would not round, and takes longer for that.
    places, fractions = cv2.convertMaps(x, y, cv2.CV_16SC2)
    return cv2.remap(image, places, fractions, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def recolour(image: np.ndarray, a: Augmentation) -> np.ndarray:
    """The colour part of the augmentation, (H, W, 3) uint8: equalised lightness, then tone, then colour."""
    levels = np.arange(256)
    if a.clahe is not None:
        lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
        lab[..., 0] = cv2.createCLAHE(a.clahe, (8, 8)).apply(lab[..., 0])
        image = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
    if a.tone is not None:
        contrast, brightness = a.tone
        table = np.rint(levels * contrast + 255 * brightness).clip(0, 255)
        image = cv2.LUT(image, table.astype(np.uint8))
    if a.colour is not None:
        hue, saturation, value = a.colour
        table = np.stack((np.rint(levels + hue) % 180, levels + saturation, levels + value), 1)
        table = np.rint(table.clip(0, 255)).astype(np.uint8)
        hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), table[None])
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return image


def augment(image: np.ndarray, size: int, rng: np.random.Generator, perspective_only: bool = False) -> np.ndarray:
    """The paper's augmentation, or of it the perspective, crop and flip only: (H, W, 3) → (size, size, 3) uint8.

    The paper's photographs had a shorter side of about two crops; larger ones are reduced to that first.
    """
    height, width = image.shape[:2]
    factor = 2 * size / min(height, width)
    if factor < 1:
        image = _resize(image, max(1, round(width * factor)), max(1, round(height * factor)))
    a = draw_augmentation(rng)
    if perspective_only:
        a = replace(a, affine=None, distortion=None, clahe=None, tone=None, colour=None)
    return recolour(warp(image, a, size), a)


# ---------------------------------------------------------------------------------------------------------- training


class Batch(NamedTuple):
    """Images (B, 3, H, W) in [0, 1] and masks (B, 1, H, W), 1 = hole; float32.

    As it comes from a loader it holds bytes instead (images 0…255, masks bool), a quarter of the memory to hand from
    process to process and to a GPU; :meth:`to` makes numbers of them where they are used.
    """

    image: torch.Tensor
    mask: torch.Tensor

    def to(self, device: torch.device | str, channels_last: bool = False) -> "Batch":
        """The batch as float32 on a device, copied without waiting where the memory is pinned."""
        layout = torch.channels_last if channels_last else torch.contiguous_format
        image, mask = (part.to(device, non_blocking=True) for part in self)
        scaled = image.to(torch.float32, memory_format=layout)
        return Batch(
            scaled.div_(255) if image.dtype == torch.uint8 else scaled, mask.to(torch.float32, memory_format=layout)
        )


def collate(samples: Sequence[tuple[np.ndarray, np.ndarray]]) -> Batch:
    """A batch of bytes from samples of equal size: images (H, W, 3) uint8 and masks (H, W) bool."""
    images = torch.from_numpy(np.stack([image for image, _ in samples])).permute(0, 3, 1, 2)
    return Batch(images, torch.from_numpy(np.stack([mask for _, mask in samples]))[:, None])


class TrainingData(Dataset):
    """Endless training samples: sample n, for any n from 0, is a pure function of (seed, n).

    Each epoch takes every image once, in an order of its own. An unreadable image is replaced by the next one in that
    order, with a warning that counts them when their number in this process reaches 1, 2, 4, 8, ….
    """

    def __init__(
        self,
        images: Sequence[Path] | Files | Shards,
        size: int,
        augmentation: str = "paper",
        masks: str = "wide",
        scenes: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Prepare to draw.

        Args:
            images: image files, or images of shards; none = scenes only.
            size: side of the crops, pixels, at least 16.
            augmentation: "paper", "perspective" (of the paper's, with crop and flip), "flip" (random crop and flip)
                or "none" (the central square).
            masks: name of a recipe of :mod:`lama_minimal.masks`.
            scenes: share of built-in scenes mixed in, 0…1.
            seed: seed of everything, at least 0.

        Raises:
            UserError: a setting out of its range, or none of the images can be read.
        """
        if augmentation not in ("paper", "perspective", "flip", "none"):
            raise UserError(f"unknown augmentation {augmentation!r}; use paper, perspective, flip or none")
        if size < 16:
            raise UserError(f"size must be at least 16 pixels, not {size}")
        if not 0 <= scenes <= 1:
            raise UserError(f"scenes is a share between 0 and 1, not {scenes}")
        if seed < 0:
            raise UserError(f"seed must be 0 or more, not {seed}")
        self.images = images if isinstance(images, Files | Shards) else Files(images)
        self.size, self.augmentation, self.scenes, self.seed = size, augmentation, scenes, seed
        self.recipe = recipe_for(masks, size)
        keep_freed_memory()
        self.unreadable: dict[int, str] = {}
        self._epoch, self._order = -1, np.empty(0, int)
        if len(self.images):
            self._photograph(0)  # if none can be read, say so here rather than in a worker

    def __getitem__(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Sample n: image (size, size, 3) uint8 and mask (size, size) bool."""
        rng = np.random.default_rng((SAMPLE, self.seed, n))
        scene = rng.random() < self.scenes or not len(self.images)
        image = self._scene(n, rng) if scene else self._photograph(n)
        if self.augmentation in ("paper", "perspective"):
            image = augment(image, self.size, rng, self.augmentation == "perspective")
        elif self.augmentation == "flip":
            image = random_square(image, self.size, rng)
        else:
            image = centre_square(image, self.size)
        return image, draw_mask(self.recipe, (self.size, self.size), rng)

    def _scene(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """A scene of its own for each n, up to twice the crop's size so that crops show parts of it."""
        most = self.size if self.augmentation == "none" else 2 * self.size
        return draw_scene((TRAINING_SCENE, self.seed, n), int(rng.integers(self.size, most, endpoint=True))).image

    def _photograph(self, n: int) -> np.ndarray:
        """The image whose turn it is, or the next one that can be read; no larger than needed where that is faster."""
        epoch, place = divmod(n, len(self.images))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = self.images.order(np.random.default_rng((EPOCH, self.seed, epoch)))
        for step in range(len(self.images)):
            index = int(self._order[(place + step) % len(self.images)])
            if index in self.unreadable:
                continue
            source = self.images[index]  # fails if a shard cannot be read: that is no broken image, and ends the run
            try:
                least = self.size if self.augmentation == "none" else 2 * self.size
                return _flatten(*_read_file(source, least))
            except UserError as error:
                self._count_unreadable(index, str(error))
        first = next(iter(self.unreadable.values()))
        raise UserError(f"none of the {len(self.images)} images can be read; for example: {first}")

    def _count_unreadable(self, index: int, reason: str) -> None:
        """Remember an unreadable image; warn at the 1st, 2nd, 4th, 8th, …."""
        self.unreadable[index] = reason
        count, first = len(self.unreadable), next(iter(self.unreadable.values()))
        if count & (count - 1) == 0:
            warnings.warn(f"{count} unreadable image{'s' * (count > 1)} skipped so far, first: {first}", stacklevel=2)


@dataclass(frozen=True)
class BatchIndices:
    """The samples of each step of one process, from sample ``position`` of all processes on, without end."""

    batch_size: int
    position: int = 0
    rank: int = 0
    world: int = 1

    def __iter__(self) -> Iterator[list[int]]:
        """One list of ``batch_size`` numbers a step; the processes of a step share none."""
        for first in itertools.count(self.position + self.rank * self.batch_size, self.world * self.batch_size):
            yield list(range(first, first + self.batch_size))


def keep_freed_memory() -> None:
    """Let this process keep the memory it frees, for its next sample.

    Else the C library (glibc) gives pictures back to the system and takes the same memory anew a moment later, page by
    page: half the time of a large sample. It keeps blocks up to the size of the largest one that was freed, at most
    32 MB, so one such block is taken and freed, untouched and therefore at no cost. Elsewhere this does nothing.
    """
    np.empty(31 << 20, np.uint8)


def _begin_worker(_worker: int) -> None:
    """One thread a worker: parallelism comes from the workers."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    keep_freed_memory()


def training_loader(
    data: DataSettings,
    batch_size: int,
    seed: int = 0,
    position: int = 0,
    rank: int = 0,
    world: int = 1,
    pin_memory: bool = False,
) -> DataLoader:
    """An endless loader of batches of bytes; the same for any number of workers and when started anywhere.

    Args:
        data: what to load; the images held out by :func:`validation_set` are left out.
        batch_size: images of a batch of this process.
        seed: seed of the data.
        position: how many samples all processes have taken already.
        rank: which process this is, 0 … world - 1.
        world: number of processes.
        pin_memory: put batches into page-locked memory, from which copies to a GPU do not wait.

    Raises:
        UserError: a setting out of its range, or a folder without readable images.
    """
    images: Files | Shards = Files([])
    if data.folder is not None:
        held_out = data.evaluation_images if data.held_out is None else 0
        images = split_images(data.folder, held_out, data.cache)[0]
    dataset = TrainingData(images, data.size, data.augmentation, data.masks, data.scenes, seed)
    options: dict[str, Any] = {}
    if data.workers:
        options = {"worker_init_fn": _begin_worker, "persistent_workers": True}
    return DataLoader(
        dataset,
        batch_sampler=BatchIndices(batch_size, position, rank, world),
        num_workers=data.workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # its own, since a loader draws a number for its workers from the global one
        **options,
    )


def batches_of(loader: DataLoader) -> Iterator[Batch]:
    """The loader's batches; what a worker cannot read is one line here too, without the worker's traceback.

    Raises:
        UserError: a file or a server that images come from is gone, or none of the images can be read.
    """
    try:
        yield from loader
    except UserError as error:
        raise UserError(
            str(error).rstrip().splitlines()[-1].removeprefix(f"{UserError.__module__}.UserError: ")
        ) from None


# --------------------------------------------------------------------------------------------------------- evaluation


@dataclass(frozen=True)
class EvaluationSample:
    """One fixed task: image (size, size, 3) uint8, mask (size, size) bool, True = hole."""

    name: str
    image: np.ndarray
    mask: np.ndarray
    scene_class: str | None
    """The class of a built-in scene, None for a photograph."""


def evaluation_set(
    folder: str | Path | Sequence[Path] | Files | Shards | None,
    count: int,
    size: int,
    masks: str,
    seed: int = 0,
    classes: Sequence[str] | None = None,
) -> list[EvaluationSample]:
    """Fixed pictures with fixed masks: the same arguments, the same tasks; the first of many are those of few.

    At another size, the same places with (nearly) the same masks, except that 512 pixels have recipes of their own.
    Scenes never occur in training, whatever the seeds.

    Args:
        folder: a folder or shards, from which a fixed random choice is taken (all if there are fewer than ``count``);
            images, taken as they come; None = built-in scenes.
        count: how many.
        size: side, pixels; photographs are resized by their shorter side and cropped to the central square.
        masks: name of a recipe, such as "thin", "medium" or "thick".
        seed: seed of choice, scenes and masks.
        classes: scene classes to take turns; None = all.

    Raises:
        UserError: an unknown recipe, a folder without readable images, or classes of a folder.
    """
    recipe = recipe_for(masks, size)

    def task(index: int, name: str, image: np.ndarray, scene_class: str | None = None) -> EvaluationSample:
        mask = draw_mask(recipe, (size, size), np.random.default_rng((EVALUATION_MASK, seed, index)))
        return EvaluationSample(name, image, mask, scene_class)

    if folder is not None:
        if classes is not None:
            raise UserError("only built-in scenes have classes; leave out either the classes or the folder")
        images = _photographs(folder, count, size, seed)
        return [task(index, name, image) for index, (name, image) in enumerate(images)]
    turns = SCENE_CLASSES if classes is None else tuple(classes)
    if not turns or set(turns) - set(SCENE_CLASSES):
        raise UserError(f"unknown scene classes in {turns}; classes are {', '.join(SCENE_CLASSES)}")
    kinds = [turns[index % len(turns)] for index in range(count)]
    drawn = (draw_scene((EVALUATION_SCENE, seed, index), size, kind).image for index, kind in enumerate(kinds))
    return [task(i, f"{i:04d}-{kind}", image, kind) for i, (kind, image) in enumerate(zip(kinds, drawn, strict=True))]


def _photographs(
    folder: str | Path | Sequence[Path] | Files | Shards, count: int, size: int, seed: int
) -> list[tuple[str, np.ndarray]]:
    """Names and central squares of ``count`` images; unreadable ones are left out with one warning that counts them."""
    chosen = folder
    if isinstance(folder, str | Path):
        found = open_images(folder)
        chosen = found.take(_evaluation_order(len(found), seed))
    images, problems = [], []
    for number in range(len(chosen)):
        if len(images) == count:
            break
        source = chosen[number]
        in_folder = isinstance(source, Path) and isinstance(folder, str | Path)
        name = source.relative_to(folder).as_posix() if in_folder else source.name
        try:
            images.append((name, centre_square(_flatten(*read_image(source)), size)))
        except UserError as error:
            problems.append(str(error))
    if problems and not images:
        raise UserError(f"none of the {len(chosen)} images can be read; for example: {problems[0]}")
    if problems:
        many = len(problems) > 1
        warnings.warn(f"{len(problems)} unreadable image{'s' * many} left out, first: {problems[0]}", stacklevel=3)
    return images


def validation_set(data: DataSettings, masks: str = "thick") -> list[EvaluationSample]:
    """The tasks on which a training run is evaluated: held-out images, or held-out scenes."""
    images: str | Files | Shards | None = data.held_out
    if images is None and data.folder is not None:
        images = split_images(data.folder, data.evaluation_images, data.cache)[1]
    return evaluation_set(images, data.evaluation_images, data.size, masks)
