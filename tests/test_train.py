"""Training as a whole: it learns, it goes on after anything, and nothing that was made is lost."""

import csv
import errno
import itertools
import json
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import textwrap
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from reference import REFERENCE, draw_weights
from safetensors.torch import load_file, save_file

from lama_minimal import checkpoint
from lama_minimal.checkpoint import load_generator
from lama_minimal.config import (
    DataSettings,
    DiscriminatorSettings,
    GeneratorSettings,
    LossSettings,
    OptimizerSettings,
    PerceptualSettings,
    RunSettings,
    Settings,
    UserError,
)
from lama_minimal.train import train

TINY = Settings(
    generator=GeneratorSettings(width=8, blocks=1, downsamplings=2),
    discriminator=DiscriminatorSettings(width=8, layers=2),
    perceptual=PerceptualSettings(network="scenes-segmentation"),
    loss=LossSettings(l1_hole=10.0, adversarial=0.1, feature_matching=1.0, perceptual=0.0),
    data=DataSettings(size=32, augmentation="flip", workers=0, evaluation_images=4),
    optimizer=OptimizerSettings(ema=0.9, schedule="cosine"),
    run=RunSettings(steps=12, batch_size=2, evaluate_every=4, save_every=2, sample_every=6),
)


def changed(settings, **parts):
    return replace(settings, **{name: replace(getattr(settings, name), **part) for name, part in parts.items()})


def run(settings, out, **options):
    return list(train(settings, out, device="cpu", **options))


def weights(folder):
    return {name: load_file(folder / name) for name in ("generator.safetensors", "training.safetensors")}


def equal(first, second):
    return all(
        first[file].keys() == second[file].keys()
        and all(torch.equal(tensor, second[file][name]) for name, tensor in first[file].items())
        for file in first
    )


def rows(out):
    with (out / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    run(TINY, out)
    return out


def test_what_a_run_leaves(uninterrupted):
    assert {path.name for path in uninterrupted.iterdir()} >= {"settings.json", "log.csv", "samples", "last", "best"}
    for name in ("last", "best"):
        assert isinstance(load_generator(uninterrupted / name), torch.nn.Module)
    log = rows(uninterrupted)
    assert [int(row["step"]) for row in log] == list(range(1, 13))
    assert {"l1", "adversarial", "feature_matching", "discriminator", "r1", "grad_norm_generator"} <= log[0].keys()
    assert [row["step"] for row in log if row["hole_error"]] == ["4", "8", "12"]
    assert len(list((uninterrupted / "samples").glob("*.jpg"))) == 2


def test_same_seed_same_weights_other_seed_others(uninterrupted, tmp_path):
    run(TINY, tmp_path / "again")
    assert equal(weights(uninterrupted / "last"), weights(tmp_path / "again/last"))
    run(changed(TINY, run=dict(seed=1)), tmp_path / "other")
    assert not equal(weights(uninterrupted / "last"), weights(tmp_path / "other/last"))


@pytest.mark.parametrize("stop", [2, 5, 11])
def test_leaving_the_loop_and_resuming_changes_nothing(uninterrupted, tmp_path, stop):
    """After 5 steps nothing was due to be saved: leaving saves."""
    for record in itertools.islice(train(TINY, tmp_path / "run", device="cpu"), stop):
        assert record.step <= stop
    assert json.loads((tmp_path / "run/last/state.json").read_text())["step"] == stop
    run(TINY, tmp_path / "run", resume=True)
    assert equal(weights(uninterrupted / "last"), weights(tmp_path / "run/last"))
    assert [int(row["step"]) for row in rows(tmp_path / "run")] == list(range(1, 13))


def test_all_five_losses_accumulation_and_float16_resume(tmp_path):
    settings = changed(
        TINY, loss=dict(perceptual=1.0), run=dict(steps=4, accumulate=2, precision="float16"), optimizer=dict(ema=None)
    )
    records = run(settings, tmp_path / "whole")
    assert {"l1", "adversarial", "feature_matching", "perceptual", "discriminator", "r1"} <= records[0].terms.keys()
    for _ in itertools.islice(train(settings, tmp_path / "halves", device="cpu"), 2):
        pass
    run(settings, tmp_path / "halves", resume=True)
    assert equal(weights(tmp_path / "whole/last"), weights(tmp_path / "halves/last"))


def test_it_learns_within_seconds(tmp_path):
    settings = changed(
        TINY,
        loss=dict(adversarial=0.0, feature_matching=0.0, r1=0.0),
        optimizer=dict(generator_lr=4e-3, ema=None),
        run=dict(steps=150, batch_size=8, evaluate_every=75, save_every=1000, sample_every=1000),
        data=dict(evaluation_images=20),
    )
    errors = [record.evaluation["hole_error"] for record in run(settings, tmp_path / "run") if record.evaluation]
    untrained = next(iter(train(changed(settings, run=dict(evaluate_every=1)), None, device="cpu")))
    assert errors[-1] < 0.75 * untrained.evaluation["hole_error"]
    assert json.loads((tmp_path / "run/best/state.json").read_text())["best_error"] == pytest.approx(min(errors))


def test_a_run_is_never_overwritten(uninterrupted):
    before = weights(uninterrupted / "last")
    with pytest.raises(UserError, match="--resume"):
        run(TINY, uninterrupted)
    with pytest.raises(UserError, match="another generator"):
        run(changed(TINY, generator=dict(width=16)), uninterrupted, resume=True)
    assert equal(before, weights(uninterrupted / "last"))


def test_nan_names_step_term_and_checkpoint(tmp_path, monkeypatch):
    steps = iter(train(TINY, tmp_path / "run", device="cpu"))
    for _ in range(3):
        next(steps)
    monkeypatch.setattr("lama_minimal.losses.feature_matching", lambda fake, _: fake[0].sum() * float("nan"))
    with pytest.raises(UserError, match=r"step 4: feature_matching is nan; last good checkpoint: .*last"):
        next(steps)
    state = json.loads((tmp_path / "run/last/state.json").read_text())
    assert state["step"] == 2
    assert all(torch.isfinite(t).all() for t in load_file(tmp_path / "run/last/generator.safetensors").values())


# A process that has loaded everything and then forks one training after the other: a kill costs no start-up.
NURSERY = """
import json, os, sys
import torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from test_train import TINY
from lama_minimal.train import train
for line in sys.stdin:
    out = json.loads(line)
    child = os.fork()
    if child == 0:
        for _ in train(TINY, out, resume=True, device="cpu"):
            pass
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


def test_killed_at_twenty_moments(uninterrupted, tmp_path):
    """SIGKILL at random moments, writing included, and resumed each time: bit-identical to the uninterrupted run."""
    nursery = subprocess.Popen(
        [sys.executable, "-c", NURSERY.format(tests=str(Path(__file__).parent))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    draw = random.Random(0)
    kills, finished, whole, while_writing = 0, 0, 2.0, 0
    out = tmp_path / "run-0"
    try:
        while kills < 20:
            nursery.stdin.write(json.dumps(str(out)) + "\n")
            nursery.stdin.flush()
            child = int(nursery.stdout.readline())
            status = _kill_later(child, draw.uniform(0, whole), out, kills % 3 == 0)
            if os.WIFSIGNALED(int(nursery.stdout.readline())):
                kills += 1
                while_writing += status
            else:
                finished += 1
                assert equal(weights(uninterrupted / "last"), weights(out / "last"))
                out = tmp_path / f"run-{finished}"
    finally:
        nursery.kill()
    run(TINY, out, resume=True)
    assert equal(weights(uninterrupted / "last"), weights(out / "last"))
    assert while_writing >= 3


def _kill_later(process, seconds, out, writing):
    """Kill a process after some time, or in the middle of writing a checkpoint; return whether it was writing."""
    import time

    end = time.monotonic() + (20 if writing else seconds)
    while time.monotonic() < end:
        if writing and any((out / f"{name}.{kind}").exists() for name in ("last", "best") for kind in ("new", "old")):
            break
        if not Path(f"/proc/{process}/stat").exists() or Path(f"/proc/{process}/stat").read_text().split()[2] == "Z":
            return False
        time.sleep(0.0005)
    os.kill(process, signal.SIGKILL)
    return any((out / f"{name}.{kind}").exists() for name in ("last", "best") for kind in ("new", "old"))


@pytest.mark.parametrize("calls", range(1, 13))
def test_killed_at_every_system_call_of_a_save(tmp_path, monkeypatch, calls):
    """Whichever renaming, removal or flush is the last one made, a complete checkpoint remains."""
    settings = changed(TINY, run=dict(steps=1))
    run(settings, tmp_path / "run")
    state = checkpoint.TrainingState.create(settings, torch.device("cpu"))
    state.load(tmp_path / "run/last")
    state.step = 2

    class Killed(BaseException):
        pass

    count = itertools.count(1)

    def dying(function):
        def call(*arguments, **options):
            if next(count) >= calls:
                raise Killed
            return function(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dying(Path.rename))
        patch.setattr(checkpoint, "_flush", dying(checkpoint._flush))
        patch.setattr(checkpoint.shutil, "rmtree", dying(checkpoint.shutil.rmtree))
        try:
            state.save(tmp_path / "run/last")
        except Killed:
            pass
    again = checkpoint.TrainingState.create(settings, torch.device("cpu"))
    again.load(tmp_path / "run/last")
    assert again.step in (1, 2)
    assert load_generator(tmp_path / "run") is not None


def test_a_full_disk_loses_no_checkpoint(tmp_path):
    """The file system refuses to write more (a limit on file size stands in for a full disk)."""
    settings = changed(TINY, run=dict(save_every=1))
    steps = iter(train(settings, tmp_path / "run", device="cpu"))
    next(steps)
    next(steps)
    before = weights(tmp_path / "run/last")
    state = checkpoint.TrainingState.create(settings, torch.device("cpu"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        with pytest.raises(UserError, match="untouched"):
            state.save(tmp_path / "run/last")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert equal(before, weights(tmp_path / "run/last"))
    assert not list((tmp_path / "run").glob("*.new"))


def test_no_space_left_is_one_line(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    state = checkpoint.TrainingState.create(TINY, torch.device("cpu"))
    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(UserError, match="No space left") as caught:
        state.save(tmp_path / "last")
    assert "\n" not in str(caught.value)


def test_ctrl_c_finishes_the_step_and_saves(uninterrupted, tmp_path):
    script = textwrap.dedent(f"""
        import sys, torch
        torch.set_num_threads(1)
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_train import TINY
        from lama_minimal.train import train
        for record in train(TINY, {str(tmp_path / "run")!r}, device="cpu"):
            print(record.step, flush=True)
    """)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    while process.stdout.readline().strip() != "3":
        pass
    process.send_signal(signal.SIGINT)
    process.stdout.read()
    assert process.wait(timeout=60) == 0
    assert 3 <= json.loads((tmp_path / "run/last/state.json").read_text())["step"] < 12
    run(TINY, tmp_path / "run", resume=True)
    assert equal(weights(uninterrupted / "last"), weights(tmp_path / "run/last"))


@pytest.fixture
def copy_of_last(uninterrupted, tmp_path):
    folder = tmp_path / "run/last"
    folder.mkdir(parents=True)
    for path in (uninterrupted / "last").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (tmp_path / "run/settings.json").write_bytes((uninterrupted / "settings.json").read_bytes())
    return folder


@pytest.mark.parametrize("name", ["generator.safetensors", "training.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "empty"])
def test_damaged_checkpoints_are_refused(copy_of_last, name, damage):
    path = copy_of_last / name
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 2 if name != "state.json" else 0] ^= 0x10
        path.write_bytes(content)
    elif damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"")
    with pytest.raises(UserError) as caught:
        run(TINY, copy_of_last.parent, resume=True)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value) or str(copy_of_last) in str(caught.value)


def test_tampered_generator_is_refused_for_inpainting(copy_of_last):
    tensors = load_file(copy_of_last / "generator.safetensors")
    tensors["encoder.0.0.weight"] += 1
    save_file(tensors, copy_of_last / "generator.safetensors")
    with pytest.raises(UserError, match="not the file"):
        load_generator(copy_of_last)


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_a_checkpoint_that_would_run_code_does_not(copy_of_last, tmp_path):
    marker = tmp_path / "owned"
    evil = pickle.dumps(Evil(marker))
    for name in ("generator.safetensors", "training.safetensors", "state.json"):
        content = (copy_of_last / name).read_bytes()
        (copy_of_last / name).write_bytes(evil)
        with pytest.raises(UserError):
            run(TINY, copy_of_last.parent, resume=True)
        with pytest.raises(UserError):
            load_generator(tmp_path / "run/last" if name == "generator.safetensors" else tmp_path / "nothing")
        (copy_of_last / name).write_bytes(content)
    assert not marker.exists()
    pickle.loads(evil)
    assert marker.exists()  # the pickle is as evil as it claims


def test_photographs_mixed_with_scenes(tmp_path):
    import skimage.data
    from PIL import Image

    folder = tmp_path / "photographs"
    folder.mkdir()
    for name in ("astronaut", "coffee", "rocket"):
        Image.fromarray(getattr(skimage.data, name)()).save(folder / f"{name}.jpg")
    settings = changed(TINY, data=dict(folder=str(folder), scenes=0.5, augmentation="paper"), run=dict(steps=2))
    assert [record.step for record in run(settings, tmp_path / "run")] == [1, 2]


# -------------------------------------------------------------------------------------------------------- fine-tuning


def generator_of(folder):
    return {name: t for name, t in load_file(folder / "generator.safetensors").items() if "running" not in name}


def discriminator_of(folder):
    tensors = load_file(folder / "training.safetensors")
    return {name: t for name, t in tensors.items() if name.startswith("discriminator.") and "running" not in name}


def same(first, second):
    names = [name for name in first if "num_batches" not in name]
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in names)


def test_a_run_starts_from_another(uninterrupted, tmp_path):
    """Its networks, step 0, nothing else: with rates of 0 they stay as they were; no warm-up, for both are there."""
    still = dict(generator_lr=0.0, discriminator_lr=0.0, ema=None)
    settings = checkpoint.adopt(changed(TINY, optimizer=still, run=dict(steps=1, seed=5)), uninterrupted)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(settings, tmp_path / "run")
    assert same(generator_of(tmp_path / "run/last"), generator_of(uninterrupted / "last"))
    assert same(discriminator_of(tmp_path / "run/last"), discriminator_of(uninterrupted / "last"))
    assert not same(generator_of(tmp_path / "run/last"), generator_of(uninterrupted / "best"))
    assert [row["step"] for row in rows(tmp_path / "run")] == ["1"]
    fresh = changed(settings, run=dict(start=None))
    run(fresh, tmp_path / "fresh")
    assert not same(generator_of(tmp_path / "fresh/last"), generator_of(uninterrupted / "last"))


def test_a_missing_discriminator_is_warmed_up_and_said_so(tmp_path):
    """The generator's weights stay for so many steps while the discriminator learns; then both learn. Resumable."""
    bare = changed(TINY, loss=dict(adversarial=0.0, feature_matching=0.0, r1=0.0), run=dict(steps=2))
    run(bare, tmp_path / "bare")
    settings = checkpoint.adopt(changed(TINY, run=dict(steps=6, warm_up=3)), tmp_path / "bare/best")
    with pytest.warns(UserWarning, match="no discriminator: a fresh one learns alone for 3 steps"):
        records = run(settings, tmp_path / "whole")
    assert [record.learning_rate > 0 for record in records] == [False] * 3 + [True] * 3
    discriminators = []
    with pytest.warns(UserWarning, match="no discriminator"):
        for stop in (1, 2, 3):
            for _ in itertools.islice(train(settings, tmp_path / "parts", resume=stop > 1, device="cpu"), 1):
                pass
            assert same(generator_of(tmp_path / "parts/last"), generator_of(tmp_path / "bare/best"))
            discriminators.append(discriminator_of(tmp_path / "parts/last"))
    assert not same(*discriminators[:2]) and not same(*discriminators[1:])
    run(settings, tmp_path / "parts", resume=True)
    assert not same(generator_of(tmp_path / "parts/last"), generator_of(tmp_path / "bare/best"))
    assert equal(weights(tmp_path / "whole/last"), weights(tmp_path / "parts/last"))


@pytest.mark.parametrize("discriminator", [True, False])
def test_starting_from_the_authors_checkpoint(tmp_path, discriminator):
    """With its generator and, where there is one, its discriminator; the settings come from the tensors."""
    state = {f"generator.{k}": t for k, t in draw_weights(REFERENCE["generators"]["fourier"]["keys"], 100).items()}
    if discriminator:
        shapes = REFERENCE["discriminator"]
        state |= {f"discriminator.{k}": t for k, t in draw_weights(shapes, 200).items()}
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    still = dict(generator_lr=0.0, discriminator_lr=0.0, ema=None)
    settings = changed(TINY, optimizer=still, run=dict(steps=1, warm_up=4))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(checkpoint.adopt(settings, tmp_path / "last.ckpt"), tmp_path / "run")
    assert any("no discriminator" in str(one.message) for one in caught) != discriminator

    def has(tensors, wanted):
        return any(tensor.shape == wanted.shape and torch.equal(tensor, wanted) for tensor in tensors.values())

    learned = [name for name in state if name.endswith("weight") or name.endswith("bias")]
    assert len(learned) > 20
    for name in learned:
        network = generator_of if name.startswith("generator") else discriminator_of
        assert has(network(tmp_path / "run/last"), state[name]), name


@pytest.mark.parametrize("kind", ["fourier", "regular", "dilated"])
@pytest.mark.parametrize("more", [{}, dict(width=12, max_channels=20), dict(downsamplings=3, blocks=3)])
def test_settings_are_read_off_a_generator(kind, more):
    """What they build has the same shapes."""
    from lama_minimal.models import build_generator

    settings = replace(GeneratorSettings(kind, width=8, blocks=1, downsamplings=2), **more)
    generator = build_generator(**asdict(settings))
    again = build_generator(**asdict(checkpoint._architecture(generator)))
    shapes = [{name: tensor.shape for name, tensor in network.state_dict().items()} for network in (generator, again)]
    assert shapes[0] == shapes[1] and checkpoint._architecture(generator).convolution == kind


def test_contradictions_with_the_model_are_one_line(uninterrupted, tmp_path):
    for part, change in (("generator", dict(width=16)), ("discriminator", dict(layers=3))):
        settings = checkpoint.adopt(TINY, uninterrupted)
        with pytest.raises(UserError, match=f"the {part} of .* is another") as caught:
            run(changed(settings, **{part: change}), tmp_path / part)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no model"):
        run(changed(TINY, run=dict(start=str(tmp_path / "gone"))), tmp_path / "run")
    run(changed(TINY, run=dict(steps=1)), tmp_path / "plain")
    with pytest.raises(UserError, match=r"run\.start"):
        run(changed(TINY, run=dict(start=str(uninterrupted))), tmp_path / "plain", resume=True)


def test_a_process_that_torchrun_has_restarted_resumes(uninterrupted, tmp_path, monkeypatch):
    for _ in itertools.islice(train(TINY, tmp_path / "run", device="cpu"), 5):
        pass
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    with pytest.raises(UserError, match="--resume"):
        run(TINY, tmp_path / "run")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    run(TINY, tmp_path / "run")
    assert equal(weights(uninterrupted / "last"), weights(tmp_path / "run/last"))


def test_another_number_of_processes_goes_on_in_the_data_where_the_last_has_stopped(tmp_path, monkeypatch):
    """Position, not step, tells which samples come next; a checkpoint of before positions were saved has one, too."""
    from lama_minimal import train as module

    asked = []
    loader = module.training_loader
    monkeypatch.setattr(module, "training_loader", lambda *a: asked.append(a[3]) or loader(*a))
    run(changed(TINY, run=dict(steps=2)), tmp_path / "run")
    state = tmp_path / "run/last/state.json"
    content = json.loads(state.read_text())
    assert content["position"] == 4
    state.write_text(json.dumps(content | {"position": 24}))  # six processes
    run(changed(TINY, run=dict(steps=3)), tmp_path / "run", resume=True)
    content = json.loads(state.read_text())
    assert content.pop("position") == 26
    state.write_text(json.dumps(content))
    run(changed(TINY, run=dict(steps=4)), tmp_path / "run", resume=True)
    assert asked == [0, 24, 6]


def test_two_processes_under_torchrun(tmp_path):
    """One folder, one log, whole checkpoints; resuming after the end of a shorter run goes on."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "lama_minimal", "train", "--out", str(tmp_path / "run"), "--device", "cpu"),
    ]
    tiny = ["--preset", "demo", "--generator.width", "8", "--generator.blocks", "1", "--data.size", "32",
            "--run.batch-size", "2", "--data.evaluation-images", "2"]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for more in ([*tiny, "--steps", "3"], ["--resume", "--steps", "5"]):
        done = subprocess.run([*command, *more], capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr
    assert [int(row["step"]) for row in rows(tmp_path / "run")] == [1, 2, 3, 4, 5]
    assert load_generator(tmp_path / "run") is not None
