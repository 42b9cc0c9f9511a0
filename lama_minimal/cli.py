"""The command line, ``lama-minimal``. Nothing heavy is imported before it is needed, so that ``--help`` is quick.

Errors that a user can cause end with one line and exit code 2.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from lama_minimal.config import PRESETS, Settings, UserError, preset, read_settings, suggest

NO_MODEL = "no model ships yet: train one in five minutes with `make demo`, then add --model runs/demo"


@dataclass
class Train:
    """Train a network on built-in scenes or on a folder of photographs."""

    out: Path
    """Folder of the run: settings, log, sample pictures, checkpoints `last` and `best`."""
    preset: Literal[tuple(PRESETS)] = "lama-fourier"  # type: ignore[valid-type]
    """Named settings; every one of them can be changed below."""
    data: Path | None = None
    """Folder of images, searched recursively; None = built-in scenes."""
    steps: int | None = None
    """Generator updates in all; None = the preset's."""
    resume: bool = False
    """Go on from the `last` checkpoint of this folder, with its settings."""
    device: str | None = None
    """Where to compute, such as cpu or cuda:1; None = a GPU if there is one."""
    settings: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)
    """All settings of the preset."""


@dataclass
class Inpaint:
    """Fill the hole in a picture, or in every picture of a folder."""

    image: tyro.conf.Positional[Path]
    """A picture, or a folder of pictures `x.png` with masks `x_mask001.png`."""
    out: Path
    """File (or, for a folder, folder) for the result."""
    mask: Path | None = None
    """Picture of the image's size, not black where something shall be filled (for a folder: beside the images)."""
    model: str | None = None
    """Folder of a run, checkpoint, or name of published weights such as big-lama."""
    strategy: Literal["auto", "whole", "crop", "resize"] = "auto"
    """Run on the whole picture, a crop around each hole, or the shrunken picture; auto = crop above 1024 pixels."""
    refine: bool = False
    """Fill large holes in large pictures from coarse to fine: better there, and some thirty times as slow."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the network; auto = bfloat16 where the device computes in it."""
    device: str | None = None
    """Where to compute; None = a GPU if there is one."""


@dataclass
class Evaluate:
    """Measure a model beside classical methods on held-out pictures."""

    model: str
    """Folder of a run, checkpoint, or name of published weights."""
    out: Path
    """Folder for report.json and report.png."""
    data: Path | None = None
    """Folder of images; None = held-out built-in scenes."""
    masks: Literal["thin", "medium", "thick"] = "thick"
    """Recipe of the masks."""
    sizes: tuple[int, ...] = (256,)
    """Sides of the square pictures, pixels; the training size and twice that are telling."""
    count: int = 48
    """Pictures of each size."""
    seed: int = 0
    """Seed of pictures and masks."""
    device: str | None = None
    """Where to compute; None = a GPU if there is one."""


@dataclass
class Demo:
    """Train a small LaMa in five minutes on a CPU, fill holes with it, and compare it with classical methods."""

    out: Path = Path("runs/demo")
    """Folder of the run and its report."""
    steps: int | None = None
    """Training steps; None = the preset's."""


@dataclass
class Bench:
    """Measure speed and memory, beside the authors' code where it is given."""

    reference: Path | None = None
    """A checkout of the authors' code (git clone https://github.com/advimman/lama); None = no comparison."""
    out: Path | None = None
    """JSON file for all numbers; a picture is drawn beside it."""
    model: Literal["lama-fourier", "big-lama"] = "lama-fourier"
    """Whose networks."""
    parts: tuple[Literal["inference", "training", "strategy", "memory", "feeding", "growth"], ...] = (
        "inference", "training", "strategy", "memory", "feeding", "growth",
    )  # fmt: skip
    """What to measure."""
    rounds: int = 7
    """Turns of each contender; more = less noise."""
    device: str | None = None
    """Where to compute; None = a GPU if there is one."""


@dataclass
class Pretrain:
    """Train a small network for the perceptual loss to label the built-in scenes' pixels."""

    out: Path
    """File for the weights, NAME.safetensors; a card NAME.json is written beside it."""
    steps: int = 1000
    """Updates."""
    seed: int = 0
    """Seed of the weights."""


def run_train(arguments: Train) -> None:
    """Train with a progress bar."""
    from tqdm import tqdm

    from lama_minimal.train import leave_processes, train

    settings = arguments.settings
    if arguments.data is not None:
        settings = replace(settings, data=replace(settings.data, folder=str(arguments.data)))
    if arguments.steps is not None:
        settings = replace(settings, run=replace(settings.run, steps=arguments.steps))
    quiet = os.environ.get("RANK", "0") != "0"
    bar, evaluation, step = None, {}, settings.run.steps
    for record in train(settings, arguments.out, resume=arguments.resume, device=arguments.device):
        if bar is None:  # not before the first step: a mistake is one line
            bar = tqdm(total=settings.run.steps, initial=record.step - 1, disable=quiet, unit="step")
        step, evaluation = record.step, record.evaluation or evaluation
        shown = {name: f"{value:.3g}" for name, value in (record.terms | evaluation).items() if "norm" not in name}
        bar.set_postfix(shown, refresh=False)
        bar.update()
    leave_processes()
    if bar is not None:
        bar.close()
    elif not quiet:
        print(f"{arguments.out} has made its {settings.run.steps} steps: add --steps for more")
    if not quiet and step < settings.run.steps:
        print(f"stopped after step {step}; go on with: lama-minimal train --out {arguments.out} --resume")


def run_inpaint(arguments: Inpaint) -> None:
    """Fill one picture or a folder."""
    if arguments.model is None:
        raise UserError(NO_MODEL)
    from lama_minimal.inference import Inpainter, colour_profile, inpaint_folder, save_image

    if arguments.image.is_dir():
        if arguments.mask is not None:
            raise UserError("a folder has its masks beside the images (x.png, x_mask001.png): leave --mask out")
        inpainter = Inpainter.load(arguments.model, arguments.device, arguments.precision)
        options = dict(strategy=arguments.strategy, refine=arguments.refine)
        print(inpaint_folder(inpainter, arguments.image, arguments.out, **options))
        return
    if arguments.mask is None:
        raise UserError("say what to fill: add --mask with a picture that is not black in the hole")
    inpainter = Inpainter.load(arguments.model, arguments.device, arguments.precision)
    filled = inpainter(arguments.image, arguments.mask, strategy=arguments.strategy, refine=arguments.refine)
    inputs = (arguments.image, arguments.mask)
    save_image(filled, arguments.out, icc_profile=colour_profile(arguments.image), inputs=inputs)


def run_evaluate(arguments: Evaluate) -> None:
    """Evaluate a model and print its table."""
    from lama_minimal.evaluate import evaluate_model

    data = None if arguments.data is None else str(arguments.data)
    report = evaluate_model(
        arguments.model,
        data,
        arguments.masks,
        arguments.sizes,
        arguments.count,
        arguments.out,
        arguments.seed,
        device=arguments.device,
    )
    print(report.table())


def run_pretrain(arguments: Pretrain) -> None:
    """Train the loss network and say how well it labels."""
    from lama_minimal.pretext import train_segmentation

    if arguments.out.suffix != ".safetensors":
        raise UserError(f"weights are written as safetensors: end --out {arguments.out} in .safetensors")
    scores = train_segmentation(arguments.out, arguments.steps, seed=arguments.seed)
    print("pixels of held-out scenes labelled rightly: {pixel_accuracy:.1%}".format(**scores), end="")
    print(" (always the most frequent label: {constant_guess:.1%})".format(**scores))


def run_bench(arguments: Bench) -> None:
    """Measure, and print each number as it is there."""
    from lama_minimal.bench import bench, line

    bench(
        arguments.model,
        arguments.parts,
        arguments.reference,
        arguments.rounds,
        arguments.device,
        arguments.out,
        progress=lambda row: print(line(row), flush=True),
    )


def run_demo(arguments: Demo) -> None:
    """Train, evaluate at the training size and at twice that size, and on photographs."""
    from lama_minimal.evaluate import evaluate_model

    resume = (arguments.out / "settings.json").exists()
    run_train(Train(arguments.out, "demo", None, arguments.steps, resume, "cpu", preset("demo")))
    print("evaluating beside the classical methods …")
    report = evaluate_model(str(arguments.out), sizes=(64, 128), count=80, out=arguments.out, with_photographs=True)
    print(report.table())
    print(f"\nlook at {arguments.out / 'report.png'}; the numbers are in report.json beside it")


COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "train": (Train, run_train),
    "inpaint": (Inpaint, run_inpaint),
    "evaluate": (Evaluate, run_evaluate),
    "demo": (Demo, run_demo),
    "pretrain": (Pretrain, run_pretrain),
    "bench": (Bench, run_bench),
}


def _usage() -> str:
    """What there is, a line each."""
    lines = [f"  {name:9} {kind.__doc__}" for name, (kind, _) in COMMANDS.items()]
    return "\n".join(
        ["usage: lama-minimal COMMAND …", "", *lines, "", "lama-minimal COMMAND --help explains the rest."]
    )


def _value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """The value after ``flag`` (or in ``flag=value``), before the rest is parsed."""
    for here, after in zip(arguments, [*arguments[1:], None], strict=True):
        if here == flag:
            return after
        if here.startswith(f"{flag}="):
            return here.removeprefix(f"{flag}=")
    return None


def _train_defaults(arguments: Sequence[str]) -> Settings:
    """Settings that the flags of ``train`` start from: those of the run to resume, else the preset's."""
    saved = Path(_value_of("--out", arguments) or "") / "settings.json"
    if "--resume" in arguments and saved.exists():
        return read_settings(saved)
    return preset(_value_of("--preset", arguments) or "lama-fourier")


def _parse(name: str, arguments: Sequence[str]) -> Any:
    """The command's arguments; tyro prints help and mistakes itself, and exits with 0 or 2."""
    kind = COMMANDS[name][0]
    options: dict[str, Any] = dict(args=list(arguments), prog=f"lama-minimal {name}", description=kind.__doc__)
    if kind is Train:
        defaults = Train(tyro.MISSING, settings=_train_defaults(arguments))
        return tyro.cli(Train, default=defaults, **options)
    return tyro.cli(kind, **options)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exit with 2 after a user's mistake."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # Threads that wait for work sleep instead of spinning: on a machine whose cores are busy with something else,
    # spinning made training some thirty times slower. Read when PyTorch is imported, later.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_usage())
        return
    name = arguments[0]
    try:
        if name not in COMMANDS:
            raise UserError(f"unknown command {name!r}; {suggest(name, COMMANDS)}")
        COMMANDS[name][1](_parse(name, arguments[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
    except UserError as error:
        print(f"lama-minimal: error: {error}", file=sys.stderr)
        sys.exit(2)
