"""Filling holes: what is known stays bit-exact, whatever form pictures and masks have, and nothing is lost.

Fake generators whose answer is known in closed form stand in for trained ones, so that every pixel can be checked.
"""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from lama_minimal.config import UserError
from lama_minimal.inference import (
    FolderSummary,
    Inpainter,
    colour_profile,
    crops_around,
    gather_summaries,
    inpaint_folder,
    plan_folder,
    read_mask,
    save_image,
    this_process,
)
from lama_minimal.models import FourierGenerator, ResidualGenerator, pad_symmetric, size_limits

EXIF_ORIENTATION = 0x0112


class Constant(nn.Module):
    """Predicts one grey everywhere and remembers the sizes it was asked for."""

    def __init__(self, value: float = 0.5) -> None:
        super().__init__()
        self.value, self.sizes = value, []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(tuple(x.shape[-2:]))
        return torch.full_like(x[:, :3], self.value)


class MeanOfKnown(nn.Module):
    """Predicts the mean colour of the known pixels: what it answers shows what it was given."""

    def forward(self, x: Tensor) -> Tensor:
        image, mask = x[:, :3], x[:, 3:]
        known = (1 - mask).sum(dim=(2, 3), keepdim=True).clamp(min=1)
        return (image.sum(dim=(2, 3), keepdim=True) / known).expand_as(image)


class Local(nn.Module):
    """Predicts the mean of the known pixels at most 12 pixels away: nothing farther can matter to it."""

    def forward(self, x: Tensor) -> Tensor:
        image, mask = x[:, :3], x[:, 3:]

        def near(values: Tensor) -> Tensor:
            return nn.functional.avg_pool2d(values, 25, stride=1, padding=12, divisor_override=1)

        return near(image) / near(1 - mask).clamp(min=1)


class LevelOfSize(nn.Module):
    """Predicts a level of its own for each size of picture, with stripes one pixel wide, and remembers the sizes."""

    training_size, amplitude = 64, 20

    def __init__(self, levels: dict[int, int]) -> None:
        super().__init__()
        self.levels, self.sizes = levels, []

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        self.sizes.append(height)
        stripes = self.amplitude * (1 - 2 * (torch.arange(width) % 2))
        return ((self.levels[height] + stripes) / 255).expand(len(x), 3, height, width)


def photograph(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Random pixels: every mistake shows."""
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, channels), np.uint8)


def box(size: tuple[int, int], top: int, left: int, height: int, width: int) -> np.ndarray:
    """A mask with one rectangular hole."""
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = True
    return mask


@pytest.fixture(scope="module")
def small() -> Inpainter:
    """A random Fourier generator."""
    torch.manual_seed(0)
    return Inpainter(FourierGenerator(width=8, blocks=1, downsamplings=3), device="cpu", name="small")


GREY = Inpainter(Constant(0.5), device="cpu")


# ---------------------------------------------------------------------------------------------------------- any size


@pytest.mark.parametrize("downsamplings", [2, 3])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 5), (17, 16), (64, 48), (61, 130)])
def test_any_size_keeps_known_pixels(size: tuple[int, int], downsamplings: int) -> None:
    """The result has the picture's size; known pixels are bit-exact; holes are what the network says, rounded."""
    torch.manual_seed(1)
    generator = FourierGenerator(width=8, blocks=1, downsamplings=downsamplings)
    inpainter = Inpainter(generator, device="cpu", precision="float32", seamless=False)
    image = photograph(*size)
    mask = np.random.default_rng(0).random(size) < 0.3
    mask[0, 0] = True
    before = image.copy(), mask.copy()
    result = inpainter(image, mask)
    assert result.dtype == np.uint8 and result.shape == (*size, 3)
    assert np.array_equal(result[~mask], image[~mask])
    assert np.array_equal(image, before[0]) and np.array_equal(mask, before[1])  # inputs are left alone
    # independent of the padding under test: NumPy's symmetric padding to a size that the network takes
    multiple = 2**downsamplings
    height, width = (-(-max(side, 2 * multiple) // multiple) * multiple for side in size)
    pad = ((0, height - size[0]), (0, width - size[1]))
    padded = np.pad(image, (*pad, (0, 0)), mode="symmetric").astype(np.float32) / 255
    hole = np.pad(mask, pad, mode="symmetric").astype(np.float32)[..., None]
    x = torch.from_numpy(np.concatenate([padded * (1 - hole), hole], axis=2)).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = inpainter.generator(x)[0].permute(1, 2, 0).numpy()[: size[0], : size[1]]
    assert np.abs(result[mask].astype(float) - expected[mask] * 255).max() <= 0.5001


@pytest.mark.parametrize("precision", ["auto", "bfloat16"])
def test_lower_precision_changes_holes_a_little_and_nothing_else(precision: str) -> None:
    torch.manual_seed(1)
    generator = FourierGenerator(width=8, blocks=1)
    image, mask = photograph(50, 70), np.random.default_rng(0).random((50, 70)) < 0.3
    exact = Inpainter(generator, device="cpu", precision="float32")(image, mask)
    result = Inpainter(generator, device="cpu", precision=precision)(image, mask)
    assert np.array_equal(result[~mask], image[~mask])
    assert np.abs(result[mask].astype(int) - exact[mask]).max() <= 3
    with pytest.raises(UserError, match="float32"):
        Inpainter(generator, precision="float64")


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (8, 8), (7, 20)])
@pytest.mark.parametrize("target", [(8, 8), (72, 72), (9, 24)])
def test_padding_is_numpys_symmetric(shape: tuple[int, int], target: tuple[int, int]) -> None:
    """Mirrored with the border pixel repeated, also many times over."""
    height, width = max(shape[0], target[0]), max(shape[1], target[1])
    x = np.arange(2 * np.prod(shape), dtype=np.float32).reshape(1, 2, *shape)
    expected = np.pad(x, ((0, 0), (0, 0), (0, height - shape[0]), (0, width - shape[1])), mode="symmetric")
    assert np.array_equal(pad_symmetric(torch.from_numpy(x), height, width).numpy(), expected)


def test_size_limits_are_the_least_that_run() -> None:
    """The size named runs; one step smaller does not."""
    for generator, expected in [
        (FourierGenerator(8, 1, downsamplings=3), (8, 16)),
        (FourierGenerator(8, 1, downsamplings=2), (4, 8)),
        (ResidualGenerator(8, 1, downsamplings=3), (8, 16)),
        (ResidualGenerator(8, 1, downsamplings=3, dilations=(1, 2, 4, 8)), (8, 72)),
    ]:
        multiple, least = size_limits(generator.eval())
        assert (multiple, least) == expected
        assert generator(torch.zeros(1, 4, least, least)).shape[-2:] == (least, least)
        with pytest.raises(RuntimeError):
            generator(torch.zeros(1, 4, least - multiple, least - multiple))


def test_predict_takes_batches_and_differing_sizes_are_a_bug() -> None:
    """A batch is predicted as its pictures are, one by one."""
    torch.manual_seed(0)
    inpainter = Inpainter(ResidualGenerator(8, 1, dilations=(1, 2, 4, 8)), device="cpu")
    image, mask = torch.rand(2, 3, 30, 21), (torch.rand(2, 1, 30, 21) < 0.3).float()
    together = inpainter.predict(image, mask)
    alone = torch.cat([inpainter.predict(image[i : i + 1], mask[i : i + 1]) for i in range(2)])
    assert together.shape == image.shape and together.min() >= 0 and together.max() <= 1
    assert not together.requires_grad
    torch.testing.assert_close(together, alone)
    with pytest.raises(ValueError, match="differ in size"):
        inpainter.predict(image, mask[..., :20])


def test_network_is_put_into_evaluation_mode() -> None:
    """The same answer twice, running statistics untouched."""
    generator = FourierGenerator(8, 1).train()
    before = {key: value.clone() for key, value in generator.state_dict().items()}
    inpainter = Inpainter(generator, device="cpu")
    image, mask = photograph(32, 32), box((32, 32), 8, 8, 8, 8)
    assert np.array_equal(inpainter(image, mask), inpainter(image, mask))
    assert all(torch.equal(value, before[key]) for key, value in generator.state_dict().items())


def test_prediction_is_rounded_not_cut() -> None:
    """0.6 of a step more than 100 is 101."""
    result = Inpainter(Constant(100.6 / 255), device="cpu")(photograph(8, 8), np.ones((8, 8), bool))
    assert (result == 101).all()


def test_hole_is_hidden_from_the_network() -> None:
    """What is in the hole, for example the thing to remove, has no influence."""
    image, mask = photograph(40, 40), box((40, 40), 5, 5, 20, 20)
    other = image.copy()
    other[mask] = 255 - other[mask]
    inpainter = Inpainter(MeanOfKnown(), device="cpu")
    assert np.array_equal(inpainter(image, mask), inpainter(other, mask))
    expected = np.rint(image[~mask].mean(axis=0))
    assert np.abs(inpainter(image, mask)[mask].astype(int) - expected).max() <= 1


def test_empty_mask_asks_no_network_and_full_mask_takes_all_of_it() -> None:
    """Nothing to fill: an unchanged copy. Nothing known: the prediction everywhere."""
    image = photograph(20, 30)
    for strategy in ("auto", "whole", "crop", "resize"):
        generator = Constant(0.2)
        inpainter = Inpainter(generator, device="cpu")
        result = inpainter(image, np.zeros((20, 30), bool), strategy=strategy)
        assert np.array_equal(result, image) and result is not image and not generator.sizes
        assert (inpainter(image, np.ones((20, 30), bool), strategy=strategy) == 51).all()


# --------------------------------------------------------------------------------------------------- kinds of images


def png(image: Image.Image, path: Path, **settings: object) -> Path:
    """Write a picture with Pillow, whatever its mode."""
    image.save(path, **settings)
    return path


def test_arrays_images_and_paths_agree(small: Inpainter, tmp_path: Path) -> None:
    """The same picture and mask in three forms give the same result."""
    image, mask = photograph(40, 33), box((40, 33), 10, 12, 15, 9)
    from_arrays = small(image, mask)
    pillow, pillow_mask = Image.fromarray(image), Image.fromarray(mask)
    assert np.array_equal(from_arrays, small(pillow, pillow_mask))
    path, mask_path = png(pillow, tmp_path / "x.png"), png(pillow_mask, tmp_path / "x_mask.png")
    assert np.array_equal(from_arrays, small(path, str(mask_path)))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16"])
def test_known_pixels_are_the_decoded_ones(mode: str, tmp_path: Path) -> None:
    """Known pixels equal what Pillow decodes to 8-bit RGB; the alpha stays, in the hole too."""
    rgba = photograph(21, 34, 4)
    if mode == "I;16":
        grey = np.random.default_rng(0).integers(0, 65536, (21, 34), np.uint16)
        path = png(Image.fromarray(grey), tmp_path / "x.png")
        known = np.repeat(np.rint(grey / 257).astype(np.uint8)[..., None], 3, axis=2)
    else:
        path = png(
            Image.fromarray(rgba if "A" in mode else rgba[..., :3]).convert(mode),
            tmp_path / ("x.tif" if mode == "CMYK" else "x.png"),
        )
        known = np.asarray(Image.open(path).convert("RGB"))
    mask = box((21, 34), 3, 4, 9, 9)
    result = GREY(path, mask)
    assert result.shape == (21, 34, 4 if mode in ("RGBA", "LA") else 3)
    assert np.array_equal(result[..., :3][~mask], known[~mask])
    assert (result[..., :3][mask] == 128).all()
    if mode in ("RGBA", "LA"):
        assert np.array_equal(result[..., 3], rgba[..., 3])


def test_arrays_with_alpha_and_grey() -> None:
    """Arrays: alpha kept, grey becomes RGB."""
    mask = box((10, 12), 2, 2, 3, 3)
    rgba, grey = photograph(10, 12, 4), photograph(10, 12, 1)
    assert np.array_equal(GREY(rgba, mask)[~mask], rgba[~mask])
    assert np.array_equal(GREY(rgba, mask)[..., 3], rgba[..., 3])
    for form in (grey, grey[..., 0]):
        result = GREY(form, mask)
        assert result.shape == (10, 12, 3) and np.array_equal(result[~mask], np.repeat(grey, 3, axis=2)[~mask])


def test_exif_rotation_of_image_and_mask(tmp_path: Path) -> None:
    """A picture stored lying on its side comes out upright, and so does a mask; the hole is where it is seen."""
    upright, hole = photograph(20, 30), box((20, 30), 2, 3, 5, 7)
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6  # to be turned clockwise for display, so stored turned anticlockwise
    image = png(Image.fromarray(np.rot90(upright).copy()), tmp_path / "x.png", exif=exif)
    mask = png(Image.fromarray(np.rot90(hole).copy()), tmp_path / "x_mask.png", exif=exif)
    deep = png(Image.fromarray(np.rot90(hole).astype(np.uint16)), tmp_path / "deep_mask.png", exif=exif)
    expected = np.where(hole[..., None], 128, upright)
    assert np.array_equal(GREY(image, mask), expected)
    assert np.array_equal(GREY(image, deep), expected)
    assert np.array_equal(GREY(Image.open(image), hole), expected)
    with pytest.raises(UserError, match="rotated"):
        GREY(image, np.rot90(hole))


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((4, 4, 3), np.float32), "uint8.*float32"),
        (np.zeros((4, 4, 3), np.int64), "uint8.*int64"),
        (np.zeros((4, 4), bool), "uint8.*bool"),
        (np.zeros((3, 4, 4, 3), np.uint8), r"\(H, W, 3\).*\(3, 4, 4, 3\)"),
        (np.zeros((3, 8, 8), np.uint8), r"\(H, W, 3\).*\(3, 8, 8\)"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
        ([[1, 2], [3, 4]], "path, a PIL image or a NumPy array, got list"),
        ("no-such-file.png", "no-such-file.png"),
    ],
)
def test_wrong_images_name_the_expected_form(image: object, words: str) -> None:
    """A clear error instead of a wrong picture."""
    with pytest.raises(UserError, match=words):
        GREY(image, np.ones((4, 4), bool))


@pytest.mark.parametrize("use", ["image", "mask"])
def test_damaged_files(use: str, tmp_path: Path) -> None:
    """Truncated files and files of another kind are errors that name the file, as image and as mask."""
    buffer = io.BytesIO()
    Image.fromarray(photograph(64, 64)).save(buffer, "PNG")
    truncated, text, empty = tmp_path / "truncated.png", tmp_path / "text.png", tmp_path / "empty.png"
    truncated.write_bytes(buffer.getvalue()[:6000])
    text.write_text("not an image")
    empty.write_bytes(b"")
    fine = np.ones((64, 64), np.uint8)
    for path in (truncated, text, empty, tmp_path / "missing.png"):
        with pytest.raises(UserError, match=path.name):
            GREY(path, fine) if use == "image" else GREY(fine, path)
    with pytest.raises(UserError, match="truncated"):  # Pillow notices only when it needs the pixels
        opened = Image.open(truncated)
        GREY(opened, fine) if use == "image" else GREY(fine, opened)


# ---------------------------------------------------------------------------------------------------- kinds of masks


HOLE = box((24, 31), 4, 6, 9, 11)


def layer(colour: tuple[int, int, int], ground: tuple[int, int, int]) -> np.ndarray:
    """A layer painted with ``colour`` where the hole is, transparent elsewhere, with ``ground`` hidden there."""
    painted = np.where(HOLE[..., None], colour, ground)
    return np.dstack([painted, HOLE * 255]).astype(np.uint8)


ARRAYS = {
    "bool": HOLE,
    "0 and 1": HOLE.astype(np.uint8),
    "0 and 255": HOLE.astype(np.uint8) * 255,
    "one channel": HOLE[..., None],
    "three channels": np.repeat(HOLE[..., None], 3, axis=2).astype(np.uint8) * 255,
    "blue": np.dstack([HOLE * 0, HOLE * 0, HOLE * 1]).astype(np.uint8),  # 0 in Pillow's conversion to grey
    "white layer": layer((255, 255, 255), (0, 0, 0)),
    "black layer": layer((0, 0, 0), (0, 0, 0)),
    "red layer on hidden white": layer((255, 0, 0), (255, 255, 255)),
    "white and black layer on hidden white": np.dstack(
        [np.where(HOLE, 255, 255 * ~np.roll(HOLE, 12, axis=1))] * 3 + [(HOLE | np.roll(HOLE, 12, axis=1)) * 255]
    ).astype(np.uint8),
    "opaque": np.dstack([HOLE * 255] * 3 + [HOLE * 0 + 255]).astype(np.uint8),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_masks_as_arrays_and_png(name: str, tmp_path: Path) -> None:
    """Every form means the same hole, in memory and in a file."""
    mask = ARRAYS[name]
    assert np.array_equal(read_mask(mask, HOLE.shape), HOLE)
    save_form = mask[..., 0] if mask.shape[2:] == (1,) else mask
    image = Image.fromarray(save_form)
    assert np.array_equal(read_mask(image, HOLE.shape), HOLE)
    assert np.array_equal(read_mask(png(image, tmp_path / "m.png"), HOLE.shape), HOLE)
    image_pixels = photograph(*HOLE.shape)
    assert np.array_equal(GREY(image_pixels, mask), np.where(HOLE[..., None], 128, image_pixels))


@pytest.mark.parametrize("opacity", [255, 128])
def test_one_colour_everywhere_is_no_layer(opacity: int) -> None:
    """All black is an empty mask and all white a full one, even with an alpha channel."""
    black, white = np.zeros((5, 6, 4), np.uint8), np.full((5, 6, 4), 255, np.uint8)
    black[..., 3] = white[..., 3] = opacity
    assert not read_mask(black, (5, 6)).any()
    assert read_mask(white, (5, 6)).all()
    assert not read_mask(np.zeros((5, 6, 4), np.uint8), (5, 6)).any()  # nothing painted at all


def test_files_of_1_bit_16_bit_and_palette(tmp_path: Path) -> None:
    """1 of 65535 is a hole; a palette counts by its colours, not by its indices."""
    one_bit = png(Image.fromarray(HOLE).convert("1"), tmp_path / "one.png")
    deep = png(Image.fromarray(HOLE.astype(np.uint16)), tmp_path / "deep.png")
    real = png(Image.fromarray(HOLE.astype(np.float32) / 1000), tmp_path / "real.tif")
    indexed = Image.fromarray((~HOLE).astype(np.uint8), "L").convert("P")
    indexed.putpalette([255, 255, 255, 0, 0, 0])  # index 0 is white
    palette = png(indexed, tmp_path / "palette.png")
    clear = png(indexed, tmp_path / "clear.png", transparency=1)
    for path in (one_bit, deep, real, palette, clear):
        assert np.array_equal(read_mask(path, HOLE.shape), HOLE), path.name


def test_soft_masks(tmp_path: Path) -> None:
    """Lossless: every pixel above 0 is a hole. JPEG: noise beside the hole is none."""
    soft = np.zeros((40, 40), np.uint8)
    soft[10:30, 10:30] = 255
    soft[9, 10:30] = 3  # a faint edge
    assert np.array_equal(read_mask(soft, (40, 40)), soft > 0)
    assert np.array_equal(read_mask(png(Image.fromarray(soft), tmp_path / "m.png"), (40, 40)), soft > 0)
    jpeg = png(Image.fromarray(soft), tmp_path / "m.jpg", quality=75)
    assert ((np.asarray(Image.open(jpeg)) > 0) != (soft > 0)).sum() > 20  # there is noise to be ignored
    assert np.array_equal(read_mask(jpeg, (40, 40)), soft == 255)
    faint = png(Image.fromarray((soft == 255).astype(np.uint8) * 90), tmp_path / "faint.jpg", quality=75)
    assert np.array_equal(read_mask(faint, (40, 40)), soft == 255)
    black = png(Image.fromarray(np.zeros((40, 40), np.uint8)), tmp_path / "black.jpg")
    assert not read_mask(black, (40, 40)).any()


def test_masks_of_another_size_or_type_are_refused() -> None:
    """The message states both sizes."""
    with pytest.raises(UserError, match=r"mask is 31 x 24 pixels, its image 30 x 24.*image's size"):
        GREY(photograph(24, 30), HOLE)
    for wrong in (HOLE.astype(np.float32), HOLE.astype(np.int32), HOLE[None, None]):
        with pytest.raises(UserError, match="bool or uint8"):
            read_mask(wrong, HOLE.shape)


# -------------------------------------------------------------------------------------------------------- strategies


def test_auto_crops_above_1024_and_whole_below() -> None:
    """By default the size decides; known pixels are bit-exact in each strategy, on a large picture."""
    generator = Constant(0.5)
    inpainter = Inpainter(generator, device="cpu")
    image, mask = photograph(2000, 3000), box((2000, 3000), 700, 2800, 100, 60)
    expected = np.where(mask[..., None], 128, image)
    for strategy in ("auto", "crop", "whole"):
        assert np.array_equal(inpainter(image, mask, strategy=strategy), expected)
    auto, crop, whole = generator.sizes
    assert auto == crop and whole == (2000, 3000) and max(crop) < 400
    generator.sizes.clear()
    inpainter(image[:1024, :1024], np.ones((1024, 1024), bool))
    inpainter(image[:1025, :8], np.ones((1025, 8), bool), strategy="resize")
    assert generator.sizes[0] == (1024, 1024) and generator.sizes[1][0] == 1024
    with pytest.raises(UserError, match="auto, whole, crop, resize"):
        inpainter(image, mask, strategy="tiles")


def test_crop_equals_whole_for_a_local_network() -> None:
    """A network that sees 12 pixels far gets all it can use from a crop; also at borders and corners."""
    image = photograph(700, 900)
    mask = box((700, 900), 0, 0, 20, 30) | box((700, 900), 300, 400, 22, 90) | box((700, 900), 690, 870, 10, 30)
    mask |= box((700, 900), 300, 520, 15, 15)  # a neighbour of the second: the same crop
    inpainter = Inpainter(Local(), device="cpu")
    assert len(crops_around(mask)) == 3
    whole, crop = (inpainter(image, mask, strategy=strategy) for strategy in ("whole", "crop"))
    assert np.abs(whole.astype(int) - crop).max() <= 1 and np.array_equal(whole[~mask], crop[~mask])
    narrow = inpainter.fill(image[296:330, 396:540], mask[296:330, 396:540], strategy="whole")
    assert np.abs(narrow.astype(int) - whole[296:330, 396:540]).max() > 1  # without a margin it would not be equal


def test_crops_cover_every_hole_once_with_a_margin() -> None:
    """Random holes: each pixel in exactly one crop's turn, margins and least sides kept, on the network's grid."""
    rng = np.random.default_rng(3)
    for size in [(900, 1400), (300, 2000), (100, 90)]:
        mask = np.zeros(size, bool)
        for _ in range(6):
            top, left = rng.integers(0, size[0]), rng.integers(0, size[1])
            mask[top : top + rng.integers(1, 200), left : left + rng.integers(1, 200)] = True
        turns = np.zeros(size, int)
        for crop in crops_around(mask, 8):
            turns[crop.rows, crop.columns] += crop.hole
            for span, axis, length in ((crop.rows, 0, size[0]), (crop.columns, 1, size[1])):
                filled = np.flatnonzero(crop.hole.any(axis=1 - axis)) + span.start
                assert span.start <= max(0, filled[0] - 64) and span.stop >= min(length, filled[-1] + 1 + 64)
                assert span.stop - span.start >= min(length, 256)
                assert span.start % 8 == 0 and (span.stop % 8 == 0 or span.stop == length)
        assert np.array_equal(turns, mask.astype(int))
    assert crops_around(np.ones((500, 600), bool))[0].hole.shape == (500, 600)


def test_later_crops_see_earlier_results_and_never_what_is_still_missing() -> None:
    """Two holes that share known pixels but no group: what is to be removed shines through nowhere."""
    image = np.full((256, 600, 3), 100, np.uint8)
    mask = box((256, 600), 100, 200, 20, 20) | box((256, 600), 90, 290, 40, 40)
    image[mask] = 255
    first, second = crops_around(mask)
    assert first.columns.stop >= 330 and second.columns.start <= 200  # each crop contains both holes
    seen = []

    class Spy(MeanOfKnown):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x[0, 3].sum().item())
            return super().forward(x)

    result = Inpainter(Spy(), device="cpu")(image, mask, strategy="crop")
    assert (result == 100).all()
    assert seen == [400 + 1600, 1600]  # the small hole first, with the large one still missing; then only the large one


def test_resize_shrinks_and_pastes_into_the_hole_only() -> None:
    """The network sees 1024 pixels, nothing of the hole's content, and all outside the hole stays."""
    image = np.full((1500, 2600, 3), (40, 90, 200), np.uint8)
    mask = box((1500, 2600), 301, 503, 407, 333)
    image[mask] = 255
    sizes = []

    class Spy(MeanOfKnown):
        def forward(self, x: Tensor) -> Tensor:
            sizes.append(tuple(x.shape[-2:]))
            known = x[:, :3].amin(dim=(0, 2, 3)), x[:, :3].amax(dim=(0, 2, 3))
            assert known[0].max() == 0 and (known[1] * 255 - torch.tensor([40, 90, 200])).abs().max() < 0.5
            return super().forward(x)

    result = Inpainter(Spy(), device="cpu")(image, mask, strategy="resize")
    assert sizes == [(591, 1024)]
    assert np.array_equal(result[~mask], image[~mask])
    assert np.abs(result.astype(int) - (40, 90, 200)).max() <= 1


def test_resize_of_waves_stays_waves() -> None:
    """Shrinking and enlarging put everything back in its place: an ideal network's answer fits without a seam."""
    mask = box((600, 2048), 200, 700, 150, 500)

    class Waves(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            pixel = 2048 / x.shape[-1]
            columns = (torch.arange(x.shape[-1]) + 0.5) * pixel - 0.5  # centres, in pixels of the large picture
            return ((128 + 100 * torch.sin(columns / 10)) / 255).expand(1, 3, x.shape[-2], -1)

    image = (
        np.rint(128 + 100 * np.sin(np.arange(2048) / 10))[None, :, None].repeat(600, 0).repeat(3, 2).astype(np.uint8)
    )
    result = Inpainter(Waves(), device="cpu")(image, mask, strategy="resize")
    assert np.abs(result.astype(int) - image).max() <= 2  # a quarter of a pixel is 2.5


def test_progress_is_reported_after_each_crop(capsys: pytest.CaptureFixture) -> None:
    """(done, total), rising to the total; short work shows no bar."""
    mask = box((300, 1500), 10, 10, 20, 20) | box((300, 1500), 10, 700, 20, 20) | box((300, 1500), 10, 1400, 20, 20)
    calls = []
    GREY(photograph(300, 1500), mask, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    GREY(photograph(300, 1500), mask)
    assert capsys.readouterr().err == ""


def test_too_little_memory_names_the_way_out() -> None:
    """A GPU that is too small."""

    class Greedy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    class Insatiable(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.empty(2**50)

    for network in (Greedy(), Insatiable()):
        with pytest.raises(UserError, match=r"9 x 8 pixels.*crop"):
            Inpainter(network, device="cpu")(photograph(8, 9), np.ones((8, 9), bool))


# -------------------------------------------------------------------------------------------------------------- saving


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".TIFF", ".bmp"])
@pytest.mark.parametrize("channels", [3, 4])
def test_lossless_formats_are_bit_exact(suffix: str, channels: int, tmp_path: Path) -> None:
    """What is read again is what was written, the colours of transparent pixels included."""
    pixels, path = photograph(13, 17, channels), tmp_path / "new" / f"x{suffix}"
    if channels == 4:
        pixels[:5, :, 3] = 0
    if channels == 4 and suffix == ".bmp":
        with pytest.raises(UserError, match=r"transparency.*\.png"):
            save_image(pixels, path)
        return
    save_image(pixels, path)
    assert np.array_equal(np.asarray(Image.open(path)), pixels)
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary file stays


def test_jpeg_holds_no_transparency(tmp_path: Path) -> None:
    """Transparency is never dropped silently; alpha that is opaque everywhere says nothing and may go."""
    pixels = np.full((16, 16, 4), 200, np.uint8)
    with pytest.raises(UserError, match=r"transparency: use \.png, \.webp or \.tif"):
        save_image(pixels, tmp_path / "x.jpg")
    assert not list(tmp_path.iterdir())
    pixels[..., 3] = 255
    save_image(pixels, tmp_path / "x.JPG")
    written = Image.open(tmp_path / "x.JPG")
    assert written.mode == "RGB" and np.abs(np.asarray(written).astype(int) - 200).max() <= 1


def test_unknown_formats_are_named(tmp_path: Path) -> None:
    """With the known ones; a path without a suffix, too."""
    for name in ("x.xyz", "x"):
        with pytest.raises(UserError, match=r"unknown format.*\.png.*\.jpg"):
            save_image(photograph(4, 4), tmp_path / name)


def test_inputs_are_never_overwritten(tmp_path: Path) -> None:
    """Neither under their own name, nor by another spelling, nor through links; other files are replaced."""
    given = png(Image.fromarray(photograph(4, 4)), tmp_path / "x.png")
    content = given.read_bytes()
    (tmp_path / "link.png").symlink_to(given)
    os.link(given, tmp_path / "hard.png")
    (tmp_path / "sub").mkdir()
    for path in (given, tmp_path / "sub" / ".." / "x.png", tmp_path / "link.png", tmp_path / "hard.png"):
        with pytest.raises(UserError, match="is an input"):
            save_image(photograph(5, 5), path, inputs=[tmp_path / "missing.png", given])
    assert given.read_bytes() == content
    save_image(photograph(5, 5), tmp_path / "other.png", inputs=[given])
    save_image(photograph(6, 6), tmp_path / "other.png", inputs=[given])
    assert Image.open(tmp_path / "other.png").size == (6, 6)


def test_failed_writing_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that breaks off keeps the old file and leaves no other."""
    path = tmp_path / "x.png"
    save_image(photograph(5, 5), path)
    before = path.read_bytes()

    def full_disk(image: Image.Image, file: io.BufferedWriter, *_: object, **__: object) -> None:
        file.write(b"half of")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(UserError, match=r"x\.png.*No space left"):
        save_image(photograph(6, 6), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_limits_of_a_format_are_an_error(tmp_path: Path) -> None:
    """WebP ends at 16383 pixels."""
    with pytest.raises(UserError, match="cannot write"):
        save_image(np.zeros((1, 16384, 3), np.uint8), tmp_path / "x.webp")
    assert not list(tmp_path.iterdir())


def test_colour_profile_is_kept_if_it_is_for_rgb(tmp_path: Path) -> None:
    """A wide-gamut photograph keeps its colours; a profile of another colour space would spoil them."""
    rgb = b"\0" * 16 + b"RGB " + b"\0" * 108
    picture = Image.fromarray(photograph(4, 4))
    profile = colour_profile(png(picture, tmp_path / "x.png", icc_profile=rgb))
    assert profile == rgb
    save_image(photograph(4, 4), tmp_path / "y.png", icc_profile=profile)
    assert Image.open(tmp_path / "y.png").info["icc_profile"] == rgb
    grey = png(picture.convert("L"), tmp_path / "grey.png", icc_profile=rgb.replace(b"RGB ", b"GRAY"))
    assert colour_profile(grey) is None
    assert colour_profile(png(picture, tmp_path / "none.png")) is None and colour_profile(photograph(4, 4)) is None


# ------------------------------------------------------------------------------------------------------------- folders


def fill_folder(folder: Path, names: list[str]) -> dict[str, np.ndarray]:
    """Pictures of 20 × 24 pixels under these names; masks have their hole at a place of their own."""
    pixels = {}
    for place, name in enumerate(names):
        pixels[name] = photograph(20, 24 + place)[:, :24]
        if "_mask" in name:
            pixels[name] = box((20, 24), place % 15, place % 19, 4, 5).astype(np.uint8) * 255
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[name]).save(folder / name, quality=100)
    return pixels


def test_folder_in_the_originals_naming(tmp_path: Path) -> None:
    """Several masks of an image, other formats, subfolders; results named after the masks; the rest is listed."""
    folder, out = tmp_path / "in", tmp_path / "out"
    names = ["x.png", "x_mask000.png", "x_mask001.png", "y.JPG", "y_mask.png", "sub/x.png", "sub/x_mask.png"]
    names += ["x_masked.png", "alone.png", "lost_mask001.png", "mask.png"]
    pixels = fill_folder(folder, names)
    calls = []
    summary = inpaint_folder(GREY, folder, out, progress=lambda done, total: calls.append((done, total)))
    results = ["sub/x_mask.png", "x_mask000.png", "x_mask001.png", "y_mask.png"]
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()) == results
    assert sorted(summary.written) == [out / name for name in results]
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for name, image in [("x_mask000.png", "x.png"), ("x_mask001.png", "x.png"), ("sub/x_mask.png", "sub/x.png")]:
        expected = np.where(pixels[name][..., None] > 0, 128, pixels[image])
        assert np.array_equal(np.asarray(Image.open(out / name)), expected)
    assert summary.without_mask == [folder / "alone.png", folder / "mask.png", folder / "x_masked.png"]
    assert summary.without_image == [folder / "lost_mask001.png"]
    assert "4 written" in str(summary) and "alone.png" in str(summary) and "lost_mask001.png" in str(summary)


def test_folder_run_is_taken_up_again(tmp_path: Path) -> None:
    """What is there stays and is not computed again, unless asked for."""
    folder, out = tmp_path / "in", tmp_path / "in" / "results"  # inside: results are not taken for inputs
    fill_folder(folder, ["x.png", "x_mask0.png", "x_mask1.png", "x_mask2.png"])

    class Interrupted(Constant):
        def forward(self, x: Tensor) -> Tensor:
            if len(self.sizes) == 2:
                raise KeyboardInterrupt
            return super().forward(x)

    with pytest.raises(KeyboardInterrupt):
        inpaint_folder(Inpainter(Interrupted(), device="cpu"), folder, out)
    before = {path: path.read_bytes() for path in sorted(out.iterdir())}
    assert [path.name for path in before] == ["x_mask0.png", "x_mask1.png"]
    generator = Constant(0.9)
    summary = inpaint_folder(Inpainter(generator, device="cpu"), folder, out)
    assert summary.existing == list(before) and summary.written == [out / "x_mask2.png"]
    assert len(generator.sizes) == 1 and all(path.read_bytes() == content for path, content in before.items())
    assert not summary.without_image and not summary.without_mask
    again = inpaint_folder(Inpainter(generator, device="cpu"), folder, out, overwrite=True)
    assert len(again.written) == 3 and out.joinpath("x_mask0.png").read_bytes() != before[out / "x_mask0.png"]


def test_broken_files_are_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    """A damaged image, a damaged mask, a mask of another size."""
    folder, out = tmp_path / "in", tmp_path / "out"
    fill_folder(folder, ["a.png", "a_mask.png", "b.png", "b_mask.png", "c.png", "c_mask.png", "d.png", "d_mask.png"])
    (folder / "a.png").write_bytes(b"nonsense")
    (folder / "b_mask.png").write_bytes((folder / "b_mask.png").read_bytes()[:50])
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(folder / "c_mask.png")
    summary = inpaint_folder(GREY, folder, out)
    assert summary.written == [out / "d_mask.png"]
    assert list(summary.failed) == [folder / "a_mask.png", folder / "b_mask.png", folder / "c_mask.png"]
    reasons = list(summary.failed.values())
    assert "a.png" in reasons[0] and "b_mask.png" in reasons[1] and "4 x 3" in reasons[2]
    assert "3 failed" in str(summary) and str(folder / "c_mask.png") in str(summary)


def test_ambiguous_names_are_reported_not_guessed(tmp_path: Path) -> None:
    """Two images for a mask of a third format, two masks for one result; a mask's own format wins."""
    folder, out = tmp_path / "in", tmp_path / "out"
    fill_folder(folder, ["x.jpg", "x.webp", "x_mask.png", "y.jpg", "y.png", "y_mask.jpg", "z.png", "z_mask.png"])
    Image.fromarray(np.zeros((20, 24), np.uint8)).save(folder / "z_mask.webp")
    plan = plan_folder(folder, out)
    assert [(image.name, mask.name) for image, mask, _ in plan.jobs] == [
        ("y.jpg", "y_mask.jpg"),
        ("z.png", "z_mask.png"),
    ]
    failed = {mask.name: reason for mask, reason in plan.summary.failed.items()}
    assert "x.jpg, x.webp" in failed["x_mask.png"] and "z_mask.png" in failed["z_mask.webp"]
    assert [path.name for path in plan.summary.without_mask] == ["y.png"]


def test_a_photograph_of_a_mask_is_a_photograph(tmp_path: Path) -> None:
    """An image whose own name ends in _mask has its mask beside it."""
    fill_folder(tmp_path / "in", ["carnival_mask.jpg", "carnival_mask_mask.png"])
    plan = plan_folder(tmp_path / "in", tmp_path / "out")
    assert [image.name for image, _, _ in plan.jobs] == ["carnival_mask.jpg"]
    assert not plan.summary.without_image and not plan.summary.without_mask


def test_folder_refusals(tmp_path: Path) -> None:
    """Nothing to do, no folder, results that would replace inputs: an error, and no file is touched."""
    folder = tmp_path / "in"
    fill_folder(folder, ["x.png", "x_mask.png", "in/x.png", "in/x_mask.png"])
    before = {path: path.read_bytes() for path in folder.rglob("*.png")}
    with pytest.raises(UserError, match="folder of their own"):
        inpaint_folder(GREY, folder, folder)
    with pytest.raises(UserError, match="folder of their own"):
        inpaint_folder(GREY, folder, folder / "x.png")
    with pytest.raises(UserError, match="is an input"):
        inpaint_folder(GREY, folder, tmp_path, overwrite=True)  # in/in/x_mask.png would become in/x_mask.png
    with pytest.raises(UserError, match="strategies"):
        inpaint_folder(GREY, folder, tmp_path / "out", strategy="tiles")
    with pytest.raises(UserError, match="missing"):
        inpaint_folder(GREY, tmp_path / "missing", tmp_path / "out")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.png")} == before
    for names in ([], ["x.png", "y.png"], ["x_mask.png"]):
        empty = tmp_path / f"naming{len(names)}{''.join(names)}"
        empty.mkdir()
        fill_folder(empty, names)
        with pytest.raises(UserError, match=r"x_mask001\.png"):
            inpaint_folder(GREY, empty, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def pack(folder: Path, tar: Path, names: list[str]) -> None:
    """Some of a folder's files as a shard."""
    with tarfile.open(tar, "w") as shard:
        for name in names:
            shard.add(folder / name, name)


def test_shards_are_filled_as_folders_are(tmp_path: Path) -> None:
    """The same pixels, a subfolder for each shard; what is broken or missing is reported; nothing leads outside."""
    folder, out = tmp_path / "in", tmp_path / "out"
    names = ["x.png", "x_mask000.png", "x_mask001.png", "sub/y.jpg", "sub/y_mask.png", "z.png", "lost_mask.png"]
    fill_folder(folder, [*names, "b.png", "b_mask.png"])
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:60])
    pack(folder, tmp_path / "one.tar", names)
    pack(folder, tmp_path / "two.tar", ["b.png", "b_mask.png", "x.png", "x_mask000.png"])
    summary = inpaint_folder(GREY, str(tmp_path / "*.tar"), out)
    inpaint_folder(GREY, folder, tmp_path / "same")
    written = {"one/x_mask000.png", "one/x_mask001.png", "one/sub/y_mask.png", "two/x_mask000.png"}
    assert {path.relative_to(out).as_posix() for path in summary.written} == written
    for name in written:
        found, wanted = (np.asarray(Image.open(p)) for p in (out / name, tmp_path / "same" / name.partition("/")[2]))
        assert np.array_equal(found, wanted)
    assert summary.without_mask == [Path("one/z.png")] and summary.without_image == [Path("one/lost_mask.png")]
    assert list(summary.failed) == [Path("two/b_mask.png")] and "two.tar" in str(summary)
    assert len(inpaint_folder(GREY, str(tmp_path / "*.tar"), out).existing) == 4
    with tarfile.open(tmp_path / "evil.tar", "w") as shard:
        for name in ("x.png", "x_mask000.png"):
            shard.add(folder / name, f"../../{name}")
    with pytest.raises(UserError, match="leads out"):
        inpaint_folder(GREY, str(tmp_path / "evil.tar"), out)


@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_fill_each_picture_once(tmp_path: Path, world: int) -> None:
    """Together what one alone fills; after a kill, with any number of processes, what is left."""
    folder, out = tmp_path / "in", tmp_path / "out"
    fill_folder(folder, [name for n in range(7) for name in (f"{n}.png", f"{n}_mask.png")])
    shares = [inpaint_folder(GREY, folder, out, rank=rank, world=world).written for rank in range(world)]
    assert sorted(path for share in shares for path in share) == [out / f"{n}_mask.png" for n in range(7)]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    for n in (1, 4):
        (out / f"{n}_mask.png").unlink()
    again = inpaint_folder(GREY, folder, out)
    assert again.written == [out / "1_mask.png", out / "4_mask.png"] and len(again.existing) == 5


def test_which_process_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the two variables that torchrun sets; nonsense is one line."""
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    assert this_process() == (0, 1)
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(UserError, match="WORLD_SIZE"):
        this_process()
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert this_process() == (2, 4)
    summary = FolderSummary(written=[Path("x")])
    assert gather_summaries(summary, 2, 4) is summary  # started apart, without torchrun


def test_load_hands_the_model_to_the_checkpoint_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name or a path reaches the loader; the name is kept."""
    generator = FourierGenerator(8, 1)
    asked = []
    monkeypatch.setattr("lama_minimal.inference.load_generator", lambda model: asked.append(model) or generator)
    inpainter = Inpainter.load(Path("runs") / "mine", device="cpu")
    assert asked == [Path("runs") / "mine"] and inpainter.generator is generator
    assert inpainter.name == str(Path("runs") / "mine") and inpainter.device == torch.device("cpu")


# ------------------------------------------------------------------------------------------------------ coarse to fine


def test_wide_holes_take_their_structure_from_the_coarser_scales():
    """Deep inside a hole: the level of the coarsest scale, the stripes of the finest one; the rest as it is."""
    rgb, hole = photograph(256, 256), box((256, 256), 8, 8, 240, 240)
    network = LevelOfSize({256: 60, 128: 90, 64: 160})
    filled = Inpainter(network, coarse_to_fine=True).fill(rgb, hole).astype(int)
    assert network.sizes == [256, 128, 64]
    assert np.array_equal(filled[~hole], rgb[~hole])
    middle = filled[108:148, 108:148]
    assert abs(middle.mean() - 160) < 2  # the stripes of the coarser scales are too fine to be seen at the finer ones
    assert np.abs(np.diff(middle, axis=1)).mean() == pytest.approx(2 * LevelOfSize.amplitude, abs=3)
    border = filled[8:10, 20:236]
    assert abs(border.mean() - 60) < 8  # beside known pixels the finest scale decides
    rows = filled[8:128, 108:148].mean(axis=(1, 2))
    assert np.abs(np.diff(rows)).max() < 6  # without a step


@pytest.mark.parametrize(
    "side, hole, wanted",
    [
        (256, box((256, 256), 8, 100, 240, 32), True),  # nowhere deep enough
        (96, box((96, 96), 8, 8, 80, 80), True),  # smaller than twice the training size
        (256, box((256, 256), 8, 8, 240, 240), False),
    ],
)
def test_other_pictures_are_filled_once(side, hole, wanted):
    network = LevelOfSize({side: 60})
    filled = Inpainter(network, coarse_to_fine=wanted).fill(photograph(side, side), hole)
    assert network.sizes == [side] and set(np.unique(filled[hole])) == {40, 80}


def test_beyond_the_picture_nothing_is_known():
    """A hole that reaches the edge is deep there."""
    network = LevelOfSize({128: 60, 64: 160})
    hole = box((128, 128), 0, 0, 128, 64)
    filled = Inpainter(network, coarse_to_fine=True).fill(photograph(128, 128), hole)
    assert abs(filled[:, :8].mean() - 160) < 3


def test_the_model_says_whether_from_coarse_to_fine():
    network = LevelOfSize({256: 60})
    assert not Inpainter(network).coarse_to_fine
    network.coarse_to_fine = True
    assert Inpainter(network).coarse_to_fine and not Inpainter(network, coarse_to_fine=False).coarse_to_fine
    assert Inpainter.load("course").coarse_to_fine and not Inpainter.load("course-scenes").coarse_to_fine


# ---------------------------------------------------------------------------------------------------------- seamless


class Shifted(nn.Module):
    """Predicts the truth, too bright by a ramp."""

    seamless = True

    def __init__(self, truth: np.ndarray, ramp: np.ndarray) -> None:
        super().__init__()
        self.truth, self.ramp = (torch.from_numpy(x.astype(np.float32) / 255) for x in (truth, ramp))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.truth + self.ramp).permute(2, 0, 1)[None].clamp(0, 1)


def test_a_filling_is_fitted_to_its_surroundings():
    """What the network gets wrong by a ramp, in a smooth picture, is all but gone; without fitting it is there."""
    rows, columns = np.indices((96, 128))
    truth = np.stack([100 + 0.5 * rows, 120 + 0.3 * columns, 90 + 0.2 * rows], axis=-1)
    wrong = np.repeat((40 * columns / 127 + 10)[..., None], 3, axis=-1)
    hole = box((96, 128), 10, 10, 76, 90) | box((96, 128), 80, 100, 16, 28)  # inside, and at a corner
    rgb = truth.round().astype(np.uint8)
    filled = Inpainter(Shifted(truth, wrong)).fill(rgb, hole).astype(float)
    assert np.array_equal(filled[~hole], rgb[~hole])
    assert np.abs(filled - truth)[hole].mean() < wrong[hole].mean() / 8
    as_predicted = Inpainter(Shifted(truth, wrong), seamless=False).fill(rgb, hole).astype(float)
    assert np.abs(as_predicted - truth - wrong)[hole].max() <= 1


def test_nothing_known_nothing_to_meet():
    truth = np.full((64, 64, 3), 90)
    everything = np.ones((64, 64), bool)
    assert (Inpainter(Shifted(truth, truth * 0 + 20)).fill(truth.astype(np.uint8), everything) == 110).all()


def test_the_model_says_whether_seamless():
    assert Inpainter.load("course").seamless and not Inpainter.load("course", seamless=False).seamless
    network = FourierGenerator(width=8, blocks=1)
    network.seamless = False  # as the authors' files say
    assert not Inpainter(network).seamless and Inpainter(network, seamless=True).seamless
