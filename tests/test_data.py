"""Files of every kind are read rightly, samples depend on (seed, n) alone, augmentations are the paper's."""

import itertools
import os
import pickle
import platform
import struct
import subprocess
import sys
import textwrap
import warnings
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from lama_minimal.config import DataSettings, UserError
from lama_minimal.data import (
    Augmentation,
    Batch,
    TrainingData,
    augment,
    collate,
    draw_augmentation,
    evaluation_set,
    find_images,
    random_square,
    read_image,
    recolour,
    split_images,
    training_loader,
    validation_set,
    warp,
)
from lama_minimal.masks import draw_mask, recipe_for
from lama_minimal.scenes import SCENE_CLASSES, STRUCTURED

PLAIN = Augmentation(None, None, None, (0.0, 0.0), False, None, None, None)


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers of the test itself."""
    return np.random.default_rng(5)


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Random bytes, the hardest picture to get bit-exact."""
    values = np.random.default_rng((height, width)).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return values[..., 0] if channels == 1 else values


def smooth(height: int, width: int) -> np.ndarray:
    """A picture without fine detail, so that one interpolation and three differ little."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = (np.sin(x / 19 + y / 31), np.cos(x / 27 - y / 17), np.sin(x / 37) * np.cos(y / 23))
    return (127 + 110 * np.stack(waves, -1)).astype(np.uint8)


def write_folder(folder: Path, count: int, size: int = 24) -> list[Path]:
    """Images number 0 … count - 1; image i is of the one colour (10 i, 255 - 10 i, 128)."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", (size, size), (10 * i, 255 - 10 * i, 128)).save(folder / f"{i:03d}.png")
    return find_images(folder)


def number(image: np.ndarray) -> int | None:
    """Which image of :func:`write_folder` this is; None for a scene."""
    return int(image[0, 0, 0]) // 10 if (image == image[0, 0]).all() and image[0, 0, 2] == 128 else None


def same(first: Batch, second: Batch) -> bool:
    """Whether two batches agree bit by bit."""
    return torch.equal(first.image, second.image) and torch.equal(first.mask, second.mask)


# ------------------------------------------------------------------------------------------------------ reading files


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.bmp", "a.tif", "a.ppm"])
@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (5, 301)])
def test_lossless_colour_is_bit_exact(tmp_path: Path, name: str, shape: tuple[int, int]) -> None:
    """What was written comes back, as arrays of one's own."""
    picture = noise(*shape)
    Image.fromarray(picture).save(tmp_path / name, lossless=True, exact=True)
    image, alpha = read_image(tmp_path / name)
    assert image.dtype == np.uint8 and image.flags.c_contiguous and image.flags.writeable
    np.testing.assert_array_equal(image, picture)
    assert alpha is None
    np.testing.assert_array_equal(read_image(str(tmp_path / name))[0], picture)


def test_large_picture(tmp_path: Path) -> None:
    """3000 x 2000 pixels, in both directions."""
    picture = np.repeat(noise(2000, 30), 100, axis=1)
    Image.fromarray(picture).save(tmp_path / "large.png", compress_level=1)
    np.testing.assert_array_equal(read_image(tmp_path / "large.png")[0], picture)


# Where the first row and the first column of the stored picture are seen, as the EXIF standard defines orientation.
ORIENTATIONS = {
    1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
    5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom"),
}  # fmt: skip


@pytest.mark.parametrize("suffix", ["png", "webp", "tif", "jpg"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    """The picture is seen upright, from a file and from an opened picture, which stays as it was."""
    upright = np.kron(noise(3, 5), np.ones((16, 16, 1), np.uint8))  # blocks of 16 pixels survive JPEG
    row, column = ORIENTATIONS[orientation]
    stored = upright if row in ("top", "bottom") else upright.transpose(1, 0, 2)
    stored = stored[::-1] if row in ("bottom", "right") else stored
    stored = stored[:, ::-1] if column in ("bottom", "right") else stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, quality=95, subsampling=0, lossless=True)
    image = read_image(path)[0]
    assert image.shape == upright.shape
    assert np.abs(image.astype(int) - upright).mean() < (3 if suffix == "jpg" else 1e-9)
    with Image.open(path) as opened:
        opened.load()
        before, size = opened.tobytes(), opened.size
        np.testing.assert_array_equal(read_image(opened)[0], image)
        assert opened.tobytes() == before and opened.size == size


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_rounded(tmp_path: Path, suffix: str) -> None:
    """All 65,536 values go to the nearest of 256; a dark picture stays dark."""
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    cv2.imwrite(str(tmp_path / f"a.{suffix}"), values)
    image, alpha = read_image(tmp_path / f"a.{suffix}")
    expected = np.rint(values / 257).astype(np.uint8)
    np.testing.assert_array_equal(image, np.stack([expected] * 3, -1))
    assert alpha is None
    cv2.imwrite(str(tmp_path / f"dark.{suffix}"), values[:1])
    assert read_image(tmp_path / f"dark.{suffix}")[0].max() == 1


def test_16_bit_grey_in_other_modes() -> None:
    """Big-endian and 32-bit integers, as other versions of Pillow and other files give them."""
    values = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    big = Image.frombytes("I;16B", (16, 16), values.astype(">u2").tobytes())
    for picture in (big, Image.fromarray(values.astype(np.int32))):
        np.testing.assert_array_equal(read_image(picture)[0][..., 1].ravel(), np.arange(256))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_colour_keeps_the_upper_byte(tmp_path: Path, suffix: str) -> None:
    """What Pillow does with 16-bit colour, as the docstring says: never more than one from rounding."""
    values = np.random.default_rng(0).integers(0, 65536, (40, 50, 3), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / f"a.{suffix}"), values[..., ::-1])
    image = read_image(tmp_path / f"a.{suffix}")[0].astype(int)
    assert np.abs(image - np.rint(values / 257)).max() <= 1


def test_transparency_of_every_kind(tmp_path: Path) -> None:
    """RGBA, grey with alpha, palettes with one or many transparent entries, a transparent colour; all bit-exact."""
    rgba = noise(9, 11, 4)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    Image.fromarray(rgba).save(tmp_path / "rgba.webp", lossless=True, exact=True)
    for name in ("rgba.png", "rgba.webp"):
        image, alpha = read_image(tmp_path / name)
        np.testing.assert_array_equal(np.dstack((image, alpha)), rgba)
    Image.fromarray(rgba[..., :2]).save(tmp_path / "la.png")
    image, alpha = read_image(tmp_path / "la.png")
    np.testing.assert_array_equal(image, np.stack([rgba[..., 0]] * 3, -1))
    np.testing.assert_array_equal(alpha, rgba[..., 1])

    index, palette = noise(9, 11, 1) % 4, noise(4, 1)[:, 0]
    picture = Image.fromarray(index).convert("P")
    picture.putpalette(palette.tobytes())
    picture.putdata(index.ravel().tolist())
    picture.save(tmp_path / "opaque.png")
    picture.save(tmp_path / "one.png", transparency=2)
    picture.save(tmp_path / "many.png", transparency=bytes((0, 100, 200, 255)))
    image, alpha = read_image(tmp_path / "opaque.png")
    np.testing.assert_array_equal(image, palette[index])
    assert alpha is None
    image, alpha = read_image(tmp_path / "one.png")
    np.testing.assert_array_equal(image, palette[index])
    np.testing.assert_array_equal(alpha, np.where(index == 2, 0, 255))
    np.testing.assert_array_equal(read_image(tmp_path / "many.png")[1], np.array((0, 100, 200, 255))[index])

    Image.fromarray(rgba[..., :3]).save(tmp_path / "colour.png", transparency=tuple(map(int, rgba[4, 4, :3])))
    image, alpha = read_image(tmp_path / "colour.png")
    np.testing.assert_array_equal(image, rgba[..., :3])
    assert alpha[4, 4] == 0 and (alpha == 255).sum() == alpha.size - 1


def test_cmyk_one_bit_and_grey(tmp_path: Path) -> None:
    """Inks become light, a fax becomes black and white, grey becomes three equal channels."""
    for ink, colour in (((255, 0, 0, 0), (0, 255, 255)), ((0, 0, 0, 255), (0, 0, 0)), ((0, 0, 0, 0), (255, 255, 255))):
        Image.new("CMYK", (16, 16), ink).save(tmp_path / "ink.jpg", quality=100)
        assert np.abs(read_image(tmp_path / "ink.jpg")[0].astype(int) - colour).max() <= 3
    bits = noise(7, 5, 1) > 127
    Image.fromarray(bits).save(tmp_path / "fax.png")
    np.testing.assert_array_equal(read_image(tmp_path / "fax.png")[0], np.stack([bits * np.uint8(255)] * 3, -1))
    grey = noise(7, 5, 1)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png")[0], np.stack([grey] * 3, -1))


@pytest.mark.parametrize("white", [1, 255, 65535])
def test_float_tiff(tmp_path: Path, white: int) -> None:
    """Each usual range comes out as 0…255; not-a-number and negative values are black."""
    values = np.linspace(0, white, 256, dtype=np.float32).reshape(16, 16)
    values[0, :3] = np.nan, -np.inf, -3
    Image.fromarray(values).save(tmp_path / "a.tif")
    image = read_image(tmp_path / "a.tif")[0][..., 0].ravel()
    assert (image[:3] == 0).all()
    np.testing.assert_array_equal(image[3:], np.arange(3, 256))


def damaged_files(folder: Path) -> dict[str, Path]:
    """One file of each kind of damage."""
    picture = Image.fromarray(noise(64, 64))
    for suffix in ("jpg", "png", "webp"):
        picture.save(folder / f"cut.{suffix}", lossless=True)
        data = (folder / f"cut.{suffix}").read_bytes()
        (folder / f"cut.{suffix}").write_bytes(data[: len(data) // 2])
    (folder / "text.jpg").write_text("this is not\na picture")
    (folder / "empty.png").write_bytes(b"")
    header = b"IHDR" + struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (folder / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 9) + b"IDAT" + bytes(13))
    (folder / "folder.png").mkdir()
    paths = sorted(folder.iterdir())
    return {path.name: path for path in (*paths, folder / "missing.png")}


def test_damage_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    """Truncated, foreign, empty, too large and missing files."""
    files = damaged_files(tmp_path)
    assert len(files) == 8
    for name, path in files.items():
        with pytest.raises(UserError) as caught:
            read_image(path)
        assert name in str(caught.value) and "\n" not in str(caught.value), name
    with pytest.raises(UserError, match="megapixels"):
        read_image(files["bomb.png"])
    with Image.open(files["cut.jpg"]) as picture, pytest.raises(UserError, match=r"cut\.jpg"):
        read_image(picture)


# ------------------------------------------------------------------------------------------------------------ folders


def test_find_images(tmp_path: Path) -> None:
    """Sorted, at any depth, whatever the case; nothing hidden; a link back up is not followed for ever."""
    wanted = ["a.JPG", "b/c.jpeg", "b/d/e.Png", "z.webp"]
    for name in (*wanted, ".hidden.png", "b/._c.jpeg", ".cache/f.png", "notes.txt", "png", "g.gif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    os.symlink(tmp_path, tmp_path / "b" / "loop")
    assert find_images(str(tmp_path)) == [tmp_path / name for name in wanted]


def test_linked_folder_is_searched(tmp_path: Path) -> None:
    """A data set is often a link to another disk."""
    write_folder(tmp_path / "disk", 2)
    (tmp_path / "data").mkdir()
    os.symlink(tmp_path / "disk", tmp_path / "data" / "train")
    assert [path.name for path in find_images(tmp_path / "data")] == ["000.png", "001.png"]


def test_empty_and_missing_folder(tmp_path: Path) -> None:
    """The error says what was looked for and where."""
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"\*\.jpg.*\*\.png.*\*\.webp") as caught:
        find_images(tmp_path)
    assert str(tmp_path) in str(caught.value)
    for name in ("nowhere", "notes.txt"):
        with pytest.raises(UserError, match=name):
            training_loader(DataSettings(folder=str(tmp_path / name)), 2)


@pytest.mark.parametrize(("count", "wanted", "held"), [(25, 32, 2), (25, 1, 1), (9, 3, 3), (200, 12, 12)])
def test_held_out_images_are_never_trained_on(tmp_path: Path, count: int, wanted: int, held: int) -> None:
    """Fixed, at most a tenth; below ten images the same serve for both."""
    for i in range(count):
        (tmp_path / f"{i}.png").touch()
    training, held_out = split_images(tmp_path, wanted)
    assert len(held_out) == held
    assert set(training) | set(held_out) == set(find_images(tmp_path))
    assert len(training) == (count - held if count >= 10 else count)
    assert [list(training), list(held_out)] == [list(part) for part in split_images(tmp_path, wanted)]


# ----------------------------------------------------------------------------------------------- samples and batches


def settings_for(folder: Path, **changes: object) -> DataSettings:
    """A folder mixed with scenes, at the least cost."""
    values = dict(folder=str(folder), scenes=0.4, size=16, augmentation="paper", evaluation_images=0, workers=0)
    return DataSettings(**(values | changes))


def first_batches(count: int, *arguments: object, **options: object) -> list[Batch]:
    """The first batches of a loader, as numbers."""
    return [batch.to("cpu") for batch in itertools.islice(training_loader(*arguments, **options), count)]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_batches_do_not_depend_on_workers_or_start(tmp_path: Path) -> None:
    """None, one and three workers; from the beginning and from step 3; the images of four epochs and scenes."""
    write_folder(tmp_path, 5)
    reference = first_batches(5, settings_for(tmp_path), 4, seed=7)
    assert not any(same(a, b) for a, b in itertools.combinations(reference, 2))
    cv2.GaussianBlur(np.zeros((2000, 2000), np.uint8), (9, 9), 0)  # wake OpenCV's threads: a fork must not mind
    for workers in (0, 1, 3):
        for start in (0, 3):
            settings = settings_for(tmp_path, workers=workers)
            batches = first_batches(5 - start, settings, 4, seed=7, position=4 * start)
            assert len(batches) == 5 - start
            assert all(map(same, batches, reference[start:])), (workers, start)
    assert not same(first_batches(1, settings_for(tmp_path), 4, seed=8)[0], reference[0])


class Threads(torch.utils.data.Dataset):
    """How many threads PyTorch and OpenCV use where samples are made."""

    def __getitem__(self, _n: int) -> list[int]:
        """The two numbers."""
        return [torch.get_num_threads(), cv2.getNumThreads()]

    def __len__(self) -> int:
        """One for each of two workers."""
        return 2


def test_a_worker_uses_one_core() -> None:
    """Else two workers on two cores would fight for them with four threads or more."""
    begin = training_loader(DataSettings(size=16, workers=1), 2).worker_init_fn
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    loader = torch.utils.data.DataLoader(Threads(), batch_size=None, num_workers=2, worker_init_fn=begin)
    try:
        assert list(loader) == [[1, 1], [1, 1]]
    finally:
        torch.set_num_threads(threads)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep freed memory, or never do")
def test_memory_is_not_taken_anew_for_each_sample() -> None:
    """Pages that the system had to hand out, a sample: measured 270, later 40; without keeping freed memory 4,800."""
    code = """
        import resource
        from lama_minimal.data import TrainingData
        data, pages = TrainingData([], 256), lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for n in range(12):
            before = pages() if n == 4 else before if n else 0
            data[n]
        print((pages() - before) / 8)
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert float(result.stdout) < 1000


def test_ranks_share_the_samples_of_a_step(tmp_path: Path) -> None:
    """Two processes with batches of 2 see together what one with batches of 4 sees, at any step."""
    write_folder(tmp_path, 5)
    whole = first_batches(3, settings_for(tmp_path), 4, position=8)
    parts = [first_batches(3, settings_for(tmp_path), 2, position=8, rank=rank, world=2) for rank in (0, 1)]
    for batch, left, right in zip(whole, *parts, strict=True):
        assert same(batch, Batch(*(torch.cat(pair) for pair in zip(left, right, strict=True))))


def test_sample_survives_pickling_and_any_order(tmp_path: Path) -> None:
    """As a worker started by spawn gets it; forwards, backwards and across epochs."""
    dataset = TrainingData(write_folder(tmp_path, 3), 16, scenes=0.3, seed=2)
    samples = [dataset[n] for n in range(12)]
    copy = pickle.loads(pickle.dumps(dataset))
    for n in reversed(range(12)):
        for first, second in zip(samples[n], copy[n], strict=True):
            np.testing.assert_array_equal(first, second)


def test_global_random_state_is_left_alone(tmp_path: Path) -> None:
    """A run that resumes must not find other numbers because a loader was made again."""
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    first_batches(2, settings_for(write_folder(tmp_path, 3)[0].parent, workers=1), 2)
    assert torch.equal(states[0], torch.get_rng_state())
    np.testing.assert_array_equal(states[1], np.random.get_state()[1])


def test_every_image_once_an_epoch(tmp_path: Path) -> None:
    """In another order each epoch and for each seed."""
    files = write_folder(tmp_path, 12)
    orders = []
    for seed in (0, 1):
        dataset = TrainingData(files, 16, "none", seed=seed)
        seen = [number(dataset[n][0]) for n in range(36)]
        orders += [tuple(seen[epoch * 12 : epoch * 12 + 12]) for epoch in range(3)]
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert len(set(orders)) == 6


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_share_of_scenes(tmp_path: Path, share: float) -> None:
    """Mixed in by chance (four standard errors allowed); none and all are exact."""
    dataset = TrainingData(write_folder(tmp_path, 4), 16, "none", scenes=share)
    scenes = sum(number(dataset[n][0]) is None for n in range(400))
    assert abs(scenes / 400 - share) <= 4 * np.sqrt(share * (1 - share) / 400)


@pytest.mark.parametrize("augmentation", ["paper", "perspective", "flip", "none"])
@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (20, 33000), (700, 1000)])
def test_any_size_of_image_gives_a_full_crop(tmp_path: Path, augmentation: str, shape: tuple[int, int]) -> None:
    """From one pixel to more than OpenCV's limit of 32,767 a side."""
    Image.fromarray(smooth(*shape)).save(tmp_path / "a.png", compress_level=1)
    dataset = TrainingData(find_images(tmp_path), 48, augmentation)
    for n in range(4):
        image, mask = dataset[n]
        assert image.shape == (48, 48, 3) and image.dtype == np.uint8 and image.flags.c_contiguous
        assert mask.shape == (48, 48) and mask.dtype == bool and mask.any()
        torch.from_numpy(image)  # refuses negative strides


def test_large_jpeg_is_reduced_well(tmp_path: Path) -> None:
    """Decoding JPEG at a fraction of its size changes the picture no more than JPEG itself does."""
    picture = np.asarray(Image.fromarray(smooth(150, 220)).resize((1760, 1200), Image.Resampling.BICUBIC))
    Image.fromarray(picture).save(tmp_path / "a.jpg", quality=95)
    image, _ = TrainingData(find_images(tmp_path), 64, "none")[0]
    square = picture[:, 280:1480]
    expected = cv2.resize(square, (64, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(image.astype(int) - expected).mean() < 1.5


def test_jpeg_of_the_papers_size_keeps_every_pixel(tmp_path: Path) -> None:
    """A crop of a picture two crops high is found in it, bit by bit: nothing was decoded at a fraction."""
    Image.fromarray(noise(100, 130)).save(tmp_path / "a.jpg", quality=95)
    whole = read_image(tmp_path / "a.jpg")[0]
    dataset = TrainingData(find_images(tmp_path), 50, "flip")
    for n in range(4):
        crop = dataset[n][0]
        least = [cv2.matchTemplate(whole, side, cv2.TM_SQDIFF).min() for side in (crop, cv2.flip(crop, 1))]
        assert min(least) < 1e-5 * crop.size * 255**2


def test_transparent_image_lies_on_white(tmp_path: Path) -> None:
    """Half transparent black is grey; wholly transparent is white."""
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2, :, 3] = 128
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image, _ = TrainingData(find_images(tmp_path), 16, "none")[0]
    assert abs(int(image[2, 8, 0]) - 127) <= 8 and image[14, 8, 0] == 255  # bicubic enlargement swings a little


def test_broken_files_are_skipped_and_counted(tmp_path: Path) -> None:
    """The next image takes the place; all readable ones are still seen; warnings count up to the number of broken."""
    files = write_folder(tmp_path, 9)
    for i in (1, 4, 5, 7):
        files[i].write_bytes(files[i].read_bytes()[:40])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = TrainingData(files, 16, "none")
        seen = [number(dataset[n][0]) for n in range(27)]
    for epoch in range(3):
        assert set(seen[9 * epoch : 9 * epoch + 9]) == {0, 2, 3, 6, 8}
    messages = [str(warning.message) for warning in caught]
    assert [message.split()[0] for message in messages] == ["1", "2", "4"]
    assert messages[0].startswith("1 unreadable image skipped so far, first: ")
    assert len({message.split("first: ")[1] for message in messages}) == 1


def test_no_readable_image_is_an_error(tmp_path: Path) -> None:
    """Said at once, not by a worker later."""
    files = write_folder(tmp_path, 3)
    for path in files:
        path.write_text("nothing")
    with pytest.warns(UserWarning), pytest.raises(UserError, match="none of the 3 images"):
        training_loader(settings_for(tmp_path, workers=1), 2)
    with pytest.raises(UserError, match="none of the 3 images"):
        evaluation_set(tmp_path, 2, 16, "thick")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(augmentation="papr"), "papr"),
        (dict(size=8), "16"),
        (dict(scenes=1.5), "1.5"),
        (dict(masks="wid"), "wide"),
    ],
)
def test_bad_settings_name_the_fix(changes: dict[str, object], message: str) -> None:
    """One line for each."""
    with pytest.raises(UserError, match=message):
        training_loader(DataSettings(**changes), 2)


def test_collate_and_move() -> None:
    """Bytes travel as bytes, and become shares of 255 in the conventional shapes and layouts."""
    images, masks = [noise(8, 6), noise(8, 6)[::-1]], [np.eye(8, 6) > 0, np.eye(8, 6) == 0]
    collated = collate(list(zip(images, masks, strict=True)))
    assert collated.image.dtype == torch.uint8 and collated.mask.dtype == torch.bool
    batch = collated.to("cpu")
    assert batch.image.shape == (2, 3, 8, 6) and batch.mask.shape == (2, 1, 8, 6)
    assert batch.image.dtype == batch.mask.dtype == torch.float32 and batch.image.is_contiguous()
    for i in range(2):
        np.testing.assert_array_equal(batch.image[i].permute(1, 2, 0).numpy(), images[i] / np.float32(255))
        np.testing.assert_array_equal(batch.mask[i, 0].numpy(), masks[i])
    for moved in (collated.to("cpu", channels_last=True), batch.to("cpu", channels_last=True)):
        assert isinstance(moved, Batch) and moved.image.is_contiguous(memory_format=torch.channels_last)
        assert same(moved, batch)  # numbers are not scaled again


# ------------------------------------------------------------------------------------------------------ augmentations


@pytest.fixture(scope="module")
def draws() -> list[Augmentation]:
    """Four thousand draws."""
    rng = np.random.default_rng(11)
    return [draw_augmentation(rng) for _ in range(4000)]


@pytest.mark.parametrize("name", ["corners", "affine", "distortion", "clahe", "tone", "colour"])
def test_each_step_has_probability_one_half(draws: list[Augmentation], name: str) -> None:
    """Four standard errors, and independent of the flip."""
    done = np.array([getattr(draw, name) is not None for draw in draws])
    mirrored = np.array([draw.mirror for draw in draws])
    assert abs(done.mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)
    assert abs(np.corrcoef(done, mirrored)[0, 1]) < 4 / np.sqrt(4000)


def uniform_between(values: list[float], low: float, high: float) -> bool:
    """Whether values fill low … high evenly: within it, in equal numbers (five standard errors) in ten parts."""
    counts, _ = np.histogram(values, 10, (low, high))
    expected = len(values) / 10
    return counts.sum() == len(values) and bool((np.abs(counts - expected) < 5 * np.sqrt(expected)).all())


def test_ranges_are_the_papers(draws: list[Augmentation]) -> None:
    """Scales, rotation, distortion, clip limit, tone, colour and the crop's place, each evenly over its range."""
    affine = np.array([draw.affine for draw in draws if draw.affine])
    assert uniform_between(affine[:, 0], 0.7, 1.3) and uniform_between(affine[:, 1], 0.7, 1.3)
    assert abs(np.corrcoef(affine[:, 0], affine[:, 1])[0, 1]) < 0.1  # each axis its own
    assert uniform_between(np.degrees(affine[:, 2]), -40, 40)
    assert uniform_between([draw.distortion for draw in draws if draw.distortion is not None], -0.05, 0.05)
    assert uniform_between([draw.clahe for draw in draws if draw.clahe is not None], 1, 4)
    tone = np.array([draw.tone for draw in draws if draw.tone])
    assert uniform_between(tone[:, 0], 0.8, 1.2) and uniform_between(tone[:, 1], -0.2, 0.2)
    colour = np.array([draw.colour for draw in draws if draw.colour])
    for channel, most in enumerate((5, 30, 5)):
        assert uniform_between(colour[:, channel], -most, most)
    for axis in (0, 1):
        assert uniform_between([draw.place[axis] for draw in draws], 0, 1)
    assert not uniform_between(affine[:, 0], 0.7, 1.35)  # the check itself can fail


def test_means_and_spreads_are_the_papers(draws: list[Augmentation]) -> None:
    """In numbers: a uniform draw of width w spreads by w / √12; four standard errors of mean and spread are allowed."""
    affine, tone, colour = (np.array([v for v in values if v]) for values in zip(
        *((draw.affine, draw.tone, draw.colour) for draw in draws), strict=True
    ))  # fmt: skip
    measured = {
        "scale across": (affine[:, 0], 1.0, 0.1732),
        "scale down": (affine[:, 1], 1.0, 0.1732),
        "rotation, degrees": (np.degrees(affine[:, 2]), 0.0, 23.09),
        "distortion": ([draw.distortion for draw in draws if draw.distortion is not None], 0.0, 0.02887),
        "clip limit": ([draw.clahe for draw in draws if draw.clahe is not None], 2.5, 0.8660),
        "contrast": (tone[:, 0], 1.0, 0.1155),
        "brightness": (tone[:, 1], 0.0, 0.1155),
        "hue": (colour[:, 0], 0.0, 2.887),
        "saturation": (colour[:, 1], 0.0, 17.32),
        "value": (colour[:, 2], 0.0, 2.887),
    }
    for name, (values, mean, spread) in measured.items():
        error = spread / np.sqrt(len(values))
        assert len(values) == pytest.approx(2000, abs=4 * np.sqrt(1000)), name
        assert np.mean(values) == pytest.approx(mean, abs=4 * error), name
        assert np.std(values) == pytest.approx(spread, abs=4 * error), name  # of a uniform draw it is known better


def test_corners_move_by_normal_draws(draws: list[Augmentation]) -> None:
    """Inwards, with the moments of a normal draw whose sigma is uniform in 0…6%."""
    corners = np.stack([draw.corners for draw in draws if draw.corners is not None])
    assert corners.shape[1:] == (4, 2) and corners.min() >= 0
    assert np.sqrt((corners**2).mean()) == pytest.approx(0.06 / np.sqrt(3), rel=0.05)  # E[sigma²] = 0.06² / 3
    assert corners.mean() == pytest.approx(0.03 * np.sqrt(2 / np.pi), rel=0.05)  # E|normal| = sigma √(2/π)


def one_after_the_other(image: np.ndarray, a: Augmentation, size: int) -> np.ndarray:
    """The geometric steps, each with OpenCV's own function and an interpolation of its own."""
    height, width = image.shape[:2]
    if a.corners is not None:
        rectangle = np.float32([(0, 0), (width, 0), (width, height), (0, height)]) - 0.5
        inwards = np.float32([(1, 1), (-1, 1), (-1, -1), (1, -1)]) * a.corners * (width, height)
        matrix = cv2.getPerspectiveTransform(np.float32(rectangle + inwards), rectangle)
        image = cv2.warpPerspective(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    if a.affine is not None:
        across, down, angle = a.affine
        turn = np.array(((np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle)))) @ np.diag((across, down))
        centre = np.array(((width - 1) / 2, (height - 1) / 2))
        matrix = np.column_stack((turn, centre - turn @ centre))
        image = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    more = max(0, size - height), max(0, size - width)
    top, left = more[0] // 2, more[1] // 2
    image = cv2.copyMakeBorder(image, top, more[0] - top, left, more[1] - left, cv2.BORDER_REFLECT_101)
    height, width = image.shape[:2]
    if a.distortion is not None:
        camera = np.array(((width, 0, width / 2), (0, height, height / 2), (0, 0, 1)), np.float32)
        k = np.array((a.distortion, a.distortion, 0, 0, 0), np.float32)
        maps = cv2.initUndistortRectifyMap(camera, k, None, camera, (width, height), cv2.CV_32FC1)
        image = cv2.remap(image, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    top, left = int(a.place[0] * (height - size + 1)), int(a.place[1] * (width - size + 1))
    image = image[top : top + size, left : left + size]
    return image[:, ::-1] if a.mirror else image


@pytest.mark.parametrize("shape", [(180, 240), (200, 150), (70, 90), (60, 300)])
def test_one_resampling_equals_the_steps_in_turn(shape: tuple[int, int], rng: np.random.Generator) -> None:
    """Larger and smaller pictures, all combinations of steps, up to rounding; a step left out would show."""
    image, size, faults = smooth(*shape), 96, {"corners": [], "affine": [], "distortion": []}
    for steps in itertools.product((False, True), repeat=3):
        kept = dict(zip(faults, steps, strict=True))
        for sign in (-0.05, 0.05, -0.05, 0.05):
            a = replace(
                draw_augmentation(rng),
                corners=rng.uniform(0.03, 0.1, (4, 2)) if kept["corners"] else None,
                affine=(*rng.uniform(0.7, 1.3, 2), rng.choice((-0.6, 0.4))) if kept["affine"] else None,
                distortion=sign if kept["distortion"] else None,
            )
            expected = one_after_the_other(image, a, size).astype(int)
            difference = np.abs(warp(image, a, size) - expected)
            assert difference.mean() < 0.4 and difference.max() < 8, a
            for name in faults:
                if kept[name]:
                    faults[name].append(np.abs(warp(image, replace(a, **{name: None}), size) - expected).mean())
    assert min(faults["corners"]) > 1 and min(faults["affine"]) > 1 and np.median(faults["distortion"]) > 0.4


def test_one_resampling_keeps_detail_that_three_lose(rng: np.random.Generator) -> None:
    """Against the steps in turn at four times the resolution.  Measured: mean difference 5.0, of the steps here 8.3."""
    size, errors = 128, []
    picture = cv2.GaussianBlur(rng.uniform(0, 255, (size, size, 3)).astype(np.float32), (0, 0), 1.2)
    picture = ((picture - 127) * 3.5 + 127).clip(0, 255).astype(np.uint8)
    large = cv2.resize(picture, (4 * size, 4 * size), interpolation=cv2.INTER_CUBIC)
    for _ in range(12):
        a = replace(
            draw_augmentation(rng),
            corners=rng.uniform(0, 0.06, (4, 2)),
            affine=(*rng.uniform(0.8, 1.3, 2), rng.uniform(-0.6, 0.6)),
            distortion=rng.uniform(-0.05, 0.05),
        )
        fine = one_after_the_other(large, a, 4 * size).astype(np.float32)
        truth = sum(fine[i::4, j::4] for i in (1, 2) for j in (1, 2)) / 4  # the four about each pixel's centre
        errors.append(
            [np.abs(x - truth).mean() for x in (warp(picture, a, size), one_after_the_other(picture, a, size))]
        )
    once, in_turn = np.mean(errors, axis=0)
    assert once < 6.5 and once < 0.75 * in_turn


def test_perspective_alone_keeps_colours_and_tilts_little() -> None:
    """Against the whole augmentation with the same draws, which turns pictures by up to 40 degrees."""
    flat = np.full((90, 120, 3), (200, 40, 90), np.uint8)
    edge = np.zeros((200, 200, 3), np.uint8)
    edge[:, 100:] = 255
    slopes = {True: [], False: []}
    for seed in range(40):
        assert (augment(flat, 32, np.random.default_rng(seed), True) == (200, 40, 90)).all()
        for only, found in slopes.items():
            crop = augment(edge, 96, np.random.default_rng(seed), only)[..., 0].astype(float)
            if (np.ptp(crop, axis=1) > 200).all():
                found.append(abs(np.polyfit(np.arange(96), np.abs(np.diff(crop, axis=1)).argmax(1), 1)[0]))
    assert 0.01 < max(slopes[True]) < 0.15 and max(slopes[False]) > 0.4


def test_without_geometry_the_crop_is_bit_exact() -> None:
    """Only cut and mirrored."""
    image = noise(50, 60)
    a = replace(PLAIN, place=(0.5, 0.999))
    np.testing.assert_array_equal(warp(image, a, 32), image[9:41, 28:60])
    np.testing.assert_array_equal(warp(image, replace(a, mirror=True), 32), image[9:41, 28:60][:, ::-1])


def test_recolour_against_the_formulas() -> None:
    """Contrast and brightness on paper, hue, saturation and value with scikit-image, lightness by its spread."""
    from skimage.color import hsv2rgb, rgb2hsv, rgb2lab

    image = smooth(64, 64)
    assert recolour(image, PLAIN) is image
    toned = recolour(image, replace(PLAIN, tone=(1.15, -0.1)))
    assert np.abs(toned - np.clip(image * 1.15 - 25.5, 0, 255)).max() <= 0.5 + 1e-6
    for shift in ((5, 0, 0), (-5, 0, 0), (0, 30, 0), (0, -20, 0), (0, 0, -5)):
        hsv = rgb2hsv(image) + np.array(shift) / (180, 255, 255)
        expected = 255 * hsv2rgb(np.stack((hsv[..., 0] % 1, *np.clip(hsv[..., 1:], 0, 1).transpose(2, 0, 1)), -1))
        assert np.abs(recolour(image, replace(PLAIN, colour=shift)) - expected).mean() < 1.5, shift
        assert np.abs(image - expected).mean() > 2, shift
    flat = (100 + (smooth(256, 256).astype(int) - 127) // 8).astype(np.uint8)
    equalised = recolour(flat, replace(PLAIN, clahe=3.0))
    before, after = rgb2lab(flat), rgb2lab(equalised)
    assert after[..., 0].std() > 1.5 * before[..., 0].std()
    assert np.abs(after[..., 1:] - before[..., 1:]).mean() < 1.5


def test_larger_photographs_are_reduced_to_two_crops(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """The paper's crops show about half of the shorter side, whatever the camera's pixels; smaller ones stay."""
    monkeypatch.setattr("lama_minimal.data.draw_augmentation", lambda rng: replace(PLAIN, place=(0.4, 0.7)))
    y, x = np.mgrid[:900, :1200]
    image = np.stack((x // 5, y // 4, 0 * x), -1).astype(np.uint8)  # red tells the column, green the row
    crop = augment(image, 64, rng).astype(int)
    assert np.ptp(crop[..., 0]) * 5 == pytest.approx(450, abs=20)
    assert np.ptp(crop[..., 1]) * 4 == pytest.approx(450, abs=20)
    exact = augment(image, 450, rng)
    np.testing.assert_array_equal(exact, image[180:630, 525:975])


def test_random_square(rng: np.random.Generator) -> None:
    """Whole pixels where nothing is resized; every place and both hands; small pictures enlarged, large ones halved."""
    y, x = np.mgrid[:40, :100]
    image = np.stack((x, y, 0 * x), -1).astype(np.uint8)
    crops = [random_square(image, 32, rng) for _ in range(800)]
    mirrored = [crop[0, 0, 0] > crop[0, -1, 0] for crop in crops]
    assert abs(np.mean(mirrored) - 0.5) < 4 * 0.5 / np.sqrt(800)
    for crop, mirror in zip(crops, mirrored, strict=True):
        left, top = int(crop[..., 0].min()), int(crop[0, 0, 1])
        expected = image[top : top + 32, left : left + 32]
        np.testing.assert_array_equal(crop, expected[:, ::-1] if mirror else expected)
    assert {int(crop[0, 0, 1]) for crop in crops} == set(range(9))
    assert {int(crop[..., 0].min()) for crop in crops} == set(range(69))
    large = cv2.resize(image, (1000, 400))  # of the shorter side, 400 pixels worth 40, half is seen
    assert np.ptp(random_square(large, 32, rng)[..., 1].astype(int)) == pytest.approx(20, abs=2)
    assert np.ptp(random_square(image, 64, rng)[..., 1].astype(int)) == pytest.approx(39, abs=2)  # enlarged: all of it


# ------------------------------------------------------------------------------------------------- masks, evaluation


@pytest.mark.parametrize(("masks", "area"), [("wide", 0.356), ("narrow", 0.227)])
def test_training_masks_cover_what_the_reference_covers(tmp_path: Path, masks: str, area: float) -> None:
    """Mean area within a tenth of the one measured with the authors' generators at 256 pixels."""
    dataset = TrainingData(write_folder(tmp_path, 1, 256), 256, "none", masks)
    assert np.mean([dataset[n][1].mean() for n in range(600)]) == pytest.approx(area, rel=0.1)


@pytest.mark.parametrize("masks", ["thin", "medium", "thick"])
def test_evaluation_masks_follow_the_recipe(masks: str) -> None:
    """At most half of the area, and the recipe's mean area."""
    recipe, rng = recipe_for(masks, 64), np.random.default_rng(3)
    expected = np.mean([draw_mask(recipe, (64, 64), rng).mean() for _ in range(500)])
    areas = [sample.mask.mean() for sample in evaluation_set(None, 200, 64, masks)]
    assert np.mean(areas) == pytest.approx(expected, rel=0.1)
    assert max(areas) <= 0.5 < max(TrainingData([], 64, "none")[n][1].mean() for n in range(60))


def test_evaluation_scenes_are_fixed_and_take_turns() -> None:
    """Every class equally often; few are the first of many; restricted to the structured ones on request."""
    many, few = evaluation_set(None, 40, 32, "thick"), evaluation_set(None, 7, 32, "thick")
    assert Counter(sample.scene_class for sample in many) == dict.fromkeys(SCENE_CLASSES, 2)
    assert len({sample.name for sample in many}) == 40
    for first, second in zip(few, many, strict=False):
        assert first.name == second.name
        np.testing.assert_array_equal(first.image, second.image)
        np.testing.assert_array_equal(first.mask, second.mask)
    other = evaluation_set(None, 7, 32, "thick", seed=1)
    assert not any(
        np.array_equal(a.image, b.image) or np.array_equal(a.mask, b.mask) for a, b in zip(few, other, strict=True)
    )
    structured = evaluation_set(None, 30, 32, "thick", classes=sorted(STRUCTURED))
    assert Counter(sample.scene_class for sample in structured) == dict.fromkeys(STRUCTURED, 2)
    with pytest.raises(UserError, match="brickz"):
        evaluation_set(None, 2, 32, "thick", classes=["brickz"])


def test_evaluation_at_another_size_is_the_same_place() -> None:
    """Scenes shrink to each other, and so do nearly all masks; another seed's do not."""
    small, large = evaluation_set(None, 40, 64, "thick"), evaluation_set(None, 40, 128, "thick")
    other = evaluation_set(None, 40, 64, "thick", seed=1)

    def overlap(first: np.ndarray, second: np.ndarray) -> float:
        return (first & second).sum() / (first | second).sum()

    overlaps, strangers = [], []
    for one, two, three in zip(small, large, other, strict=True):
        assert np.abs(cv2.resize(two.image, (64, 64), interpolation=cv2.INTER_AREA) - one.image.astype(int)).mean() < 6
        shrunk = cv2.resize(two.mask.astype(np.float32), (64, 64), interpolation=cv2.INTER_AREA) >= 0.5
        overlaps.append(overlap(shrunk, one.mask))
        strangers.append(overlap(shrunk, three.mask))
    assert np.median(overlaps) > 0.85 > 0.5 > np.median(strangers)


def test_training_never_shows_a_held_out_scene() -> None:
    """No picture in common for any pair of seeds; the same seed of the same purpose would be found."""
    held_out = {sample.image.tobytes() for seed in range(3) for sample in evaluation_set(None, 60, 16, "thick", seed)}
    trained = {TrainingData([], 16, "none", seed=seed)[n][0].tobytes() for seed in range(3) for n in range(60)}
    assert len(held_out) == len(trained) == 180
    assert not held_out & trained
    assert evaluation_set(None, 1, 16, "thick")[0].image.tobytes() in held_out


def test_evaluation_from_a_folder(tmp_path: Path) -> None:
    """A fixed choice; the central square of each, resized; unreadable ones left out; names that tell them apart."""
    files = write_folder(tmp_path / "in", 20)
    y, x = np.mgrid[:60, :120]
    Image.fromarray(np.stack((x, y, 0 * x), -1).astype(np.uint8)).save(tmp_path / "wide.png")
    wide = evaluation_set([tmp_path / "wide.png"], 5, 30, "thin")
    assert len(wide) == 1 and wide[0].scene_class is None and wide[0].name == "wide.png"
    assert abs(int(wide[0].image[0, 0, 0]) - 30) <= 1 and abs(int(wide[0].image[29, 29, 1]) - 58) <= 1

    chosen = evaluation_set(tmp_path / "in", 6, 16, "thick")
    numbers = [number(sample.image) for sample in chosen]
    assert len(set(numbers)) == 6 and numbers != sorted(numbers)
    assert [sample.name for sample in chosen] == [f"{i:03d}.png" for i in numbers]
    assert [sample.name for sample in evaluation_set(str(tmp_path / "in"), 4, 16, "thick")] == [
        s.name for s in chosen[:4]
    ]
    files[numbers[0]].write_text("broken")
    with pytest.warns(UserWarning, match="1 unreadable image left out"):
        assert [number(s.image) for s in evaluation_set(tmp_path / "in", 5, 16, "thick")] == numbers[1:]
    with pytest.raises(UserError, match="classes"):
        evaluation_set(tmp_path / "in", 2, 16, "thick", classes=["bricks"])


def test_validation_set_is_what_training_leaves_out(tmp_path: Path) -> None:
    """Images of the folder, or scenes without one."""
    write_folder(tmp_path, 20)
    settings = settings_for(tmp_path, scenes=0.0, augmentation="none", evaluation_images=32)
    held_out = {number(sample.image) for sample in validation_set(settings)}
    trained = {
        number((255 * image).permute(1, 2, 0).round().numpy().astype(np.uint8))
        for batch in first_batches(9, settings, 4)
        for image in batch.image
    }
    assert len(held_out) == 2 and len(trained) == 18 and not held_out & trained
    scenes = validation_set(DataSettings(size=32, evaluation_images=20))
    assert {sample.scene_class for sample in scenes} == set(SCENE_CLASSES)
    assert all(sample.image.shape == (32, 32, 3) for sample in scenes)
