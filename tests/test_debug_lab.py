"""The debug lab: patients are told apart by what was recorded, predictions by new runs, mends by what they do."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lama_minimal import debug_lab
from lama_minimal.config import UserError
from lama_minimal.data import Batch
from lama_minimal.debug_lab import (
    BROKEN,
    EXAMINED,
    HEALTHY,
    HELD_BACK,
    MEASUREMENTS,
    PATIENTS,
    RECORDS,
    SEEDS,
    Prediction,
    generator_losses,
    judge_mend,
    judge_prediction,
    patient,
    read_records,
    separation,
    train_lab,
)
from lama_minimal.fourier import FourierUnit
from lama_minimal.models import generator_input

TELLING = {
    "to_batch": "input_low",
    "shown": "leak",
    "generator_gradients": "discriminator_gradient",
    "fourier": "not_finite",
    "predict": "statistics_moved",
    "best": "off_average",
}
"""Part → a measurement that tells its patient from everybody else."""


@pytest.fixture(scope="module")
def records():
    return read_records()


# ------------------------------------------------------------------------------------------------------------- records


def test_every_patient_has_a_record_of_every_seed_and_a_sheet(records):
    runs = {(record.patient, record.seed) for record in records}
    assert runs == {(who, seed) for who in ("healthy", *PATIENTS) for seed in (*SEEDS, HELD_BACK)}
    assert len(runs) == len(records)
    for record in records:
        assert record.measurements.keys() == MEASUREMENTS.keys()
        assert all(len(values) == len(EXAMINED) for values in record.measurements.values())
        assert all(len(values) == len(record.steps) for values in record.terms.values())
        assert np.isfinite(list(record.terms.values())).all()
    for who in ("healthy", *PATIENTS):
        assert Image.open(RECORDS / f"{who}.jpg").size == (220, 112)  # 6 × 3 pictures of 32 pixels
    assert sum(path.stat().st_size for path in RECORDS.iterdir()) < 250_000


def test_records_do_not_name_the_broken_part():
    for path in RECORDS.glob("*.json"):
        values = json.loads(path.read_text())
        assert not set(BROKEN) & {str(value) for value in values.values() if not isinstance(value, dict)}


def test_every_pair_is_told_apart_by_ranges_over_seeds(records):
    table = separation(records)
    everyone = ["healthy", *PATIENTS]
    pairs = [(one, other) for i, one in enumerate(everyone) for other in everyone[:i]]
    assert not [pair for pair in pairs if not table.apart(*pair)]
    # independently of how the lab compares ranges
    for letter, part in PATIENTS.items():
        name = TELLING[part]
        own = [record.at(name) for record in records if record.patient == letter]
        others = [record.at(name) for record in records if record.patient != letter]
        assert min(own) > max(others) or max(own) < min(others), (letter, name)
        assert name in table.alone(letter)


def test_two_healthy_halves_are_not_told_apart(records):
    """What separates patients does not separate a program from itself."""
    healthy = [record for record in records if record.patient == "healthy"]
    twins = [copy.copy(record) for record in healthy]
    for twin in twins:
        object.__setattr__(twin, "patient", "twin")
    assert not separation([*healthy, *twins]).apart("healthy", "twin")


def test_ranges_that_only_just_miss_each_other_do_not_separate():
    ranges = {"m": {"a": (0.0, 1.0), "b": (1.5, 2.0), "c": (2.1, 2.2), "d": (3.2, 3.2)}}
    table = debug_lab.Separation(ranges)
    assert not table.apart("a", "b") and not table.apart("b", "c")
    assert table.apart("a", "c") == table.apart("c", "a") == ["m"]
    assert table.alone("d") == ["m"] and not table.alone("c")
    assert "| m | 0 … 1 |" in debug_lab.Separation({"m": {"healthy": (0.0, 1.0)}}).markdown()


def test_damaged_or_missing_records_are_one_line(tmp_path):
    with pytest.raises(UserError, match="no records in"):
        read_records(tmp_path)
    (tmp_path / "A-s0.json").write_text('{"patient": "A"')
    with pytest.raises(UserError, match="damaged"):
        read_records(tmp_path)


# ---------------------------------------------------------------------------------------------------------- diagnosis


def healthy_range(records, name, margin=0.02):
    values = [record.at(name) for record in records if record.patient == "healthy"]
    return min(values) - margin * abs(min(values)), max(values) + margin * abs(max(values))


@pytest.mark.parametrize("letter", PATIENTS)
def test_only_the_right_part_is_predicted_to_heal(letter, records):
    right = PATIENTS[letter]
    name = TELLING[right]
    low, high = healthy_range(records, name)
    assert judge_prediction(letter, Prediction(right, name, low, high), records) == ""
    for part in BROKEN:
        if part != right:
            assert f"with {part} mended" in judge_prediction(letter, Prediction(part, name, low, high), records)


def test_a_prediction_that_says_nothing_does_not_hold(records):
    letter = next(who for who, part in PATIENTS.items() if part == "to_batch")
    assert "unmended" in judge_prediction(letter, Prediction("to_batch", "input_low", -10, 10), records)
    assert "unmended" in judge_prediction(letter, Prediction("to_batch", "fourier_error", -1, 1), records)
    assert "input_low = 0" in judge_prediction(letter, Prediction("to_batch", "input_low", 0.2, 1), records)


def test_unknown_names_are_one_line(records):
    for letter in ("G", "healthy"):
        with pytest.raises(UserError, match=f"no '{letter}'; there are A, B, C, D, E, F"):
            judge_prediction(letter, Prediction("shown", "l1", 0, 1), records)
    with pytest.raises(UserError, match="did you mean shown"):
        judge_prediction("A", Prediction("show", "l1", 0, 1), records)
    with pytest.raises(UserError, match="did you mean hole_error"):
        judge_prediction("A", Prediction("shown", "hole_eror", 0, 1), records)
    with pytest.raises(UserError, match="did you mean predict"):
        judge_mend("predct", lambda: None)


# ------------------------------------------------------------------------------------------------------------ new runs


@pytest.mark.parametrize("part", ["predict", "generator_gradients"])
def test_a_short_new_run_shows_the_recorded_symptom(part, records):
    """A short run is the beginning of the recorded one, up to how another processor rounds."""
    letter = next(who for who, broken in PATIENTS.items() if broken == part)
    torch.set_num_threads(1)
    run = train_lab(patient(letter), seed=SEEDS[0], steps=11 if part == "predict" else 3)
    if part == "predict":  # the first evaluation is after step 10
        moved = [terms["statistics_moved"] for terms in run.terms]
        assert min(moved[:10]) > 0 and moved[10] == 0
        recorded = next(r for r in records if (r.patient, r.seed) == (letter, SEEDS[0]))
        for name in ("l1", "hole_error", "input_mean", "contrast"):
            assert run.examined[10][name] == pytest.approx(recorded.at(name, 10), rel=0.1), name
    else:
        assert min(terms["discriminator_gradient"] for terms in run.terms) > 0.01
    assert run.sheet.dtype == np.uint8


def test_the_command_records_what_is_missing(tmp_path, monkeypatch, capsys):
    trained = []
    monkeypatch.setattr(debug_lab, "record_run", lambda letter, seed, out: trained.append((letter, seed)))
    shutil.copy(RECORDS / "A-s0.json", tmp_path)
    assert debug_lab.main(["record", "--out", str(tmp_path), "--patients", "A", "healthy"]) == 0
    assert trained == [("A", 1), ("A", 2), ("healthy", 0), ("healthy", 1), ("healthy", 2)]
    assert "A, seed 1" in capsys.readouterr().out
    assert debug_lab.main(["record", "--out", str(tmp_path), "--patients", "G"]) == 2
    assert "no patient 'G'" in capsys.readouterr().err
    assert debug_lab.main(["table", "--out", str(tmp_path / "none")]) == 2


def test_a_record_can_be_written_and_read_again(tmp_path, monkeypatch):
    short = debug_lab.Run(
        [{"l1": 1.0 / 3}] * debug_lab.STEPS,
        {step: dict.fromkeys(MEASUREMENTS, step / 7) for step in EXAMINED},
        np.zeros((40, 60, 3), np.uint8),
    )
    monkeypatch.setattr(debug_lab, "train_lab", lambda parts, seed: short)
    debug_lab.record_run("healthy", 0, tmp_path)
    (record,) = read_records(tmp_path)
    assert record.terms["l1"] == [0.3333] * len(record.steps)
    assert record.at("contrast", EXAMINED[1]) == pytest.approx(EXAMINED[1] / 7, rel=1e-3)
    assert (tmp_path / "healthy.jpg").is_file() and not list(tmp_path.glob("*.new"))


# --------------------------------------------------------------------------------------------------------------- mends


def test_healthy_parts_are_the_packages_own():
    """The teaching versions against what the package does."""
    image, mask = torch.rand(2, 3, 8, 8), (torch.rand(2, 1, 8, 8) > 0.5).float()
    assert torch.equal(debug_lab.shown(image, mask), generator_input(image, mask))
    unit = FourierUnit(3, 3).eval()
    for size in ((8, 8), (7, 5)):
        x = torch.randn(2, 3, *size)
        assert torch.allclose(debug_lab.fourier(unit, x), unit(x), atol=1e-6)
    images, masks = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8), torch.rand(2, 8, 8) > 0.5
    theirs = Batch(images.permute(0, 3, 1, 2), masks[:, None]).to("cpu")
    assert all(torch.equal(a, b) for a, b in zip(debug_lab.to_batch(images, masks), theirs, strict=True))


@pytest.mark.parametrize("part", BROKEN)
def test_the_healthy_part_passes_and_the_broken_one_does_not(part):
    assert judge_mend(part, getattr(HEALTHY, part)) == []
    assert judge_mend(part, BROKEN[part])


# Right mends, written in another way than the healthy part.


def rescaled(images, masks):
    batch = BROKEN["to_batch"](images, masks)
    return Batch((batch.image + 1) / 2, batch.mask)


def blackened(image, mask):
    return torch.cat([image.masked_fill(mask.bool(), 0), mask], dim=1)


def cleared(networks, batch, given):
    """Not frozen, but what the discriminator got is thrown away."""
    terms, prediction = BROKEN["generator_gradients"](networks, batch, given)
    networks.discriminator.zero_grad()
    return terms, prediction


def in_float32(unit, x):
    return FourierUnit.forward(unit, x)


def on_a_copy(network, given):
    with torch.no_grad():
        return copy.deepcopy(network).eval()(given)


def the_wrapper(generator, average):
    return average


RIGHT = {
    "to_batch": rescaled,
    "shown": blackened,
    "generator_gradients": cleared,
    "fourier": in_float32,
    "predict": on_a_copy,
    "best": the_wrapper,
}


@pytest.mark.parametrize("part", RIGHT)
def test_another_right_mend_passes(part):
    assert judge_mend(part, RIGHT[part]) == []


# Wrong mends, as they are met.


def divided_twice(images, masks):
    return Batch(images.permute(0, 3, 1, 2).float() / 255 / 255, masks[:, None].float())


def stretched(images, masks):
    image = images.permute(0, 3, 1, 2).float()
    low, high = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
    return Batch((image - low) / (high - low), masks[:, None].float())


def clamped(images, masks):
    batch = BROKEN["to_batch"](images, masks)
    return Batch(batch.image.clamp(0, 1), batch.mask)


def known_is_one(images, masks):
    return Batch(images.permute(0, 3, 1, 2).float() / 255, 1 - masks[:, None].float())


def both_inverted(image, mask):
    return torch.cat([image * mask, 1 - mask], dim=1)


def only_the_channel(image, mask):
    return torch.cat([image * (1 - mask), 1 - mask], dim=1)


def nothing_hidden(image, mask):
    return torch.cat([image, mask], dim=1)


def grey_hole(image, mask):
    return torch.cat([image * (1 - mask) + 0.5 * mask, mask], dim=1)


def prediction_detached(networks, batch, given):
    prediction = networks.generator(given)
    detached = generator_losses(networks, batch, prediction.detach())
    terms = detached | {"l1": debug_lab.losses.l1(prediction, *batch, 2.0, 10.0)}
    terms["perceptual"] = 0.1 * networks.perceptual(prediction, batch.image)
    networks.discriminator.requires_grad_(False)
    sum(terms[name] for name in ("l1", "perceptual")).backward()
    networks.discriminator.requires_grad_(True)
    return terms, prediction.detach()


def frozen_for_good(networks, batch, given):
    networks.discriminator.requires_grad_(False)
    return BROKEN["generator_gradients"](networks, batch, given)


def frozen_too_late(networks, batch, given):
    terms, prediction = BROKEN["generator_gradients"](networks, batch, given)
    networks.discriminator.requires_grad_(False)
    networks.discriminator.requires_grad_(True)
    return terms, prediction


def in_evaluation_mode(networks, batch, given):
    networks.discriminator.eval()
    result = HEALTHY.generator_gradients(networks, batch, given)
    networks.discriminator.train()
    return result


def bfloat(unit, x):
    return FourierUnit.forward(unit, x.bfloat16().float())


def smaller_first(unit, x):
    """No overflow any more, but still half precision."""
    return BROKEN["fourier"](unit, x / 64) * 64


def infinities_removed(unit, x):
    return torch.nan_to_num(BROKEN["fourier"](unit, x))


def unscaled(unit, x):
    return FourierUnit.forward(unit, x) * x.shape[-1]


def wrong_half(unit, x):
    """The mirrored half is told by the width; by the height it is right for square pictures."""
    turned = FourierUnit.forward(unit, x)
    return turned if (x.shape[-1] - x.shape[-2]) % 2 == 0 else turned.roll(1, -1)


def with_its_graph(networks, batch, given):
    networks.discriminator.requires_grad_(False)
    prediction = networks.generator(given)
    terms = generator_losses(networks, batch, prediction)
    sum(terms.values()).backward()
    networks.discriminator.requires_grad_(True)
    return terms, prediction


def always_training(network, given):
    with torch.no_grad():
        return network(given)


def back_too_early(network, given):
    network.eval()
    network.train()
    with torch.no_grad():
        return network(given)


def only_the_top(network, given):
    network.training = False
    with torch.no_grad():
        prediction = network(given)
    network.training = True
    return prediction


def with_graph(network, given):
    network.eval()
    prediction = network(given)
    network.train()
    return prediction


def raw_into_average(generator, average):
    average.module.load_state_dict(generator.state_dict())
    return average.module


def average_into_raw(generator, average):
    generator.load_state_dict(average.module.state_dict())
    return generator


def weights_only(generator, average):
    """Averaged weights with the last step's statistics."""
    network = copy.deepcopy(generator)
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(average.module.parameters()), network.parameters())
    return network


def one_more_update(generator, average):
    average.update_parameters(generator)
    return average.module


def no_mask_channel(image, mask):
    return image * (1 - mask)


def known_dimmed(image, mask):
    return torch.cat([image * (1 - mask) / 2, mask], dim=1)


def stepped_back(networks, batch, given):
    result = HEALTHY.generator_gradients(networks, batch, given)
    nn.utils.vector_to_parameters(
        nn.utils.parameters_to_vector(networks.discriminator.parameters()) * 1.01, networks.discriminator.parameters()
    )
    return result


def warmed_up(network, given):
    """Right but for a pass in training mode, which moves the statistics; the prediction is made before."""
    prediction = HEALTHY.predict(network, given)
    network(given)
    return prediction


def copy_in_training_mode(network, given):
    with torch.no_grad():
        return copy.deepcopy(network)(given)


WRONG = {
    "to_batch": {divided_twice: "bytes", stretched: "bytes", clamped: "bytes", known_is_one: "mask"},
    "shown": {
        both_inverted: "fourth channel",
        only_the_channel: "fourth channel",
        nothing_hidden: "depends on what is in the hole",
        grey_hole: "not black",
        no_mask_channel: "3 + 1 channels",
        known_dimmed: "known pixels",
    },
    "generator_gradients": {
        prediction_detached: "generator's gradient",
        in_evaluation_mode: "generator's gradient",
        frozen_for_good: "cannot learn",
        frozen_too_late: "left in the discriminator",
        stepped_back: "weights were changed",
        with_its_graph: "graph",
    },
    "fourier": {
        bfloat: "a picture: values",
        smaller_first: "gradients",
        infinities_removed: "large sums",
        unscaled: "values",
        wrong_half: "one odd side",
    },
    "predict": {
        always_training: "companions",
        back_too_early: "statistics have moved",
        copy_in_training_mode: "companions",
        warmed_up: "statistics have moved",
        only_the_top: "companions",
        with_graph: "graph",
    },
    "best": {
        raw_into_average: "average was changed",
        average_into_raw: "generator in training was changed",
        weights_only: "not the moving average",
        one_more_update: "average was changed",
    },
}


@pytest.mark.parametrize(
    ("part", "mend", "complaint"),
    [(part, mend, words) for part, mends in WRONG.items() for mend, words in mends.items()],
)
def test_a_wrong_mend_does_not_pass(part, mend, complaint):
    assert any(complaint in said for said in judge_mend(part, mend))
