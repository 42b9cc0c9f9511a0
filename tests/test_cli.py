"""The command line: every mistake is one line and exit code 2, and nothing heavy is imported for --help."""

import os
import subprocess
import sys
import tarfile
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from lama_minimal.cli import main
from lama_minimal.config import PRESETS, Settings, UserError, check, from_dict, preset, read_settings

TINY = [
    *("--preset", "demo", "--device", "cpu", "--generator.width", "8", "--generator.blocks", "1", "--data.size", "32"),
    *("--run.batch-size", "2", "--run.save-every", "2", "--data.evaluation-images", "2"),
]


def fails(capsys, *arguments):
    """Run a command that must end with 2; return what it said."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.err + said.out
    return said.err + said.out


def one_line(text):
    assert text.count("\n") == 1 and text.startswith("lama-minimal: error: "), text
    return text


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "run"
    main(["train", "--out", str(out), *TINY, "--steps", "3"])
    return out


@pytest.fixture
def picture(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 56, 3), np.uint8)).save(tmp_path / "photo.png")
    mask = np.zeros((40, 56), np.uint8)
    mask[10:20, 10:30] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path


def test_train_inpaint_evaluate(trained, picture, capsys):
    out = picture / "filled.png"
    main(["inpaint", str(picture / "photo.png"), "--mask", str(picture / "mask.png"), "--out", str(out),
          "--model", str(trained)])  # fmt: skip
    before, after = (np.asarray(Image.open(path)) for path in (picture / "photo.png", out))
    mask = np.asarray(Image.open(picture / "mask.png")) > 0
    assert (before[~mask] == after[~mask]).all() and (before[mask] != after[mask]).any()
    report = picture / "report"
    main(["evaluate", "--model", str(trained), "--out", str(report), "--sizes", "32", "--count", "4"])
    assert (report / "report.json").exists() and (report / "report.png").exists()
    assert "Telea" in capsys.readouterr().out


def test_inpaint_a_folder(trained, picture):
    folder = picture / "in"
    folder.mkdir()
    (picture / "photo.png").rename(folder / "a.png")
    (picture / "mask.png").rename(folder / "a_mask001.png")
    main(["inpaint", str(folder), "--out", str(picture / "out"), "--model", str(trained)])
    assert Image.open(picture / "out/a_mask001.png").size == (56, 40)


def test_fine_tuning_takes_the_networks_of_the_model(trained, tmp_path, capsys):
    """Whatever the preset's are; a flag that says otherwise is a mistake."""
    options = ["--start", str(trained / "best"), "--preset", "cpu", "--device", "cpu", "--data.size", "32"]
    options += ["--run.batch-size", "2", "--data.evaluation-images", "2", "--loss.perceptual", "0"]
    with pytest.warns(UserWarning, match="no discriminator"):
        main(["train", "--out", str(tmp_path / "run"), *options, "--steps", "2", "--run.warm-up", "1"])
    settings = read_settings(tmp_path / "run/settings.json")
    assert settings.generator.width == 8 and settings.run.start == str(trained / "best")
    capsys.readouterr()
    said = fails(capsys, "train", "--out", tmp_path / "other", *options, "--generator.width", "16")
    assert "generator" in one_line(said) and "leave" in said
    assert "no model" in one_line(fails(capsys, "train", "--out", tmp_path / "x", "--start", tmp_path / "gone"))


def test_shards_instead_of_folders(trained, picture, capsys):
    """For training, filling and evaluating; several, as a shell expands a pattern that nobody quotes."""
    photo, mask = (Image.open(picture / name).resize((64, 64)) for name in ("photo.png", "mask.png"))
    tars = []
    for number in range(2):
        tars.append(str(picture / f"train-{number:06d}.tar"))
        with tarfile.open(tars[-1], "w") as tar:
            for name, image in ((f"{number}.png", photo), (f"{number}_mask.png", mask)):
                image.save(picture / name)
                tar.add(picture / name, name)
    main(["train", "--out", str(picture / "run"), *TINY, "--steps", "1", "--data", *tars])
    assert read_settings(picture / "run/settings.json").data.folder == "::".join(tars)
    main(["inpaint", str(picture / "train-*.tar"), "--out", str(picture / "filled"), "--model", str(trained)])
    assert "2 written" in capsys.readouterr().out
    assert (picture / "filled/train-000001/1_mask.png").exists()
    report = ["--out", str(picture / "report"), "--sizes", "32", "--count", "2"]
    main(["evaluate", "--model", str(trained), "--data", *tars, *report])
    assert "Telea" in capsys.readouterr().out
    gone = str(picture / "gone-{0..1}.tar")
    assert "gone-0.tar" in one_line(fails(capsys, "train", "--out", picture / "x", *TINY, "--data", gone))


def test_resume_takes_the_settings_of_the_run(trained):
    main(["train", "--out", str(trained), "--resume", "--steps", "5"])
    assert (trained / "log.csv").read_text().splitlines()[-1].startswith("5,")


def test_mistakes_are_one_line(trained, picture, capsys):
    photo, mask, out = picture / "photo.png", picture / "mask.png", picture / "out.png"
    assert "--mask" in one_line(fails(capsys, "inpaint", photo, "--out", out, "--model", trained))
    said = one_line(fails(capsys, "inpaint", photo, "--mask", mask, "--out", out, "--model", picture / "nothing"))
    assert "no model" in said
    said = fails(capsys, "inpaint", picture / "gone.png", "--mask", mask, "--out", out, "--model", trained)
    assert "gone.png" in one_line(said)
    assert "--resume" in one_line(fails(capsys, "train", "--out", trained, *TINY))
    empty = picture / "empty"
    empty.mkdir()
    assert "jpg" in one_line(fails(capsys, "train", "--out", picture / "x", *TINY, "--data", empty)).lower()
    assert "did you mean train" in one_line(fails(capsys, "trian"))
    small = picture / "small.png"
    Image.new("L", (5, 5), 255).save(small)
    said = one_line(fails(capsys, "inpaint", photo, "--mask", small, "--out", out, "--model", trained))
    assert "5" in said and "56" in said
    assert not out.exists()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--steps", "0"], "run.steps"),
        (["--run.batch-size", "-1"], "run.batch_size"),
        (["--run.accumulate", "0"], "run.accumulate"),
        (["--run.evaluate-every", "0"], "run.evaluate_every"),
        (["--data.size", "50"], "data.size"),
        (["--data.size", "8"], "data.size"),
        (["--data.workers", "-1"], "data.workers"),
        (["--data.evaluation-images", "0"], "data.evaluation_images"),
        (["--data.scenes", "2"], "data.scenes"),
        (["--device", "abacus"], "device"),
        (["--loss.perceptual", "1", "--perceptual.network", "nothing"], "nothing"),
    ],
)
def test_settings_out_of_range_are_one_line(tmp_path, capsys, flags, named):
    assert named in one_line(fails(capsys, "train", "--out", tmp_path / "run", *TINY, *flags))
    assert not (tmp_path / "run/last").exists()


def test_folders_that_cannot_be_written_are_one_line(trained, picture, capsys):
    file = picture / "photo.png"
    for out in (file, file / "run"):
        assert "photo.png" in one_line(fails(capsys, "train", "--out", out, *TINY, "--steps", "1"))
    said = fails(capsys, "inpaint", file, "--mask", picture / "mask.png", "--out", file / "x.png", "--model", trained)
    assert "photo.png" in one_line(said)
    said = fails(capsys, "evaluate", "--model", trained, "--out", picture / "report", "--seed", "-1")
    assert "seed" in one_line(said)


def test_a_damaged_settings_file_is_one_line(trained, tmp_path, capsys):
    for content in ("", "[]", "{", '{"run": 3}', '{"generator": {"convolution": "foo"}}', '{"run": {"steps": "x"}}'):
        (tmp_path / "settings.json").write_text(content)
        assert "settings" in one_line(fails(capsys, "train", "--out", tmp_path, "--resume"))


def test_resuming_never_changes_a_run_silently(trained, capsys):
    """The run's own settings are taken, whatever the preset; what does not fit its state is refused."""
    before = (trained / "settings.json").read_text()
    main(["train", "--out", str(trained), "--resume", "--preset", "lama-fourier"])
    assert (trained / "settings.json").read_text() == before
    capsys.readouterr()
    for flags, named in (
        (["--generator.width", "16"], "generator"),
        (["--loss.adversarial", "1"], "discriminator"),
        (["--optimizer.ema", "0.9"], "moving average"),
        (["--run.precision", "float16"], "float16"),
    ):
        assert named in one_line(fails(capsys, "train", "--out", trained, "--resume", *flags))
    assert (trained / "settings.json").read_text() == before


def test_every_preset_passes_its_own_check():
    for settings in PRESETS.values():
        check(settings)


def test_a_typo_suggests_the_nearest_field(capsys):
    assert "--generator.width" in fails(capsys, "train", "--out", "x", "--generator.widht", "3")
    assert "--strategy" in fails(capsys, "inpaint", "x", "--out", "y", "--stratgy", "crop")
    assert "lama-fourier" in fails(capsys, "train", "--out", "x", "--preset", "lama-furier")


def test_settings_survive_json():
    for settings in PRESETS.values():
        assert from_dict(asdict(settings)) == settings
    with pytest.raises(UserError, match=r"generator\.widht; did you mean width"):
        from_dict({"generator": {"widht": 3}})
    with pytest.raises(UserError, match="did you mean big-lama"):
        preset("big_lama")
    assert preset("lama-fourier") == Settings()


def test_help_explains_every_setting(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--help"])
    assert stop.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    for part, values in asdict(Settings()).items():
        for name in values:
            assert f"--{part}.{name.replace('_', '-')}" in said


def test_help_imports_nothing_heavy():
    script = (
        "import sys; from lama_minimal.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'cv2', 'PIL', 'matplotlib', 'skimage', 'torchmetrics'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy))"
    )
    for command in ("train", "inpaint", "evaluate", "demo"):
        done = subprocess.run(
            [sys.executable, "-c", script, command, "--help"], capture_output=True, text=True, env=dict(os.environ)
        )
        assert done.stdout.splitlines()[-1] == "HEAVY []", done.stdout[-300:] + done.stderr


def test_python_dash_m(capsys):
    done = subprocess.run([sys.executable, "-m", "lama_minimal"], capture_output=True, text=True)
    assert done.returncode == 0 and "inpaint" in done.stdout


def test_a_reader_who_has_read_enough_sees_no_traceback():
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "lama_minimal", "models"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 141
