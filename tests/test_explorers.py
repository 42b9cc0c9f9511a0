"""Explorers: what is drawn and said against independent facts; and the shells, without a browser."""

import base64
import csv
import gc
import io
import re
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from lama_minimal import explorers as ex
from lama_minimal.checkpoint import save_generator
from lama_minimal.config import GeneratorSettings, UserError
from lama_minimal.models import FourierGenerator
from lama_minimal.viz import PALETTE


def has_colour(image, code, least=20):
    """Whether a colour of the palette stands in the picture."""
    colour = [int(code[at : at + 2], 16) for at in (1, 3, 5)]
    return (np.abs(image.astype(int) - colour).max(axis=2) <= 2).sum() >= least


def numbers(sentence):
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", sentence)]


@pytest.fixture
def run(tmp_path):
    """A run of four steps with two sheets; the error is measured at every second step."""
    (tmp_path / "samples").mkdir()
    with (tmp_path / "log.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "l1", "adversarial", "perceptual", "hole_error", "gradient_energy"])
        writer.writerows([[1, 0.9, 0, 1.5, "", ""], [2, 0.8, 0, 1.25, 0.321, 0.456]])
        writer.writerows([[3, 0.7, 0, 1.1, "", ""], [4, 0.6, 0, 1.0, 0.123, 0.789]])
        file.write("5,0.5")  # cut off by a kill
    for step, colour in ((3, (200, 40, 40)), (4, (40, 40, 200))):
        Image.new("RGB", (80, 60), colour).save(tmp_path / "samples" / f"{step:07d}.jpg")
    return tmp_path


STATES = [ex.MaskState(), ex.FieldState(), ex.SpectrumState(), ex.ImpulseState()]
RENDER = dict(zip(STATES, [ex.render_masks, ex.render_field, ex.render_spectrum, ex.render_impulse], strict=True))
DESCRIBE = dict(
    zip(STATES, [ex.describe_masks, ex.describe_field, ex.describe_spectrum, ex.describe_impulse], strict=True)
)
EXPLORE = dict(zip(STATES, [ex.explore_masks, ex.explore_field, ex.explore_spectrum, ex.explore_impulse], strict=True))


# ---------------------------------------------------------------------------------------------------------- rendering


@pytest.mark.parametrize("state", STATES, ids=lambda state: type(state).__name__)
def test_renderings_are_pictures_that_depend_on_the_state_alone(state):
    image = RENDER[state](state)
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    assert 900 <= image.shape[1] <= 1000 and (image == 255).all(axis=2).mean() > 0.2
    assert np.array_equal(image, RENDER[state](replace(state)))
    sentence = DESCRIBE[state](state)
    assert sentence.endswith(".") and "\n" not in sentence and 60 < len(sentence) < 400


@pytest.mark.parametrize("state", STATES, ids=lambda state: type(state).__name__)
def test_nothing_is_cut_off_at_the_borders(state):
    image = RENDER[state](state)
    assert all((edge > 250).all() for edge in (image[0], image[-1], image[:, 0], image[:, -1]))


@pytest.mark.parametrize("state", STATES, ids=lambda state: type(state).__name__)
def test_a_slider_feels_live(state):
    """The goal is 0.3 s of one core; the limit leaves room for slow machines."""
    RENDER[state](state)
    began = time.process_time()
    RENDER[state](state)
    assert time.process_time() - began < 2


def test_rendering_leaves_random_numbers_and_settings_alone():
    import matplotlib

    torch.manual_seed(5)
    before, settings = torch.get_rng_state(), dict(matplotlib.rcParams)
    for state in (replace(ex.FieldState(), blocks=2, size=96), ex.ImpulseState(seed=11)):
        {ex.FieldState: ex.render_field, ex.ImpulseState: ex.render_impulse}[type(state)](state)
    assert torch.equal(torch.get_rng_state(), before) and dict(matplotlib.rcParams) == settings


def test_rendering_needs_no_ipywidgets():
    code = (
        "import sys; sys.modules['ipywidgets'] = None\n"
        "from lama_minimal.explorers import *\n"
        "render_impulse(ImpulseState())\n"
        "try: explore_impulse()\n"
        "except ValueError as error: print(type(error).__name__, error)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "UserError explorers need ipywidgets: pip install 'lama-minimal[course]'"


# -------------------------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize(("recipe", "size", "seed"), [("thick", 256, 0), ("thin", 64, 3), ("wide", 512, 7)])
def test_area_and_width_are_those_of_the_mask(recipe, size, seed):
    from scipy.ndimage import distance_transform_edt

    state = ex.MaskState(recipe, size, seed)
    mask = state.mask()
    shown = numbers(ex.describe_masks(state))
    assert shown[:3] == [seed, size, size]
    assert shown[3] == pytest.approx(100 * mask.sum() / size**2, abs=0.051)
    assert shown[4] == pytest.approx(distance_transform_edt(mask)[mask].mean(), abs=0.06)


def test_the_hole_is_tinted_and_outlined():
    image = np.full((100, 100, 3), 120, np.uint8)
    mask = np.zeros((100, 100), bool)
    mask[30:60, 20:80] = True
    drawn = ex._outlined(image, mask)
    assert (drawn[30:60, 20] == 0).all() and (drawn[29, 20:80] == 255).all()
    assert np.array_equal(drawn[:28], image[:28]) and (drawn[40, 40] != 120).any()


# ---------------------------------------------------------------------------------------------------- receptive field


def test_field_of_a_regular_network_keeps_within_its_square():
    found = ex.measure_field(ex.FieldState(blocks=2, size=128, row=50, column=40))
    assert found.theory.rows.size == 21 + 4 * 16
    assert found.centre == (64, 48)  # 40% of 128, at steps of 8
    field = found.effective.numpy()
    assert field.sum() == pytest.approx(1)
    outside = field.copy()
    outside[64 - 42 : 64 + 43, 48 - 42 : 48 + 43] = 0
    assert outside.sum() == 0 and field[64, 48] > 0
    y, x = np.indices(field.shape)
    inside = field[np.hypot(y - 64, x - 48) <= found.radius[1]].sum()
    assert 0.9 <= inside < 0.93


def test_field_of_a_fourier_network_reaches_everywhere():
    found = ex.measure_field(ex.FieldState("fourier", blocks=1, size=96))
    assert (found.effective > 0).all()
    assert "may depend on the whole picture" in ex.describe_field(ex.FieldState("fourier", blocks=1, size=96))


def test_wide_holes_cut_a_regular_network_off_and_not_a_fourier_one():
    """Two blocks see 42 pixels away: with a hole of 88 nothing that is known is left."""
    inside = ex.FieldState(blocks=2, size=128, hole=88)
    with pytest.raises(UserError, match="hole of 88 pixels"):
        ex.measure_field(inside)
    found = ex.measure_field(replace(inside, architecture="fourier"))
    assert found.hole.sum() == 87 * 87 and found.known > 0
    assert (found.effective.numpy()[found.hole] == 0).all()
    shares = [ex.measure_field(replace(inside, hole=hole)).known for hole in (0, 9, 31, 61)]
    assert shares == sorted(shares, reverse=True) and shares[0] == 1


def test_field_of_a_trained_model(tmp_path):
    settings = GeneratorSettings(width=4, blocks=2, downsamplings=2)
    torch.manual_seed(0)  # so small a network may come out with nothing behind its last ReLU
    save_generator(FourierGenerator(width=4, blocks=2, downsamplings=2), settings, tmp_path / "model")
    state = ex.FieldState(blocks=2, size=96, model=str(tmp_path / "model"), decoder=True, row=100, column=0)
    assert ex.measure_field(state).centre == (95, 0)
    assert ex.measure_field(replace(state, decoder=False)).centre == (92, 0)
    assert "the model" in ex.describe_field(state)
    with pytest.raises(UserError, match="this model has 2"):
        ex.measure_field(replace(state, blocks=3))
    with pytest.raises(UserError, match="set blocks to 2"):
        ex.measure_field(replace(state, blocks=1))


# ----------------------------------------------------------------------------------------------------------- spectrum


def waves_image(size=48):
    """3 periods down the picture, and half as strong 5 down and 8 across; mean 0.4."""
    y, x = np.indices((size, size)) / size
    grey = 0.4 + 0.2 * np.cos(2 * np.pi * 3 * y) + 0.1 * np.sin(2 * np.pi * (5 * y + 8 * x))
    return np.repeat(grey[..., None], 3, axis=2)


def kept_of(image, **changes):
    state = ex.SpectrumState(**(dict(size=len(image), outer=len(image)) | changes))
    return ex.choose_frequencies(image, state)


@pytest.mark.parametrize("size", [48, 33])
def test_keeping_all_frequencies_returns_the_picture(size):
    image = np.random.default_rng(0).random((size, size, 3))
    kept, _ = kept_of(image)
    assert kept.all()
    np.testing.assert_allclose(ex.filter_picture(image, kept), image, atol=1e-12)


@pytest.mark.parametrize("size", [48, 33])
def test_what_is_kept_and_what_is_removed_add_up(size):
    image = np.random.default_rng(1).random((size, size, 3))
    for changes in (dict(inner=3, outer=9), dict(peaks=5), dict(inner=2, outer=20, peaks=4)):
        kept, _ = kept_of(image, **changes)
        removed, _ = kept_of(image, **changes, remove=True)
        assert (kept ^ removed).all()
        total = ex.filter_picture(image, kept) + ex.filter_picture(image, removed)
        np.testing.assert_allclose(total, image, atol=1e-12)
        both = np.fft.ifft2(np.fft.fft2(image, axes=(0, 1)) * kept[..., None], axes=(0, 1))
        assert np.abs(both.imag).max() < 1e-12  # mirrored frequencies go together


def test_removing_the_mean_gives_zero_mean():
    image = np.random.default_rng(0).random((32, 32, 3))
    kept, _ = kept_of(image, outer=0, remove=True)
    left = ex.filter_picture(image, kept)
    assert np.abs(left.mean(axis=(0, 1))).max() < 1e-12
    np.testing.assert_allclose(left, image - image.mean(axis=(0, 1)), atol=1e-12)


def test_a_band_and_a_peak_pick_out_one_wave():
    image = waves_image()
    y = np.indices((48, 48))[0] / 48
    expected = np.repeat(0.2 * np.cos(2 * np.pi * 3 * y)[..., None], 3, axis=2)
    for changes in (dict(inner=2, outer=4), dict(inner=1, peaks=1)):
        np.testing.assert_allclose(ex.filter_picture(image, kept_of(image, **changes)[0]), expected, atol=1e-12)
    assert kept_of(image, inner=1, peaks=2)[0].sum() == 4


def test_waves_are_named_with_their_share():
    """Variances of cosines are half of their squared amplitudes: 0.02 and 0.005."""
    _, waves = kept_of(waves_image(), peaks=3)
    found = [(abs(wave.down), abs(wave.across), round(wave.energy, 6)) for wave in waves]
    assert found == [(0, 0, round(0.16 / 0.025, 6)), (3, 0, 0.8), (5, 8, 0.2)]
    assert [ex._wave_text(wave, 48) for wave in waves] == [
        "mean colour",
        "horizontal stripes, 16 px apart (80.0%)",
        "diagonal stripes, 5.09 px apart (20.0%)",
    ]


def test_sentence_about_a_spectrum():
    assert ex.describe_spectrum(ex.SpectrumState(outer=128)).endswith("100% of the picture's contrast (variance).")
    assert "with them 0% of" in ex.describe_spectrum(ex.SpectrumState(outer=0))


def test_a_picture_file_can_be_explored(tmp_path):
    path = tmp_path / "mine.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)).save(path)
    ex.render_spectrum(ex.SpectrumState(str(path), size=33))
    with pytest.raises(UserError, match="did you mean bricks"):
        ex.render_spectrum(ex.SpectrumState("brick"))


# ------------------------------------------------------------------------------------------------ FFC impulse response


@pytest.mark.parametrize(("size", "row"), [(32, 5), (33, 7), (32, 0), (16, 8)])
def test_without_relu_an_impulse_stays_in_its_row_and_the_mirrored_row(size, row):
    energy = ex.impulse_response(ex.ImpulseState(False, size, row, 3))
    others = np.delete(energy, [row, -row % size], axis=0)
    assert energy.sum() == pytest.approx(1) and others.sum() < 1e-12
    shares = ex.energy_shares(energy, row, 3)
    assert sum(shares.values()) == pytest.approx(1) and shares["elsewhere"] < 1e-9
    assert (shares["mirrored row"] > 0.1) == (row != -row % size)


def test_with_relu_about_half_of_the_energy_spreads():
    shares = []
    for seed in range(8):
        state = ex.ImpulseState(True, seed=seed)
        energy = ex.impulse_response(state)
        shares.append(1 - energy[5].sum() - energy[27].sum())
        assert ex.energy_shares(energy, 5, 9)["elsewhere"] == pytest.approx(shares[-1])
    assert 0.4 < np.mean(shares) < 0.6


@pytest.mark.parametrize(("size", "rows"), [(32, {5, 27, *range(0, 32, 2)}), (33, {*range(33)})])
def test_where_the_energy_spreads_to(size, rows):
    """The ReLU of a cosine has its own frequency and the even multiples: rows 5, -5 and 2 k · 5 of the picture."""
    energy = ex.impulse_response(ex.ImpulseState(True, size)).sum(axis=1)
    assert set(np.flatnonzero(energy > 1e-12)) == rows and (np.delete(energy, list(rows)) < 1e-25).all()


def test_the_linear_answer_is_that_of_numpy():
    """The same weights, the transform written out over the full spectrum."""
    state = ex.ImpulseState(False, 16, 3, 5, seed=2)
    torch.manual_seed(2)
    weight = torch.nn.Conv2d(16, 16, 1, bias=False).weight[:, :, 0, 0].double().detach().numpy()
    y, x = np.indices((16, 9))
    wave = np.exp(-2j * np.pi * (3 * y + 5 * x) / 16)
    stacked = np.stack([wave.real, wave.imag] * 8)
    mixed = np.einsum("oi,ihk->ohk", weight, stacked)
    half = mixed[0::2] + 1j * mixed[1::2]
    full = np.zeros((8, 16, 16), complex)
    for row in range(16):
        for column in range(9):
            full[:, row, column] += half[:, row, column] / 2
            full[:, -row % 16, -column % 16] += half[:, row, column].conj() / 2
    full[:, :, 1:8] *= 2
    full[:, :, 9:] *= 2
    energy = np.square(np.fft.ifft2(full).real).sum(axis=0)
    np.testing.assert_allclose(ex.impulse_response(state), energy / energy.sum(), atol=1e-9)


# ------------------------------------------------------------------------------------------------------------ playback


def test_playback_tells_the_values_of_the_log(run):
    first, last = ex.PlaybackState(str(run), 0), ex.PlaybackState(str(run))
    assert numbers(ex.describe_playback(first)) == [3, 4, 0.321, 0.46]  # measured at step 2, the sheet is of step 3
    assert numbers(ex.describe_playback(last)) == [4, 4, 0.123, 0.79]
    found = ex.read_run(run)
    assert [step for step, _ in found.samples] == [3, 4]
    assert found.log["step"].tolist() == [1, 2, 3, 4] and found.at(1, "l1") == 0.9
    assert np.isnan(found.at(1, "hole_error")) and np.isnan(found.at(4, "no such column"))


def test_playback_shows_the_sheet_of_the_moment(run):
    first, last = (ex.render_playback(ex.PlaybackState(str(run), frame)) for frame in (0, 1))
    assert np.abs(first[200, 300].astype(int) - (200, 40, 40)).max() < 8
    assert np.abs(last[200, 300].astype(int) - (40, 40, 200)).max() < 8
    assert has_colour(first, PALETTE["vermilion"]) and has_colour(first, PALETTE["blue"])
    assert np.array_equal(last, ex.render_playback(ex.PlaybackState(str(run))))


def test_playback_sees_what_a_run_adds(run):
    ex.read_run(run)
    time.sleep(0.01)
    log = run / "log.csv"
    log.write_text(log.read_text().replace("5,0.5", "5,0.5,0,0.9,0.111,0.8\n"))
    Image.new("RGB", (80, 60)).save(run / "samples" / "0000005.jpg")
    assert numbers(ex.describe_playback(ex.PlaybackState(str(run)))) == [5, 5, 0.111, 0.8]


def test_runs_that_cannot_be_played(run, tmp_path):
    with pytest.raises(UserError, match=r"is no run: there is no log\.csv"):
        ex.PlaybackState(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="give 0 to 1"):
        ex.PlaybackState(str(run), 2)
    (run / "log.csv").write_text("step,l1\n1,many\n")
    with pytest.raises(UserError, match="damaged"):
        ex.PlaybackState(str(run))
    (run / "log.csv").write_text("step,l1\n")
    with pytest.raises(UserError, match="no rows yet"):
        ex.PlaybackState(str(run))
    for sheet in (run / "samples").iterdir():
        sheet.unlink()
    with pytest.raises(UserError, match="no samples yet"):
        ex.explore_playback(run)


# ------------------------------------------------------------------------------------------------------ invalid states


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ex.MaskState("thik"), "unknown mask recipe 'thik'; did you mean thick?"),
        (lambda: ex.MaskState(size=8), "size is 8: give 32 to 512 pixels"),
        (lambda: ex.MaskState(seed=-1), "seed is -1: give 0 or more"),
        (lambda: ex.FieldState("furier"), "unknown architecture 'furier'; did you mean fourier?"),
        (lambda: ex.FieldState(blocks=10), "blocks is 10: give 0 to 9"),
        (lambda: ex.FieldState(blocks=-1, model="x"), "blocks is -1: give 0 to 99"),
        (lambda: ex.FieldState(size=100), "size is 100: give 80, 96, … or 256 pixels"),
        (lambda: ex.FieldState(row=101), "row is 101: give 0 to 100 percent"),
        (lambda: ex.FieldState(hole=-1), "hole is -1: give 0 to 200 pixels"),
        (lambda: ex.measure_field(ex.FieldState(model="/no/where")), "no model '/no/where'"),
        (lambda: ex.SpectrumState(inner=5, outer=4), "the band 5 to 4 is empty: give 0 ≤ inner ≤ outer"),
        (lambda: ex.SpectrumState(peaks=-1), "peaks is -1"),
        (lambda: ex.SpectrumState(size=4), "size is 4"),
        (lambda: ex.ImpulseState(size=16, row=16), "row is 16: give 0 to 15"),
        (lambda: ex.ImpulseState(size=1000), "size is 1000"),
        (lambda: ex.ImpulseState(seed=-2), "seed is -2"),
    ],
)
def test_invalid_states_say_what_to_do_in_one_line(make, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        make()
    assert "\n" not in str(caught.value)


# --------------------------------------------------------------------------------------------------------- the shells


def decoded(explorer):
    return np.asarray(Image.open(io.BytesIO(explorer.image.value)).convert("RGB"))


@pytest.fixture
def opened():
    """Explorers to close at the end."""
    pytest.importorskip("ipywidgets")
    explorers = []
    yield lambda make, *arguments: explorers.append(make(*arguments)) or explorers[-1]
    for explorer in explorers:
        explorer.close()


CHANGES = {
    ex.MaskState: dict(recipe="thin", size=128, seed=4),
    ex.FieldState: dict(architecture="fourier", blocks=1, decoder=True, size=96, row=20, column=70, hole=24),
    ex.SpectrumState: dict(picture="bricks", inner=2, outer=20, peaks=3, remove=True),
    ex.ImpulseState: dict(relu=False, size=64, row=20, column=3, seed=7),
}


@pytest.mark.parametrize("state", STATES, ids=lambda state: type(state).__name__)
def test_every_control_changes_the_picture_and_the_sentence(state, opened):
    explorer = opened(EXPLORE[state])
    assert np.array_equal(decoded(explorer), RENDER[state](state))
    assert explorer.controls.keys() == CHANGES[type(state)].keys()
    for name, value in CHANGES[type(state)].items():
        before = explorer.image.value
        explorer.controls[name].value = value
        state = replace(state, **{name: value})
        assert explorer.current == state and explorer.image.value != before
        render = next(render for known, render in RENDER.items() if type(known) is type(state))
        describe = next(describe for known, describe in DESCRIBE.items() if type(known) is type(state))
    assert np.array_equal(decoded(explorer), render(state))
    assert describe(state).replace("'", "&#x27;") in explorer.sentence.value


def test_scrubbing_through_a_run(run, opened):
    explorer = opened(ex.explore_playback, run)
    assert (explorer.controls["frame"].value, explorer.controls["frame"].max) == (1, 1)
    assert decoded(explorer)[200, 300, 2] > 150
    explorer.controls["frame"].value = 0
    assert decoded(explorer)[200, 300, 0] > 150 and "0.321" in explorer.sentence.value


def test_a_state_outside_of_the_usual_can_be_opened(opened):
    state = ex.MaskState("thin", 100, 1234)
    assert np.array_equal(decoded(opened(ex.explore_masks, state)), ex.render_masks(state))


def test_what_cannot_be_drawn_is_told_and_mended(opened):
    explorer = opened(ex.explore_spectrum)
    before = explorer.image.value
    explorer.controls["inner"].value = 30
    assert explorer.image.value == before and 'role="alert"' in explorer.sentence.value
    assert "the band 30 to 12 is empty" in explorer.sentence.value
    explorer.controls["outer"].value = 40
    assert explorer.current == ex.SpectrumState(inner=30, outer=40)
    assert explorer.image.value != before and "alert" not in explorer.sentence.value


def test_a_saved_notebook_keeps_the_picture(run, opened):
    """Live pages take the widget's view, all others the picture."""
    for explorer, mime in ((opened(ex.explore_impulse), "image/png"), (opened(ex.explore_playback, run), "image/jpeg")):
        data, metadata = explorer._repr_mimebundle_()
        assert data.keys() == {"application/vnd.jupyter.widget-view+json", mime, "text/plain"}
        assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == explorer.model_id
        assert base64.b64decode(data[mime]) == explorer.image.value
        assert metadata[mime]["alt"] == data["text/plain"]
        assert len(explorer.image.value) < 300_000


def test_ipython_displays_that_bundle(opened):
    """Under ipywidgets 7 too, whose widgets bring a way of their own to be displayed."""
    formatter = pytest.importorskip("IPython.core.formatters").DisplayFormatter()
    explorer = opened(ex.explore_impulse)
    data, _ = formatter.format(explorer)
    assert {"image/png", "application/vnd.jupyter.widget-view+json"} <= data.keys()


def test_closing_leaves_nothing_behind(opened):
    widgets = pytest.importorskip("ipywidgets")
    registry = getattr(widgets.widgets.widget, "_instances", None)  # ipywidgets 8
    registry = widgets.Widget.widgets if registry is None else registry
    opened(ex.explore_impulse)
    gc.collect()
    before = set(registry)
    explorer = ex.explore_impulse()
    controls = list(explorer.controls.values())
    observers = [len(control._trait_notifiers["value"]["change"]) for control in controls]
    assert len(set(registry) - before) > len(controls)
    for control in controls[:3]:
        control.value = control.options[0] if hasattr(control, "options") else int(not control.value)
    assert [len(control._trait_notifiers["value"]["change"]) for control in controls] == observers
    explorer.close()
    explorer.close()
    drawn = explorer.image.value
    controls[-1].value = 9
    assert explorer.image.value == drawn
    leftover = [registry[key] for key in set(registry) - before]
    assert not [widget for widget in leftover if not type(widget).__name__.endswith(("Layout", "StyleModel", "Style"))]
