"""The capstone's marking: what is right earns its points, each fault costs its own, and hostile folders do no harm."""

import json
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lama_minimal import capstone
from lama_minimal.checkpoint import load_generator, save_generator
from lama_minimal.config import GeneratorSettings, UserError
from lama_minimal.models import build_generator
from lama_minimal.scenes import draw_scene

SAMPLES = Path(__file__).parent.parent / "solutions" / "capstone_samples"
NAMES = [task.__name__.replace("_", " ") for task in capstone.CHECKS]
TINY = GeneratorSettings(width=4, blocks=1, downsamplings=2, max_channels=16)


def points(folder):
    """Name of a check → 1 or 0."""
    return {line.name: line.points for line in capstone.mark(folder)}


def words(folder, name):
    return next(line.words for line in capstone.mark(folder) if line.name == name)


@pytest.fixture
def strong(tmp_path):
    """The strong sample, with the weights that are left out of the repository replaced by a small network's."""
    folder = shutil.copytree(SAMPLES / "strong", tmp_path / "strong")
    torch.manual_seed(0)
    save_generator(build_generator(**vars(TINY)), TINY, folder / "run" / "last", card={})
    return folder


# ------------------------------------------------------------------------------------------------------------- samples


def recorded():
    """The table of the samples' README: check → points of the strong and the weak one."""
    rows = [row.strip("| ").split(" | ") for row in (SAMPLES / "README.md").read_text().splitlines() if row[:2] == "| "]
    return {row[0]: row[1:3] for row in rows}


@pytest.mark.parametrize(("name", "column"), [("strong", 0), ("weak", 1)])
def test_the_samples_get_the_grades_beside_them(name, column, capsys):
    table = recorded()
    found = points(SAMPLES / name)
    assert list(found) == NAMES
    assert {check: table[check][column] for check in NAMES} == {check: str(n) for check, n in found.items()}
    eye = [table[criterion][column] for criterion in capstone.EYE]
    assert capstone.main([str(SAMPLES / name), "--eye", *eye]) == 0
    total = sum(found.values()) + sum(map(float, eye))
    assert f"{total:g} of 20 points" in capsys.readouterr().out
    assert table["**total**"][column] == f"**{total:g}**"


def test_samples_are_small_and_the_strong_one_earns_all_with_its_weights(strong):
    assert sum(path.stat().st_size for path in SAMPLES.rglob("*") if path.is_file()) < 600_000
    assert set(points(strong).values()) == {1}


# ------------------------------------------------------------------------------------------------------- single faults


def edit(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def leak(folder):
    """A held-out picture, saved again with other bytes, becomes a training picture."""
    path = sorted((folder / "held_out").iterdir())[0]
    image = np.asarray(Image.open(path).convert("RGB"))
    entry = {"sha256": "0" * 64, "look": f"{capstone.look(np.clip(image.astype(int) + 9, 0, 255).astype(np.uint8)):x}"}
    edit(folder / "pictures.json", lambda listed: listed["train"].update({"again.jpg": entry}))


def swap_pictures(folder):
    """Other pictures under the names of those that were measured, listed as they are."""
    for number, path in enumerate(sorted((folder / "held_out").iterdir())):
        Image.fromarray(draw_scene((5, number), 128, "fence").image).save(path)
        entry = {"sha256": capstone._digest(path), "look": f"{capstone.look(np.asarray(Image.open(path))):x}"}
        edit(folder / "pictures.json", lambda listed, p=path, e=entry: listed["held_out"].update({p.name: e}))


def first_condition(report):
    return next(iter(report["conditions"].values()))


FAULTS = {
    "training pictures": lambda f: edit(
        f / "pictures.json", lambda v: v.update(train=dict(list(v["train"].items())[:29]))
    ),
    "held out pictures": lambda f: edit(f / "pictures.json", lambda v: v["held_out"].popitem()),
    "split without leak": leak,
    "settings of the run": lambda f: edit(f / "run/settings.json", lambda v: v["run"].update(start=None)),
    "log of the run": lambda f: (f / "run/log.csv").write_text(
        re.sub(r"(?m)^7,.*\n", "", (f / "run/log.csv").read_text())  # a step is missing
    ),
    "weights": lambda f: (f / "run/last/generator.safetensors").unlink(),
    "own report": lambda f: edit(
        f / "reports/mine/report.json",
        lambda v: first_condition(v)["methods"][v["methods"][0]]["hole_error"].update(value=0.01),
    ),
    "rival report": lambda f: edit(f / "reports/course/report.json", lambda v: v["settings"].update(seed=5)),
    "measured again": swap_pictures,
    "sheets": lambda f: next((f / "sheets").glob("failures.*")).write_bytes(b"%!PS-Adobe-3.0"),
    "length of the account": lambda f: (f / "account.md").write_text((f / "account.md").read_text() + " word" * 600),
    "quoted numbers": lambda f: (f / "account.md").write_text((f / "account.md").read_text() + "\nAlso 0.98765."),
}
ALSO = {"own report": {"rival report", "measured again", "quoted numbers"}}
"""What a fault costs besides: a report that cannot be believed is no report."""


@pytest.mark.parametrize("name", NAMES)
def test_a_fault_costs_its_own_point_and_no_other(strong, name):
    FAULTS[name](strong)
    assert {check for check, n in points(strong).items() if not n} == {name} | ALSO.get(name, set())


def test_a_byte_for_byte_copy_among_the_training_pictures_is_found(strong):
    edit(strong / "pictures.json", lambda v: v["train"].update(v["held_out"]))
    assert points(strong)["split without leak"] == 0


def test_an_empty_folder_earns_nothing_and_no_folder_is_one_line(tmp_path, capsys):
    assert set(points(tmp_path).values()) == {0}
    assert capstone.main([str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert capstone.main([str(tmp_path), "--eye", "2", "2"]) == 2
    assert "0 to 2" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------- hostile


class Bomb:
    """Acts when it is unpickled."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


def test_nothing_is_unpickled(strong, tmp_path):
    for name in ("run/last/generator.safetensors", "run/settings.json", "reports/mine/report.json", "account.md"):
        (strong / name).write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    torch.save({"state_dict": Bomb(tmp_path / "ran")}, strong / "run/last/generator.safetensors")
    (strong / "run/last/models").mkdir()
    torch.save(Bomb(tmp_path / "ran"), strong / "run/last/models/best.ckpt")
    assert points(strong)["weights"] == 0
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name", ["account.md", "run/settings.json", "run/last/generator.safetensors", "sheets", "run", "held_out"]
)
def test_links_are_not_followed(strong, tmp_path, name):
    (strong / name).rename(tmp_path / "elsewhere")
    (strong / name).symlink_to(tmp_path / "elsewhere")
    before = {"account.md": 2, "run/settings.json": 2, "run/last/generator.safetensors": 1, "sheets": 1}.get(name, 3)
    assert sum(points(strong).values()) <= 12 - before
    assert any("link" in line.words or "missing" in line.words for line in capstone.mark(strong))


def test_a_network_larger_than_its_file_is_never_built(strong, monkeypatch):
    monkeypatch.setattr(capstone, "load_generator", lambda folder: pytest.fail("it was built"))
    for change in ({"width": 128, "max_channels": 2048}, {"blocks": 10**9}, {"width": 10**12}, {"width": -1}):
        edit(strong / "run/last/generator.json", lambda v, c=change: v["generator"].update(TINY.__dict__ | c))
        assert points(strong)["weights"] == 0


@pytest.mark.parametrize(
    "change",
    [{"convolution": "dilated", "downsamplings": 3}, {"global_ratio": 1.0}, {"global_ratio": 0.0}, {"lfu": True}],
)
def test_every_network_that_can_be_built_is_run_or_refused(strong, change):
    settings = GeneratorSettings(**TINY.__dict__ | change)
    try:
        network = build_generator(**vars(settings))
    except (RuntimeError, ValueError):
        network = build_generator(**vars(TINY))
    save_generator(network, settings, strong / "run" / "last")
    assert "parameters" in words(strong, "weights") or "network" in words(strong, "weights")
    if "convolution" in change:
        assert points(strong)["weights"] == 1


def test_large_files_and_large_pictures_are_not_read(strong, monkeypatch):
    with (strong / "account.md").open("r+b") as file:
        file.truncate(capstone.LARGEST_TEXT + 1)  # sparse
    assert "MB" in words(strong, "length of the account")
    sheet = next((strong / "sheets").glob("removals.*"))
    monkeypatch.setattr(capstone, "MOST_PIXELS", 1000)
    assert "megapixels" in words(strong, "sheets") and sheet.exists()


NONSENSE = [
    "",
    "[]",
    "{}",
    "[" * 100_000,
    "1" * 5000,
    "{" * 9,
    '{"train": 3, "conditions": {"a": 1}}',
    "\0\x1b[31m",
    "NaN",
]


@pytest.mark.parametrize("text", NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense_in_any_file_is_a_lost_point_and_no_crash(strong, text):
    for path in strong.rglob("*"):
        if path.suffix in (".json", ".csv", ".md", ".safetensors"):
            path.write_text(text)
    lines = capstone.mark(strong)
    assert sum(line.points for line in lines) <= 1  # the sheets
    assert all(sign.isprintable() for line in lines for sign in line.words)


def test_damaged_values_anywhere_in_a_report_do_no_harm(strong):
    path = strong / "reports/mine/report.json"
    original = path.read_text()
    rng = np.random.default_rng(0)
    for bad in ("null", '"x"', "[]", "{}", "1e999", "-1", "NaN"):
        for place in rng.choice([i for i, sign in enumerate(original) if sign == ":"], 4, replace=False):
            end = min(original.find(sign, place) for sign in ",\n" if original.find(sign, place) > 0)
            path.write_text(original[: place + 1] + bad + original[end:])
            capstone.mark(strong)


# ------------------------------------------------------------------------------------------------------------ preparing


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(12):
        Image.fromarray(draw_scene((3, number), 160, "arcade").image).save(folder / f"{number:02d}.png")
    return folder


def test_prepare_divides_by_content_and_keeps_one_of_each_burst(photographs, tmp_path):
    first = np.asarray(Image.open(photographs / "00.png"))
    Image.fromarray(first).save(photographs / "copy.png")
    Image.fromarray(np.clip(first.astype(int) + 12, 0, 255).astype(np.uint8)).save(photographs / "again.jpg")
    Image.fromarray(first[:20, :20]).save(photographs / "thumbnail.png")
    (photographs / "broken.jpg").write_bytes(b"no picture")
    found = capstone.prepare(photographs, tmp_path / "out", held_out=4, side=128)
    assert found == {"train": 8, "held_out": 4, "unreadable": 1, "small": 1, "alike": 2}
    listed = json.loads((tmp_path / "out/pictures.json").read_text())
    for part, count in (("train", 8), ("held_out", 4)):
        files = sorted(path.name for path in (tmp_path / "out" / part).iterdir())
        assert files == sorted(listed[part]) and len(files) == count
        assert all(Image.open(tmp_path / "out" / part / name).size == (128, 128) for name in files)
    assert points(tmp_path / "out")["split without leak"] == 1
    again = tmp_path / "renamed"
    again.mkdir()
    for number, path in enumerate(sorted(photographs.glob("*.png"), reverse=True)):
        shutil.copy(path, again / f"{number}.png")
    capstone.prepare(again, tmp_path / "out2", held_out=4, side=128)
    assert listed["held_out"] == json.loads((tmp_path / "out2/pictures.json").read_text())["held_out"]


def test_prepare_refuses_what_would_overwrite_or_leave_nothing(photographs, tmp_path):
    with pytest.raises(UserError, match="hold out fewer"):
        capstone.prepare(photographs, tmp_path / "out", held_out=12)
    capstone.prepare(photographs, tmp_path / "out", held_out=2)
    with pytest.raises(UserError, match="already"):
        capstone.prepare(photographs, tmp_path / "out", held_out=2)


def test_looks_survive_saving_again_and_tell_scenes_apart():
    scenes = [draw_scene((4, number), 128).image for number in range(30)]
    looks = [capstone.look(image) for image in scenes]
    darker = [capstone.look((image * 0.8).astype(np.uint8)) for image in scenes]
    assert max((a ^ b).bit_count() for a, b in zip(looks, darker, strict=True)) <= 2 * capstone.ALIKE
    apart = [(a ^ b).bit_count() for i, a in enumerate(looks) for b in looks[:i]]
    assert np.mean(np.array(apart) > 2 * capstone.ALIKE) > 0.98


def test_the_rubric_has_twenty_points_and_names_every_check():
    table = capstone.rubric()
    assert len(capstone.CHECKS) + 2 * len(capstone.EYE) == 20
    assert all(f"| {name} |" in table for name in [*NAMES, *capstone.EYE])


def test_the_weights_of_the_course_count_as_weights(strong):
    folder = strong / "run" / "last"
    shutil.rmtree(folder)
    generator = load_generator("course")
    settings = GeneratorSettings(width=24, blocks=4, downsamplings=2, max_channels=96)
    save_generator(generator, settings, folder)
    assert "488" in words(strong, "weights") or points(strong)["weights"] == 1
