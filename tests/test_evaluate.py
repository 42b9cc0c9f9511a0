"""Evaluation with methods whose scores are known beforehand."""

import json
import socket

import numpy as np
import pytest
import torch
from PIL import Image

from lama_minimal import evaluate as evaluation
from lama_minimal.checkpoint import save_generator, shipped_generators
from lama_minimal.classical import BASELINES
from lama_minimal.config import PRESETS, GeneratorSettings, UserError
from lama_minimal.data import EvaluationSample, evaluation_set
from lama_minimal.evaluate import (
    JUDGE,
    MEASURES,
    evaluate,
    evaluate_model,
    evaluate_protocol,
    photographs,
    protocol_table,
)
from lama_minimal.metrics import HIGHEST_PSNR
from lama_minimal.models import FourierGenerator
from lama_minimal.scenes import STRUCTURED


def copy(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Answer with the original, which an evaluation hands over under the hole."""
    return image


def offset(levels: int):
    """A method that is wrong by so many grey levels, everywhere in the hole."""

    def method(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        wrong = np.where(image < 128, image.astype(int) + levels, image.astype(int) - levels)
        return np.where(mask[..., None], wrong, image).astype(np.uint8)

    return method


def sample(name: str, area: float = 0.25, scene_class: str | None = None, size: int = 32) -> EvaluationSample:
    """Noise with a hole over the upper rows."""
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3)).astype(np.uint8)
    mask = np.zeros((size, size), bool)
    mask[: round(size * area)] = True
    return EvaluationSample(name, image, mask, scene_class)


@pytest.fixture
def scenes() -> list[EvaluationSample]:
    """Twenty tiny scenes, one of each class."""
    return evaluation_set(None, 20, 32, "thick")


def test_the_original_scores_perfectly_and_an_offset_its_size() -> None:
    report = evaluate({"copy": copy, "off": offset(51)}, [sample("a"), sample("b")], progress=False)
    all_of = report.to_json()["conditions"]["32 px"]["methods"]
    values = {key: interval["value"] for key, interval in all_of["copy"].items()}
    assert values == {
        "hole_error": 0, "border_error": 0, "distance": 0, "gradient": 1, "ssim": 1, "psnr": HIGHEST_PSNR
    }  # fmt: skip
    assert all_of["off"]["distance"]["value"] > 0
    for key in ("hole_error", "border_error"):
        assert all_of["off"][key] == pytest.approx({"value": 0.2, "low": 0.2, "high": 0.2})
    # a quarter of the picture is off by 0.2: 10 log10(1 / (0.04 / 4)) = 20 dB
    assert all_of["off"]["psnr"]["value"] == pytest.approx(20, abs=1e-3)


def test_groups_hold_the_right_pictures() -> None:
    free = "hills"
    structured = "bricks"
    assert free not in STRUCTURED and structured in STRUCTURED
    samples = [sample("a", 0.25, structured), sample("b", 0.5, structured), sample("c", 0.125, free), sample("d", 1.0)]
    found = evaluate({"m": copy}, samples, progress=False).to_json()["conditions"]["32 px"]
    assert found["count"] == 4
    assert {name: group["count"] for name, group in found["families"].items()} == {"structured": 2, "free": 1}
    assert {name: group["count"] for name, group in found["classes"].items()} == {structured: 2, free: 1}
    areas = {name: group["count"] for name, group in found["areas"].items()}
    assert areas == {"10-20%": 1, "20-30%": 1, "50-60%": 1, "90-100%": 1}
    assert [image["area"] for image in found["images"]] == [0.25, 0.5, 0.125, 1.0]
    assert [image["scene_class"] for image in found["images"]] == [structured, structured, free, None]
    assert found["images"][3]["scores"]["m"]["border_error"] is None  # nothing known, no border
    assert found["areas"]["90-100%"]["methods"]["m"]["border_error"]["value"] is None


def test_group_means_are_means_of_the_images(scenes) -> None:
    report = evaluate({"Telea": BASELINES["Telea"]}, scenes, progress=False).to_json()["conditions"]["32 px"]
    images = report["images"]
    for group, wanted in (("structured", True), ("free", False)):
        errors = [i["scores"]["Telea"]["hole_error"] for i in images if (i["scene_class"] in STRUCTURED) == wanted]
        interval = report["families"][group]["methods"]["Telea"]["hole_error"]
        assert interval["value"] == pytest.approx(np.mean(errors), abs=1e-5)
        assert interval["low"] <= interval["value"] <= interval["high"]
        assert min(errors) - 1e-5 <= interval["low"] and interval["high"] <= max(errors) + 1e-5


def test_verdicts_follow_the_paired_difference() -> None:
    samples = [sample(str(index), scene_class="bricks") for index in range(6)]

    def alternating(image, mask):
        return offset(44 if image[0, 0, 0] % 2 else 10)(image, mask)

    for index, one in enumerate(samples):
        one.image[0, 0] = 100 + index % 2  # three pictures of each kind
    methods = {"mine": offset(25), "bad": offset(50), "good": copy, "mixed": alternating}
    report = evaluate(methods, samples, progress=False)
    differences = report.to_json()["conditions"]["32 px"]["hole_error_difference"]
    assert set(differences) == {"all", "structured"}
    found = differences["structured"]
    assert {name: compared["verdict"] for name, compared in found.items()} == {
        "bad": "better",
        "good": "worse",
        "mixed": "undecided",
    }
    assert found["bad"]["value"] == pytest.approx(-25 / 255, abs=1e-5)
    text = report.table()
    assert "mine, structured scenes: better than bad, by hole error" in text
    assert "mine, structured scenes: undecided against mixed, by hole error" in text
    assert "mine, structured scenes: worse than good, by hole error" in text


def test_the_distance_is_by_a_network_that_was_never_a_loss_and_is_compared_in_pairs() -> None:
    """Noise with the same error as an offset: a tie by hole error, not by distance."""
    assert all(settings.perceptual.network != JUDGE for settings in PRESETS.values())
    assert all(card["loss_network"] != JUDGE for card in shipped_generators().values())
    rng = np.random.default_rng(0)
    samples = [sample(str(index)) for index in range(4)]
    for index, one in enumerate(samples):
        one.image[:] = np.linspace(60, 100 + index, 32).astype(np.uint8)[:, None]

    def noise(image, mask):
        return np.where(mask[..., None], image + rng.choice([-20, 20], image.shape), image).astype(np.uint8)

    report = evaluate({"offset": offset(20), "noise": noise}, samples, progress=False)
    found = report.to_json()["conditions"]["32 px"]
    assert found["methods"]["noise"]["hole_error"] == found["methods"]["offset"]["hole_error"]
    assert found["hole_error_difference"]["all"]["noise"]["verdict"] == "undecided"
    pairs = [image["scores"] for image in found["images"]]
    each = np.array([one["offset"]["distance"] - one["noise"]["distance"] for one in pairs])
    assert (each > 0).all() or (each < 0).all()  # the network knows them apart, whichever it likes more
    verdict = "better" if each[0] < 0 else "worse"
    difference = found["distance_difference"]["all"]["noise"]
    assert difference["verdict"] == verdict and difference["value"] == pytest.approx(each.mean(), abs=1e-5)
    assert f"offset, all pictures: {verdict} than noise, by distance" in report.table()


def test_each_size_is_a_condition_and_reports_join() -> None:
    methods = {"m": copy}
    report = evaluate(methods, [sample("a"), sample("b", size=48), sample("c")], progress=False)
    assert {name: len(c.samples) for name, c in report.conditions.items()} == {"32 px": 2, "48 px": 1}
    named = evaluate(methods, [sample("a"), sample("b", size=48)], progress=False, condition="mixed")
    joined = report | named
    assert list(joined.conditions) == ["32 px", "48 px", "mixed"]
    with pytest.raises(ValueError, match="both reports have the condition mixed"):
        _ = joined | named
    with pytest.raises(ValueError, match="different methods"):
        _ = report | evaluate({"other": copy}, [sample("a")], progress=False, condition="x")


def test_methods_cannot_spoil_the_samples(scenes) -> None:
    before = [(one.image.copy(), one.mask.copy()) for one in scenes]

    def vandal(image, mask):
        image[:], mask[:] = 0, True
        return image

    report = evaluate({"vandal": vandal, "copy": copy}, scenes, progress=False)
    for one, (image, mask) in zip(scenes, before, strict=True):
        assert np.array_equal(one.image, image) and np.array_equal(one.mask, mask)
    assert report.to_json()["conditions"]["32 px"]["methods"]["copy"]["hole_error"]["value"] == 0


def test_wrong_methods_and_empty_sets_are_refused() -> None:
    with pytest.raises(ValueError, match="m must answer with"):
        evaluate({"m": lambda image, mask: image[:4]}, [sample("a")], progress=False)
    with pytest.raises(ValueError, match="m must answer with"):
        evaluate({"m": lambda image, mask: image / 255}, [sample("a")], progress=False)
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate({}, [sample("a")], progress=False)
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate({"m": copy}, [], progress=False)


def test_table_is_aligned_and_says_what_it_should(scenes) -> None:
    text = evaluate({"exact": copy, **BASELINES}, scenes, progress=False).table()
    first = text.split("\n\n")[1].splitlines()
    assert len({len(line) for line in first}) == 1 and len(first[0]) < 120
    assert all(measure.label in first[0] for measure in MEASURES.values())
    assert [line.split("  ")[0].strip() for line in first[2:]] == ["exact", *BASELINES]
    assert "1.0000 ±0.0000" in first[2]  # SSIM of the exact copy
    assert "exact, structured scenes: better than Telea, Navier-Stokes, biharmonic, mean colour" in text


def test_saved_report_is_valid_and_repeatable(tmp_path, scenes) -> None:
    methods = {"flat": BASELINES["mean colour"], "copy": copy}
    samples = [*scenes, sample("full", 1.0)]
    folders = [evaluate(methods, samples, progress=False).save(tmp_path / "deep" / name) for name in "ab"]
    texts = [(folder / "report.json").read_text(encoding="utf-8") for folder in folders]
    assert texts[0] == texts[1] and "NaN" not in texts[0] and "Infinity" not in texts[0]
    report = json.loads(texts[0])
    assert report["methods"] == ["flat", "copy"] and set(report["measures"]) == set(MEASURES)
    assert report["conditions"]["32 px"]["methods"]["flat"]["gradient"]["value"] == 0
    picture = np.asarray(Image.open(folders[0] / "report.png").convert("RGB"))
    assert picture.shape[1] > 600 and (picture == 255).mean() < 0.9


def test_a_report_that_cannot_be_written_says_so(tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="choose another --out"):
        evaluate({"m": copy}, [sample("a")], progress=False).save(tmp_path / "file" / "out")


def test_pictures_without_classes_have_no_families(tmp_path) -> None:
    samples = [sample(f"folder/with/a/long/name/picture-{index}.jpg") for index in range(6)]
    report = evaluate({"a": offset(20), "b": offset(30)}, samples, progress=False)
    found = report.to_json()["conditions"]["32 px"]
    assert found["families"] == {} and found["classes"] == {}
    assert list(found["hole_error_difference"]) == ["all"]
    assert (report.save(tmp_path) / "report.png").stat().st_size > 1000


def test_shown_pictures_alternate_between_families() -> None:
    report = evaluate({"m": copy}, evaluation_set(None, 24, 32, "thick"), progress=False)
    kinds = [shown.sample.scene_class for shown in report.conditions["32 px"].shown]
    assert [kind in STRUCTURED for kind in kinds[:6]] == [True, False] * 3
    assert len(set(kinds)) == len(kinds)


# -------------------------------------------------------------------------------------------------- models and data


@pytest.fixture
def model(tmp_path) -> str:
    """A run's folder with a tiny untrained generator."""
    settings = GeneratorSettings(width=8, blocks=1, downsamplings=2)
    torch.manual_seed(0)
    generator = FourierGenerator(width=8, blocks=1, downsamplings=2)
    save_generator(generator, settings, tmp_path / "tiny" / "last")
    return str(tmp_path / "tiny")


def test_model_stands_beside_the_baselines(tmp_path, model) -> None:
    out = tmp_path / "report"
    report = evaluate_model(
        model, sizes=(32, 64), count=4, out=out, masks="medium", with_photographs=True, progress=False
    )
    written = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert written["methods"] == report.methods == ["tiny", *BASELINES]
    assert list(written["conditions"]) == ["32 px", "64 px", "photographs"]
    assert {k: written["settings"][k] for k in ("model", "masks", "sizes", "count", "seed")} == {
        "model": "tiny",
        "masks": "medium",
        "sizes": [32, 64],
        "count": 4,
        "seed": 0,
    }
    assert str(tmp_path) not in (out / "report.json").read_text()
    assert (out / "report.png").is_file()
    best = evaluate_model(f"{model}/last", sizes=(32,), count=4, masks="medium", progress=False)
    assert best.methods[0] == "tiny/last"
    same = best.to_json()["conditions"]["32 px"]["methods"]["tiny/last"]
    assert same == written["conditions"]["32 px"]["methods"]["tiny"]


def test_models_side_by_side_score_as_each_alone(tmp_path, model) -> None:
    small = dict(sizes=(32,), count=4, progress=False)
    both = evaluate_model(model, beside=["course-scenes"], out=tmp_path / "report", **small)
    assert both.methods == ["tiny", "course-scenes", *BASELINES]
    found = both.conditions["32 px"].scores
    for name in ("tiny", "course-scenes"):
        alone = evaluate_model(model if name == "tiny" else name, **small).conditions["32 px"].scores[name]
        assert all(np.array_equal(values, found[name][key]) for key, values in alone.items())
    difference = found["tiny"]["hole_error"] - found["course-scenes"]["hole_error"]
    written = json.loads((tmp_path / "report" / "report.json").read_text())
    told = written["conditions"]["32 px"]["hole_error_difference"]["all"]["course-scenes"]
    assert told["value"] == pytest.approx(difference.mean(), abs=1e-6)
    with pytest.raises(UserError, match="both called tiny"):
        evaluate_model(model, beside=[model], **small)


def test_model_on_a_folder_of_pictures(tmp_path, model) -> None:
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 256, (40, 50, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    report = evaluate_model(model, str(tmp_path), sizes=(32,), count=2, progress=False)
    assert [one.scene_class for one in report.conditions["32 px"].samples] == [None, None]


def asked(model, out, **more):
    """A small evaluation with everything in it."""
    return evaluate_model(model, sizes=(32, 48), count=5, out=out, with_photographs=True, progress=False, **more)


def test_several_processes_make_one_report(tmp_path, model) -> None:
    """The last one makes it, to the digit as one process alone; nothing else is left behind."""
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    asked(model, alone)
    reports = [asked(model, shared, rank=rank, world=3) for rank in (2, 0, 1)]
    assert [report is None for report in reports] == [True, True, False]
    assert (shared / "report.json").read_text() == (alone / "report.json").read_text()
    assert {path.name for path in shared.iterdir()} == {"report.json", "report.png"}


def test_a_killed_evaluation_goes_on(tmp_path, model, monkeypatch) -> None:
    """Each picture is scored once, whatever the numbers of processes; a line cut by the kill is scored again."""
    from lama_minimal import evaluate as module

    alone, killed = tmp_path / "alone", tmp_path / "killed"
    asked(model, alone)
    scored, score = [], module._score

    def dying(filling, sample):
        if len(scored) == 5 * 7:
            raise KeyboardInterrupt
        scored.append(sample.name)
        return score(filling, sample)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_score", dying)
        with pytest.raises(KeyboardInterrupt):
            asked(model, killed, rank=1, world=2)
    (ledger,) = killed.glob(".scores-*")
    assert len([line for line in ledger.read_text().splitlines() if line]) == 7
    ledger.write_text(ledger.read_text()[:-20])
    again = []
    with monkeypatch.context() as patch:
        patch.setattr(module, "_score", lambda filling, sample: again.append(1) or score(filling, sample))
        assert asked(model, killed, rank=0, world=4) is None
        for rank in (1, 2, 3):
            report = asked(model, killed, rank=rank, world=4)
    assert len(again) == 5 * (16 - 6) and report is not None
    assert (killed / "report.json").read_text() == (alone / "report.json").read_text()


def test_scores_of_another_model_are_not_taken(tmp_path, model) -> None:
    """Trained on, or asked otherwise: what is left of an evaluation before does not count."""
    assert asked(model, tmp_path / "report", rank=0, world=2) is None
    settings = GeneratorSettings(width=8, blocks=1, downsamplings=2)
    torch.manual_seed(1)
    save_generator(FourierGenerator(width=8, blocks=1, downsamplings=2), settings, tmp_path / "tiny" / "last")
    assert asked(model, tmp_path / "report", rank=1, world=2) is None
    assert asked(model, tmp_path / "report", rank=1, world=2, seed=1) is None
    assert asked(model, tmp_path / "report", rank=0, world=2) is not None


def test_user_mistakes_are_told_in_one_line(tmp_path, model) -> None:
    for wrong in (dict(count=0), dict(sizes=()), dict(sizes=(8,)), dict(masks="thik"), dict(data=str(tmp_path / "no"))):
        with pytest.raises(UserError) as caught:
            evaluate_model(model, **{"sizes": (32,), "count": 1, "progress": False, **wrong})
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError):
        evaluate_model("no-such-model", progress=False)


def test_photographs_need_no_network_and_have_the_same_holes_at_any_size(monkeypatch) -> None:
    def refuse(*_):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    small, large = photographs(64), photographs(256)
    assert len(small) >= 2 and len({one.name for one in small}) == len(small)
    assert len({one.mask.tobytes() for one in small}) == len(small)
    for one, other in zip(small, large, strict=True):
        assert one.image.shape == (64, 64, 3) and one.image.dtype == np.uint8 and one.mask.dtype == bool
        assert one.scene_class is None and 0.02 < one.mask.mean() <= 0.5
        assert np.array_equal(other.mask[::4, ::4], one.mask)
        assert np.abs(other.image[2::4, 2::4].astype(int) - one.image).mean() < 40
        assert one.image.std() > 10


# ------------------------------------------------------------------------------------------ the original's protocol


@pytest.fixture
def copying(monkeypatch) -> None:
    """A model that answers with the original."""

    class Copy:
        def __call__(self, image, mask, strategy):
            return image

    monkeypatch.setattr(evaluation, "_network", lambda model, device: ("copy", Copy()))


def test_perfect_fillings_score_perfectly_and_as_real_pictures_do(copying, tmp_path) -> None:
    found = evaluate_protocol("copy", features="scenes-segmentation", size=32, count=24, out=tmp_path, device="cpu",
                              progress=False)  # fmt: skip
    assert list(found) == ["settings", "thin", "medium", "thick"]
    assert json.loads((tmp_path / "protocol.json").read_text()) == found
    for masks in ("thin", "medium", "thick"):
        scores = found[masks]
        assert scores["count"] == 24 and scores["fid"] == pytest.approx(0, abs=1e-4)
        assert scores["fid_others"] == scores["fid_real"] > 0.01
        assert scores["ssim"]["value"] == pytest.approx(1) and scores["distance"]["value"] == 0
        assert scores["f1_ssim"] == pytest.approx(2 / 2.001, abs=1e-4)
        assert "f1_lpips" not in scores  # a distance of other features is no LPIPS
        assert sum(area["count"] for area in scores["areas"].values()) <= 24
        assert all(area["count"] >= 2 for area in scores["areas"].values())


def test_fillings_are_scored_with_their_own_masks(model, tmp_path) -> None:
    """The bins of each recipe are those of its own masks, and the table has a line for each."""
    found = evaluate_protocol(model, features="scenes-segmentation", size=32, count=8, device="cpu", progress=False)
    for masks in ("thin", "medium", "thick"):
        samples = evaluation_set(None, 8, 32, masks, seed=0)
        areas = [sample.mask.mean() for sample in samples]
        expected = {f"{10 * int(10 * a)}-{10 * int(10 * a) + 10}%" for a in areas if
                    sum(int(10 * a) == int(10 * b) for b in areas) >= 2}  # fmt: skip
        assert set(found[masks]["areas"]) == expected
        assert found[masks]["fid"] > 0 and found[masks]["ssim"]["value"] < 0.999
    text = protocol_table(found)
    lines = text.splitlines()
    assert "real to real" in lines[2] and "LPIPS" not in text and len({len(line) for line in lines[2:]}) == 1
    assert [line.split()[0] for line in lines[3:] if not line.startswith(" ")] == ["thin", "medium", "thick"]


def test_a_folder_is_divided_into_originals_and_others(copying, tmp_path) -> None:
    """Seven pictures, five asked for: two others are left, and FID to them is of two."""
    for index in range(7):
        pixels = np.random.default_rng(index).integers(0, 256, (40, 50, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    ask = dict(features="scenes-segmentation", size=32, device="cpu", progress=False)
    found = evaluate_protocol("copy", str(tmp_path), count=5, **ask)
    assert found["thick"]["count"] == 5 and found["thick"]["fid_real"] > 0
    found = evaluate_protocol("copy", str(tmp_path), count=50, **ask)
    assert found["settings"]["count"] == 7 and found["thick"]["fid_real"] is None


def test_mistakes_with_the_protocol_are_one_line(model, tmp_path) -> None:
    for wrong in (dict(count=1), dict(size=8), dict(features="no-such-network"), dict(data=str(tmp_path / "no"))):
        with pytest.raises(UserError) as caught:
            evaluate_protocol(model, **{"features": "scenes-segmentation", "size": 32, "count": 2, **wrong})
        assert "\n" not in str(caught.value)
