"""Evaluation tasks: statistics as measured with the authors' generators, the same pixels everywhere; scenes on disk."""

import hashlib
import json

import eval_masks
import make_scenes
import numpy as np
import pytest
from conftest import encoded, photo
from PIL import Image
from scipy.ndimage import distance_transform_edt

from lama_minimal.config import UserError
from lama_minimal.inference import plan_folder
from lama_minimal.masks import mask_width
from lama_minimal.scenes import LABELS

# Measured with the authors' generators over 1,000 masks on a square canvas: area, width in pixels.
MEASURED = {
    ("thin", 256): (0.287, 3.95),
    ("thin", 512): (0.288, 5.86),
    ("medium", 256): (0.244, 10.2),
    ("medium", 512): (0.275, 20.2),
    ("thick", 256): (0.271, 18.6),
    ("thick", 512): (0.266, 38.7),
}


# The same with pictures of 256 × 384 (height, width), over 1,500: the authors draw over all of it, then cut a square.
MEASURED_WIDE = {"thin": (0.2224, 3.76), "medium": (0.1922, 9.54), "thick": (0.2500, 17.81)}


def statistics(recipe, height, width, size, count):
    areas, widths = [], []
    for number in range(count):
        rng = np.random.default_rng(eval_masks.number_of(0, recipe, size, f"{number}.jpg"))
        top, left, mask = eval_masks.draw_square(recipe, height, width, size, rng)
        areas.append(np.count_nonzero(mask) / size**2)
        assert mask.shape == (size, size) and mask.dtype == bool and 0 < areas[-1] <= 0.5
        assert 0 <= top <= height - size and 0 <= left <= width - size
        if number % 4 == 0:  # slow to measure; its standard error over 500 is about 1.5%
            widths.append(mask_width(mask))
    return np.mean(areas), np.mean(widths)


@pytest.mark.parametrize(("recipe", "size"), MEASURED)
def test_statistics(recipe, size):
    """2,000 masks of square pictures, within 5%."""
    assert statistics(recipe, size, size, size, 2000) == pytest.approx(MEASURED[recipe, size], rel=0.05)


@pytest.mark.parametrize("recipe", MEASURED_WIDE)
def test_statistics_of_pictures_that_are_not_square(recipe):
    assert statistics(recipe, 256, 384, 256, 1000) == pytest.approx(MEASURED_WIDE[recipe], rel=0.06)


def test_the_width_of_these_masks_is_measured_rightly():
    """Against another library's distances."""
    for n, (recipe, size) in enumerate(MEASURED):
        _, _, mask = eval_masks.draw_square(recipe, size, size, size, np.random.default_rng(n))
        assert mask_width(mask) == pytest.approx(distance_transform_edt(mask)[mask].mean(), rel=1e-5)


@pytest.fixture
def pictures(tmp_path):
    """PNG, whose pixels are the same on every machine; wide, tall, square, one below the target size."""
    folder = tmp_path / "pictures"
    for n, (name, size) in enumerate(
        {"a": (500, 300), "sub/b": (300, 420), "sub/c d é": (260, 260), "d": (90, 70)}.items()
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(n).integers(0, 256, (size[1] // 10, size[0] // 10, 3), np.uint8)
        Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(folder / f"{name}.png")
    return folder


def make(folder, out, *more):
    eval_masks.main([str(argument) for argument in (folder, "--out", out, "--jobs", "1", *more)])
    return {path.relative_to(out).as_posix(): np.asarray(Image.open(path)) for path in sorted(out.rglob("*.png"))}


def test_names_and_sizes_are_the_authors(pictures, tmp_path):
    found = make(pictures, tmp_path / "out", "--sizes", "256", "512")
    stems = ("a", "d", "sub/b", "sub/c d é")
    assert found.keys() == {
        f"random_{recipe}_{size}/{stem}_crop000{end}.png"
        for recipe in ("thin", "medium", "thick") for size in (256, 512) for stem in stems for end in ("", "_mask000")
    }  # fmt: skip
    for name, pixels in found.items():
        size = int(name.split("/")[0].rpartition("_")[2])
        mask = name.endswith("_mask000.png")
        assert pixels.shape == (size, size) + (() if mask else (3,)) and pixels.dtype == np.uint8
        assert not mask or (set(np.unique(pixels)) == {0, 255} and pixels.mean() <= 127.5)


def test_the_square_is_a_part_of_the_picture_resized_by_its_shorter_side(pictures, tmp_path):
    found = make(pictures, tmp_path / "out", "--sizes", "256", "--masks", "thick")
    whole = np.asarray(Image.open(pictures / "a.png").resize((427, 256), Image.Resampling.BICUBIC))
    square = found["random_thick_256/a_crop000.png"]
    places = [left for left in range(427 - 256 + 1) if np.array_equal(whole[:, left : left + 256], square)]
    assert len(places) == 1


def test_a_seed_is_the_same_pixels_everywhere(pictures, tmp_path):
    """Recorded on one machine, to hold on all."""
    found = make(pictures, tmp_path / "out", "--sizes", "256", "--seed", "7")
    digest = hashlib.sha256()
    for name, pixels in sorted(found.items()):
        digest.update(name.encode() + pixels.tobytes())
    assert digest.hexdigest()[:16] == "0abafb3c9b5b084f"


def test_jobs_other_pictures_and_time_change_nothing(pictures, tmp_path):
    options = ("--sizes", "256", "--masks", "thin", "thick")
    one = make(pictures, tmp_path / "one", *options)
    Image.open(pictures / "a.png").save(pictures / "aa.png")
    two = make(pictures, tmp_path / "two", *options, "--jobs", "2")
    assert len(two) == len(one) + 4 and all(np.array_equal(two[name], pixels) for name, pixels in one.items())
    other = make(pictures, tmp_path / "other", *options, "--seed", "1")
    masks = [name for name in one if "_mask" in name]
    assert not any(np.array_equal(other[name], one[name]) for name in masks)
    # Recipes, sizes and pictures of equal pixels have masks of their own.
    assert not np.array_equal(
        two["random_thick_256/a_crop000_mask000.png"], two["random_thick_256/aa_crop000_mask000.png"]
    )
    few = make(pictures, tmp_path / "few", *options, "--limit", "3")
    assert len(few) == 12 and all(np.array_equal(few[name], two[name]) for name in few)


def test_once_made_nothing_is_done_and_an_interrupted_run_goes_on(pictures, tmp_path, capsys, monkeypatch):
    out, options = tmp_path / "out", ("--sizes", "256", "--masks", "thick")
    true, count = eval_masks.save_png, []

    def killed(pixels, target):
        count.append(target)
        if len(count) == 4:
            raise KeyboardInterrupt
        true(pixels, target)

    with monkeypatch.context() as patch:
        patch.setattr(eval_masks, "save_png", killed)
        with pytest.raises(KeyboardInterrupt):
            make(pictures, out, *options)
    assert not (out / "made.json").exists()
    assert len(make(pictures, out, *options)) == 8
    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    make(pictures, out, *options)
    assert "nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    with pytest.raises(UserError, match="made with other settings"):
        make(pictures, out, *options, "--seed", "2")


def test_what_cannot_be_used(pictures, tmp_path, capsys):
    (pictures / "broken.jpg").write_bytes(encoded(photo(1))[:-100])
    out = tmp_path / "out"
    assert len(make(pictures, out, "--sizes", "256", "--masks", "thin")) == 8
    assert "1 left out, first" in capsys.readouterr().out
    assert json.loads((out / "made.json").read_text())["unreadable"] == 1
    Image.new("RGB", (300, 300)).save(pictures / "a.jpg")
    with pytest.raises(UserError, match=r"a.jpg and .*a.png would get masks of the same name"):
        make(pictures, tmp_path / "two")
    with pytest.raises(UserError, match="no such folder"):
        make(tmp_path / "missing", tmp_path / "three")
    for path in pictures.rglob("*.*"):
        path.write_bytes(b"x") if path.suffix != ".jpg" or path.stem == "broken" else path.unlink()
    with pytest.raises(UserError, match="none of the pictures"):
        make(pictures, tmp_path / "four")


def test_the_tasks_are_what_the_inpaint_command_reads(pictures, tmp_path):
    make(pictures, tmp_path / "out", "--sizes", "256", "--masks", "thick")
    plan = plan_folder(tmp_path / "out" / "random_thick_256", tmp_path / "filled")
    assert [mask.name for _, mask, _ in plan.jobs] == [
        f"{image.stem}_mask000.png" for image, _, _ in plan.jobs
    ] and len(plan.jobs) == 4  # fmt: skip
    assert not plan.summary.without_mask


# --- scenes on disk ------------------------------------------------------------------------------------------------


def scenes(out, *more):
    make_scenes.main([str(argument) for argument in ("--out", out, "--jobs", "1", *more)])
    return {path.relative_to(out).as_posix(): np.asarray(Image.open(path)) for path in sorted(out.rglob("*.png"))}


def test_scenes_with_labels(tmp_path, capsys):
    found = scenes(tmp_path / "out", "--limit", "22", "--size", "48")
    images = {name.removeprefix("images/"): pixels for name, pixels in found.items() if name.startswith("images/")}
    labels = {name.removeprefix("labels/"): pixels for name, pixels in found.items() if name.startswith("labels/")}
    assert len(images) == 22 and images.keys() == labels.keys() and "00000000-bricks.png" in images
    assert all(pixels.shape == (48, 48, 3) for pixels in images.values())
    assert all(pixels.shape == (48, 48) and pixels.max() < len(LABELS) for pixels in labels.values())
    assert (tmp_path / "out" / "classes.txt").read_text().split() == list(LABELS)
    assert np.isin(labels["00000000-bricks.png"], [LABELS.index("brick"), LABELS.index("stone")]).mean() > 0.5
    more = scenes(tmp_path / "more", "--limit", "30", "--size", "48", "--jobs", "2")
    assert all(np.array_equal(more[name], pixels) for name, pixels in found.items())
    other = scenes(tmp_path / "s", "--limit", "1", "--size", "48", "--seed", "1")
    assert not np.array_equal(other["images/00000000-bricks.png"], images["00000000-bricks.png"])
    capsys.readouterr()
    scenes(tmp_path / "out", "--limit", "22", "--size", "48")
    assert "nothing to do" in capsys.readouterr().out


def test_scenes_are_none_of_those_for_evaluation(tmp_path):
    from lama_minimal.data import evaluation_set

    written = {pixels.tobytes() for pixels in scenes(tmp_path / "out", "--limit", "40", "--size", "32").values()}
    assert not written & {task.image.tobytes() for task in evaluation_set(None, 40, 32, "thick")}


def test_scenes_that_there_are_not(tmp_path):
    for options, said in (
        (("--classes", "bricks", "castles"), "unknown scene classes castles"),
        (("--size", "4"), "16"),
    ):
        with pytest.raises(UserError, match=said):
            scenes(tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()
