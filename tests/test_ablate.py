"""The ablation lab at a size of its own: training, killing, records, and what the numbers say."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lama_minimal import ablate as lab
from lama_minimal.ablate import (
    RESOLUTIONS,
    SCALES,
    STRENGTHS,
    TABLES,
    Condition,
    Record,
    Row,
    Run,
    Table,
    cell,
    changed,
    compare,
    comparison,
    difference,
    draw_tasks,
    load_records,
    slug,
)
from lama_minimal.cli import main
from lama_minimal.config import Settings, UserError, check, from_dict, preset
from lama_minimal.metrics import bootstrap_interval, paired_difference
from lama_minimal.models import build_generator, count_parameters
from lama_minimal.pretext import pretrain, scene_segmentation
from lama_minimal.scenes import STRUCTURED

TINY = changed(
    preset("demo"),
    generator=dict(width=8, blocks=1),
    data=dict(size=32),
    run=dict(steps=12, batch_size=2),
)
CONDITIONS = (Condition("thick"), Condition("thick", 2), Condition("thick", perspective=0.5))


def tiny_table(**more: Settings) -> Table:
    rows = (
        Row("Fourier", TINY, "a view"),
        Row("regular", changed(TINY, generator=dict(convolution="regular")), "none"),
        *(Row(name, settings, "?") for name, settings in more.items()),
    )
    return Table("tiny", rows, CONDITIONS, count=4)


def with_judge(folder):
    """A folder with a judge, so that none has to be trained for minutes."""
    file = lab.network_file(lab.JUDGE, folder)
    if not file.is_file():
        pretrain(file, scene_segmentation(32, 2), lab.NETWORKS[lab.JUDGE][1], steps=2, seed=1)
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished table with two seeds."""
    out = with_judge(tmp_path_factory.mktemp("ablations"))
    return out, lab.ablate(tiny_table(), out, seeds=2, device="cpu")


# ----------------------------------------------------------------------------------------------------- rows and tables


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", TABLES)
def test_tables_are_sound(scale, name):
    table = TABLES[name](SCALES[scale])
    assert table.name == name
    names = [row.name for row in table.rows]
    assert len({slug(row) for row in names}) == len(names) and all(len(row) <= 20 for row in names)
    equal = 2 if (name, scale) == ("beyond", "gpu") else 0  # all losses everywhere: two bases are the same
    assert len({json.dumps(asdict(row.settings)) for row in table.rows}) == len(names) - equal
    for row in table.rows:
        check(row.settings)
        assert row.against in ("", *names) and row.against != row.name
        network = row.settings.perceptual.network
        assert row.settings.loss.perceptual == 0 or network in lab.NETWORKS.keys() - {lab.JUDGE}
    if name != "beyond":
        assert len({row.settings.run.steps for row in table.rows}) == 1


@pytest.mark.parametrize("scale", SCALES)
def test_narrower_generators_have_as_many_parameters(scale):
    rows = {row.name: row.settings.generator for row in TABLES["convolutions"](SCALES[scale]).rows}
    with torch.device("meta"):
        counts = {name: count_parameters(build_generator(**asdict(settings))) for name, settings in rows.items()}
    for name in ("dilated narrower", "regular narrower"):
        assert counts[name] == pytest.approx(counts["Fourier"], rel=0.03)
    assert counts["regular"] > 1.5 * counts["Fourier"] and rows["regular"].blocks == rows["Fourier"].blocks


def test_rows_differ_in_what_they_ask_about():
    def changes(table, first, second):
        rows = {row.name: asdict(row.settings) for row in TABLES[table](SCALES["cpu"]).rows}
        return {
            (part, key): (value, rows[second][part][key])
            for part, values in rows[first].items()
            for key, value in values.items()
            if value != rows[second][part][key]
        }

    assert changes("masks", "Fourier, wide", "Fourier, narrow") == {("data", "masks"): ("wide", "narrow")}
    assert changes("perceptual", "classification", "undilated") == {("perceptual", "dilated"): (True, False)}
    assert changes("perceptual", "segmentation", "none") == {("loss", "perceptual"): (0.1, 0.0)}
    assert changes("beyond", "new prediction", "reused prediction") == {("run", "reuse_prediction"): (False, True)}
    assert list(changes("beyond", "batch statistics", "running statistics")) == [("perceptual", "batch_statistics")]
    assert list(changes("beyond", "Fourier", "Fourier, half")) == [("run", "steps")]
    assert list(changes("beyond", "regular", "regular, perspective")) == [("data", "augmentation")]
    assert list(changes("blocks", "4 blocks", "9 blocks")) == [("generator", "blocks")]


def test_equal_rows_of_two_tables_share_a_run(tmp_path):
    def folder(table, row):
        table = TABLES[table](SCALES["cpu"])
        return Run(table, table.chosen([row])[0], 1, "cpu", tmp_path, "cpu").folder

    assert folder("convolutions", "fourier") == folder("masks", "fourier-wide") == folder("beyond", "Fourier")
    assert folder("perceptual", "segmentation") == folder("beyond", "batch statistics")
    assert folder("convolutions", "fourier") != folder("masks", "fourier-narrow")


def test_a_misspelt_row_is_one_line(tmp_path):
    with pytest.raises(UserError, match="did you mean regular-narrower"):
        TABLES["convolutions"](SCALES["cpu"]).chosen(["regular-narower"])
    for wrong in (dict(seeds=0), dict(jobs=0), dict(rows=["Furier"])):
        with pytest.raises(UserError):
            lab.ablate(tiny_table(), tmp_path, **{"seeds": 1, **wrong})
    assert not list(tmp_path.iterdir())


# -------------------------------------------------------------------------------------------------------------- tasks


def test_the_same_holes_at_every_size():
    small, large = (draw_tasks(Condition("thick", factor), 32, 22) for factor in (1, 4))
    for one, other in zip(small, large, strict=True):
        assert one.name == other.name and one.image.shape == (32, 32, 3) and other.image.shape == (128, 128, 3)
        assert np.array_equal(other.mask, one.mask.repeat(4, 0).repeat(4, 1))
        assert np.abs(other.image[2::4, 2::4].astype(int) - one.image).mean() < 30
    assert len({task.scene_class for task in small}) == 20


def test_perspective_changes_the_view_and_not_the_holes():
    flat, steep = (draw_tasks(Condition("thick", perspective=strength), 48, 13) for strength in (0.0, 1.0))
    assert len({task.scene_class for task in flat}) == 13 and {task.scene_class for task in flat} <= STRUCTURED
    for one, other in zip(flat, steep, strict=True):
        assert np.array_equal(one.mask, other.mask) and one.name == other.name
        assert np.abs(one.image.astype(int) - other.image).mean() > 5


def test_the_sheet_shows_six_structured_classes():
    tasks = lab.shown_tasks(64)
    assert len(tasks) == 6 == len({task.scene_class for task in tasks})
    assert all(task.image.shape == (128, 128, 3) and task.mask.mean() >= 0.15 for task in tasks)


# --------------------------------------------------------------------------------------------------------------- runs


def test_a_table_leaves_records_table_figure_and_sheet(done):
    out, records = done
    assert [(record.row, record.seed) for record in records] == [
        ("Fourier", 0), ("regular", 0), ("Fourier", 1), ("regular", 1),
    ]  # fmt: skip
    record = records[0]
    assert set(record.scores) == {"thick 32", "thick 64", "thick 32 perspective 0.5"}
    for scores in record.scores.values():
        assert set(scores) == {"hole_error", "distance", "ssim", "gradient", "gradient_original"}
        assert all(len(values) == 4 for values in scores.values())
    assert record.steps == 12 and record.curve["step"][-1] == 12 and record.seconds == record.curve["seconds"][-1] > 0
    assert record.curve["seconds"] == sorted(record.curve["seconds"])
    assert from_dict(record.settings).generator == TINY.generator and from_dict(record.settings).run.steps == 12
    folder = out / "tiny"
    assert sorted(path.name for path in folder.iterdir()) == [
        "fourier-s0.json", "fourier-s1.json", "regular-s0.json", "regular-s1.json", "tiny.jpg", "tiny.md", "tiny.png",
    ]  # fmt: skip
    assert str(out) not in (folder / "fourier-s0.json").read_text()  # no path of this machine
    assert sorted(load_records(out), key=str) == sorted(load_records(folder), key=str) == sorted(records, key=str)
    assert Image.open(folder / "tiny.jpg").size == (4 + 4 * 132, 16 + 4 + 6 * 132)


def test_scores_are_those_of_the_weights(done):
    """One number found again by hand, from the checkpoint and the task."""
    from lama_minimal.checkpoint import load_generator
    from lama_minimal.models import generator_input

    out, records = done
    run = Run(tiny_table(), tiny_table().rows[1], 1, "cpu", out, "cpu")
    task = draw_tasks(Condition("thick", 2), 32, 4)[2]
    image, mask = torch.from_numpy(task.image).permute(2, 0, 1)[None] / 255, torch.from_numpy(task.mask)[None, None]
    with torch.no_grad():
        prediction = load_generator(run.folder)(generator_input(image, mask.float()))
    expected = (prediction - image).abs()[mask.expand(-1, 3, -1, -1)].mean().item()
    assert records[3].scores["thick 64"]["hole_error"][2] == pytest.approx(expected, rel=1e-3)


def test_what_is_finished_is_not_done_again(done, monkeypatch):
    out, records = done

    def refuse(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(lab, "train", refuse)
    assert lab.ablate(tiny_table(), out, seeds=2, device="cpu") == records
    assert [r.row for r in lab.ablate(tiny_table(), out, 1, rows=["REGULAR"], device="cpu")] == ["regular"]
    # another table with an equal row tests the same weights without training
    other = replace(tiny_table(), name="other", conditions=CONDITIONS[:1])
    again = lab.ablate(other, out, seeds=1, rows=["regular"], device="cpu")
    assert again[0].scores["thick 32"] == records[1].scores["thick 32"] and list(again[0].scores) == ["thick 32"]


def test_several_processes_find_the_same(done, tmp_path):
    _, records = done
    with_judge(tmp_path)
    parallel = lab.ablate(tiny_table(again=TINY), tmp_path, seeds=1, jobs=2, device="cpu")
    expected = [record.scores for record in records[:2]]
    assert [record.scores for record in parallel] == [*expected, expected[0]]
    assert len(list(tmp_path.glob("runs/*"))) == 2  # equal rows share a run, and never write to it at once


def test_the_clock_counts_lost_work_once(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "process_time", lambda: now)
    device = torch.device("cpu")
    clock = lab.Clock(tmp_path, device)
    for step in (10, 20, 30):
        now += 5
        clock.note(step)
    assert clock.read() == [(10, 5), (20, 10), (30, 15)]
    now = 7.0  # another process, which goes on from step 10: the work up to 30 is done again
    clock = lab.Clock(tmp_path, device)
    for step in (20, 30):
        now += 6
        clock.note(step)
    assert clock.read() == [(10, 5), (20, 11), (30, 17)]


def killed(out, sign):
    """Start the table in another process and stop it in the midst of its first run."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from lama_minimal import ablate as lab\nfrom test_ablate import tiny_table, TINY\n"
        "from lama_minimal.ablate import changed\n"
        "table = tiny_table(); rows = (table.rows[0],)\n"
        "from dataclasses import replace\n"
        "rows = (replace(rows[0], settings=changed(TINY, run=dict(steps=300))),)\n"
        "lab.ablate(replace(table, rows=rows), sys.argv[1], seeds=1, device='cpu')"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(out), os.path.dirname(__file__)],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    deadline = time.monotonic() + 240
    while not (clocks := list(out.glob("runs/*/clock.csv"))) or len(clocks[0].read_text().splitlines()) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(sign)
    process.wait()
    assert not list(out.glob("tiny/*.json"))
    return clocks[0].parent


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on_to_the_same_weights_and_scores(tmp_path, sign):
    table = tiny_table()
    row = replace(table.rows[0], settings=changed(TINY, run=dict(steps=300)))
    table = replace(table, rows=(row,), conditions=CONDITIONS[:1])
    whole, broken = with_judge(tmp_path / "whole"), with_judge(tmp_path / "broken")
    (expected,) = lab.ablate(table, whole, seeds=1, device="cpu")
    folder = killed(broken, sign)
    made = json.loads((folder / "last/state.json").read_text())["step"]
    assert 0 < made < 300
    (found,) = lab.ablate(table, broken, seeds=1, device="cpu")
    weights = [load_file(next(out.glob("runs/*/last/generator.safetensors"))) for out in (whole, broken)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert found.scores == expected.scores
    same = ("step", "l1", "hole_error")
    assert [found.curve[name] for name in same] == [expected.curve[name] for name in same]
    assert found.curve["seconds"] == sorted(found.curve["seconds"]) and len(found.curve["seconds"]) == 10


def test_every_loss_network_weighs_the_same(tmp_path):
    """Whatever the size of its features, a network's term is the yardstick's on the same pictures."""
    large = tmp_path / "networks/scenes-vgg.safetensors"
    pretrain(large, scene_segmentation(32, 2), lab.NETWORKS["scenes-vgg"][1], steps=2)
    base = changed(TINY, loss=dict(perceptual=0.1), perceptual=dict(network="scenes-segmentation"), data=dict(size=64))
    assert lab.fair_weight(base, tmp_path) == 0.1
    assert lab.fair_weight(TINY, tmp_path) == 0
    terms = []
    for parts in (dict(), dict(network="scenes-vgg"), dict(batch_statistics=False), dict(dilated=False)):
        settings = changed(base, perceptual=parts)
        weight = lab.fair_weight(settings, tmp_path)
        file = lab.network_file(settings.perceptual.network, tmp_path)
        loss = lab.load_loss_network(str(file), settings.perceptual.dilated, settings.perceptual.batch_statistics)
        tasks = draw_tasks(Condition("thick"), 64, 32)
        pairs = [np.stack([task.image for task in tasks]),
                 np.stack([lab.navier_stokes(task.image, task.mask) for task in tasks])]  # fmt: skip
        image, filled = (torch.from_numpy(stack).permute(0, 3, 1, 2) / 255 for stack in pairs)
        with torch.no_grad():
            terms.append(weight * loss(filled, image).item())
    assert terms == pytest.approx([terms[0]] * 4, rel=0.01)


# ------------------------------------------------------------------------------------------------------- uncertainties


def made_up(row: str, seed: int, errors: np.ndarray, against: str = "a", **more) -> Record:
    """A record whose hole errors are given."""
    ones = np.ones_like(errors)
    scores = {
        condition: {
            "hole_error": errors.tolist(),
            "distance": errors.tolist(),
            "ssim": (1 - errors).tolist(),
            "gradient": (errors * 5).tolist(),
            "gradient_original": ones.tolist(),
        }
        for condition in ("thick 64", "thick 128")
    }
    values = dict(
        table="made-up", row=row, seed=seed, scale="cpu", answers="?", against=against, size=64, steps=10, parameters=7,
        seconds=1.5, clock="s", device="CPU", torch="2", commit=None, judge="j", settings={"run": {"seed": seed}},
        curve={"step": [10]}, scores=scores,
    )  # fmt: skip
    return Record(**{**values, **more})


def test_cells_hold_the_interval_over_pictures_and_the_spread_over_seeds():
    rng = np.random.default_rng(0)
    base = rng.gamma(4, 0.02, 40)
    records = [made_up("a", seed, base + shift) for seed, shift in enumerate((-0.01, 0, 0.01))]
    found = cell(records, "thick 64", "hole_error")
    expected = bootstrap_interval(base)
    assert found[:3] == pytest.approx(tuple(expected)) and found.spread == pytest.approx(0.01)
    assert math.isnan(cell(records[:1], "thick 64", "hole_error").spread)
    ratio = cell(records, "thick 64", "gradient")
    assert ratio.value == pytest.approx(5 * base.mean()) and ratio.low < ratio.value < ratio.high


def test_differences_are_paired_by_picture_and_by_seed():
    rng = np.random.default_rng(1)
    base = rng.gamma(4, 0.02, 40)
    noise = rng.normal(0, 0.002, (3, 40))
    first = [made_up("a", seed, base + seed) for seed in range(3)]
    second = [made_up("b", seed, base + seed + 0.005 + noise[seed]) for seed in range(3)]
    found = difference(second, first, "thick 64", "hole_error")
    expected = paired_difference(base + 0.005 + noise.mean(0), base)
    assert found[:3] == pytest.approx(tuple(expected)) and found.settled
    assert found.spread == pytest.approx((0.005 + noise.mean(1)).std(ddof=1))
    assert difference(second[1:], first[:2], "thick 64", "hole_error").value == pytest.approx(0.005 + noise[1].mean())
    assert math.isnan(difference(second[2:], first[:2], "thick 64", "hole_error").value)
    # pictures without doubt, but seeds that disagree: not settled
    torn = [made_up("b", seed, base + seed + shift) for seed, shift in enumerate((0.02, 0.02, -0.001))]
    found = difference(torn, first, "thick 64", "hole_error")
    assert found.low > 0 and not found.settled
    ratio = difference(second, first, "thick 64", "gradient")
    assert ratio.value == pytest.approx(5 * (0.005 + noise.mean()))


def test_a_rerun_is_compared_with_interval_and_spread():
    rng = np.random.default_rng(2)
    base = rng.gamma(4, 0.02, 40)
    recorded = [made_up("a", seed, base + shift) for seed, shift in enumerate((-0.004, 0.0, 0.004))]
    interval = bootstrap_interval(base)
    width = {c.measure: (c.low, c.high) for c in compare(recorded[:1], recorded) if c.condition == "thick 64"}
    assert width["hole_error"] == pytest.approx((interval.low - 0.008, interval.high + 0.008))
    assert all(c.inside for c in compare([made_up("a", 7, base + 0.01)], recorded))
    outside = compare([made_up("a", 7, base + 0.1)], recorded)
    assert {c.measure for c in outside if not c.inside} == {"hole_error", "distance", "ssim", "gradient"}
    assert "OUTSIDE" in comparison(outside) and "0 of 8" in comparison(outside).splitlines()[-1]
    other_judge = compare([made_up("a", 7, base, judge="k")], recorded)
    assert {c.measure for c in other_judge} == {"hole_error", "ssim", "gradient"}
    with pytest.raises(UserError, match="not among"):
        compare([made_up("z", 0, base)], recorded)
    with pytest.raises(UserError, match="other settings"):
        compare([made_up("a", 0, base, settings={"run": {"steps": 9}})], recorded)


# -------------------------------------------------------------------------------------------------- tables and figures


@pytest.fixture
def two_rows():
    base = np.random.default_rng(3).gamma(4, 0.02, 40)
    return [made_up(row, s, base + 0.02 * (row == "b") + 0.001 * s) for row in "ab" for s in range(3)]


def test_a_table_says_values_differences_and_stars(two_rows):
    text = lab.table(two_rows)
    value = cell(two_rows[:3], "thick 64", "hole_error").value
    line = next(line for line in text.splitlines() if line.startswith("a ") and f"{value:.4f}" in line)
    assert line.count("±") == 2 and "s0.0010" in line
    assert "b − a" in text and "+0.0200" in text and "*" in text.split("hole error, differences")[1]
    marked = lab.table(two_rows, markdown=True)
    assert "| row | asks |" in marked and "|---|---|" in marked
    with pytest.raises(ValueError, match="one table"):
        lab.table([*two_rows, made_up("a", 0, np.ones(40), table="other")])


def test_a_figure_draws_a_line_a_row_where_the_numbers_are(two_rows):
    drawn = lab.figure(two_rows)
    (axis,) = drawn.axes
    lines = {container.get_label(): container.lines[0] for container in axis.containers}
    assert list(lines) == ["a", "b"]
    for row, line in lines.items():
        records = [record for record in two_rows if record.row == row]
        expected = [cell(records, name, "hole_error").value for name in ("thick 64", "thick 128")]
        assert line.get_ydata() == pytest.approx(expected)
        assert line.get_xdata() == pytest.approx([64, 128], rel=0.02)


def test_a_figure_has_panels_for_perspective_and_time(two_rows):
    more = []
    for record in two_rows:
        scores = record.scores | {f"thick 64 perspective {s:g}": record.scores["thick 64"] for s in STRENGTHS}
        steps = 20 if record.row == "b" else 10
        more.append(replace(record, scores=scores, steps=steps, seconds=3.0 * steps))
    titles = [axis.get_title(loc="left") for axis in lab.figure(more).axes]
    assert len(titles) == 3 and any("perspective" in title for title in titles) and "training" in titles[-1]


def test_damaged_and_missing_records_are_one_line(tmp_path, two_rows):
    with pytest.raises(UserError, match="no records"):
        load_records(tmp_path)
    two_rows[0].save(tmp_path / "a-s0.json")
    assert load_records(tmp_path) == two_rows[:1]
    (tmp_path / "a-s1.json").write_text((tmp_path / "a-s0.json").read_text()[:300])
    with pytest.raises(UserError, match=r"a-s1\.json"):
        load_records(tmp_path)


def test_a_whole_table_is_small():
    """Of the largest table, with three seeds and 40 pictures: below 300 kB, which are committed."""
    table = max((make(SCALES["cpu"]) for make in TABLES.values()), key=lambda t: len(t.rows) * len(t.conditions))
    rng = np.random.default_rng(0)
    columns = ("hole_error", "distance", "ssim", "gradient", "gradient_original")
    names = [condition.name(64) for condition in table.conditions]
    scores = {n: {c: [lab._rounded(v) for v in rng.uniform(0.01, 1, table.count)] for c in columns} for n in names}
    record = made_up("a", 0, rng.random(40), scores=scores, settings=lab.differing(table.rows[0].settings))
    size = len(json.dumps(asdict(record), separators=(",", ":")))
    assert size * 3 * len(table.rows) < 300_000
    assert set(RESOLUTIONS) >= {Condition("thin", 4), Condition("thick", 1)}


# ------------------------------------------------------------------------------------------------------- what ships

SHIPPED = [("cpu", name) for name in ("convolutions", "masks", "perceptual", "blocks", "beyond")]
SHIPPED += [("notebook", "convolutions"), ("notebook", "masks")]


def test_nothing_else_ships():
    assert {folder.parts[-2:] for folder in lab.RECORDED.glob("*/*")} == {*SHIPPED}


@pytest.mark.parametrize(("scale", "name"), SHIPPED)
def test_recorded_results_are_those_of_the_tables_as_they_are(scale, name, tmp_path):
    folder = lab.RECORDED / scale / name
    records, made = load_records(folder), TABLES[name](SCALES[scale])
    rows = {row.name: row for row in made.rows}
    for record in records:
        assert (record.table, record.scale) == (name, scale)
        row = rows[record.row]
        assert record.settings == lab.differing(Run(made, row, record.seed, scale, tmp_path, None).settings)
        assert list(record.scores) == [condition.name(row.settings.data.size) for condition in made.conditions]
        assert all(len(values) == made.count for score in record.scores.values() for values in score.values())
        assert record.commit and not record.commit.endswith("+")
    seeds = {row: {record.seed for record in runs} for row, runs in lab.by_row(records).items()}
    assert seeds.keys() == rows.keys() and all(len(found) >= 3 for found in seeds.values())
    assert (folder / f"{name}.md").read_text(encoding="utf-8") == lab.table(records, markdown=True)


# -------------------------------------------------------------------------------------------------------- command line


def test_the_commands_ablate_and_models(done, tmp_path, capsys, monkeypatch):
    out, _ = done
    monkeypatch.setitem(TABLES, "convolutions", lambda scale: replace(tiny_table(), name="tiny"))
    monkeypatch.setattr(lab, "RECORDED", tmp_path / "recorded")
    with pytest.raises(SystemExit) as stop:
        main(["ablate", "--table", "convolutions", "--out", str(tmp_path), "--compare"])
    assert stop.value.code == 2 and "no records" in capsys.readouterr().err and not list(tmp_path.iterdir())
    shutil.copytree(out / "tiny", tmp_path / "recorded" / "cpu" / "convolutions")
    main(["ablate", "--table", "convolutions", "--out", str(out), "--rows", "regular", "--compare"])
    said = capsys.readouterr().out
    assert "12 of 12 scores lie in the recorded intervals" in said and "regular" in said
    main(["models"])
    said = capsys.readouterr().out
    assert "scenes-segmentation  (ships, 5.7 MB, Apache-2.0)" in said and "pixel accuracy 0.828" in said
    assert "big-lama  (downloaded" in said
