"""The command line, ``lama-minimal``. Nothing heavy is imported before it is needed, so that ``--help`` is quick.

Errors that a user can cause end with one line and exit code 2.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from lama_minimal.config import (
    DEFAULT_MODEL,
    PRESETS,
    Settings,
    UserError,
    preset,
    read_settings,
    suggest,
)
from lama_minimal.memory import LARGE_PAGES


@dataclass
class Train:
    """Train a network on built-in scenes, or on a folder or shards of photographs."""

    out: Path
    """Folder of the run: settings, log, sample pictures, checkpoints `last` and `best`."""
    preset: Literal[tuple(PRESETS)] = "lama-fourier"  # type: ignore[valid-type]
    """Named settings; every one of them can be changed below."""
    data: tuple[str, ...] | None = None
    """Folder of images, searched recursively, or tar shards, local or http(s), such as 'a/train-{000000..000999}.tar';
    None = built-in scenes."""
    start: str | None = None
    """Fine-tune: start a new run from the weights of a run, a checkpoint, or published ones such as big-lama."""
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
    """Fill the hole in a picture, or in every picture of a folder or of shards."""

    image: tyro.conf.Positional[str]
    """A picture, or a folder or tar shards of pictures `x.png` with masks `x_mask001.png`."""
    out: Path
    """File (or, for a folder, folder) for the result."""
    mask: Path | None = None
    """Picture of the image's size, not black where something shall be filled (for a folder: beside the images)."""
    model: str = DEFAULT_MODEL
    """Folder of a run, checkpoint, or one of the names that `lama-minimal models` lists, such as big-lama."""
    strategy: Literal["auto", "whole", "crop", "resize"] = "auto"
    """Run on the whole picture, a crop around each hole, or the shrunken picture; auto = crop above 1024 pixels."""
    refine: bool = False
    """Fill large holes in large pictures from coarse to fine: better there, and some thirty times as slow."""
    coarse_to_fine: bool | None = None
    """Take the structure of wide holes from the picture at half the size; None = where that was measured to help."""
    seamless: bool | None = None
    """Fit what was filled to what is around it, in colour and contrast; None = except for the authors' weights."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the network; auto = bfloat16 where the device computes in it."""
    device: str | None = None
    """Where to compute; None = a GPU if there is one."""


@dataclass
class App:
    """Serve a page in the browser: paint over things, and they are gone."""

    model: tuple[str, ...] = (DEFAULT_MODEL,)
    """Folders of runs, checkpoints, or names of models; visitors choose among several."""
    host: str = "127.0.0.1"
    """Address to listen on: this machine alone; 0.0.0.0 = whoever can reach it."""
    port: int = 7860
    """Port to listen on."""
    password_file: Path | None = None
    """File with a line NAME:PASSWORD for each visitor; None = $LAMA_MINIMAL_PASSWORD if set, else no password."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the networks; auto = bfloat16 where the device computes in it."""
    device: str | None = None
    """Where to compute; None = a GPU if there is one."""


@dataclass
class Evaluate:
    """Measure a model beside classical methods on held-out pictures."""

    model: str
    """Folder of a run, checkpoint, or one of the names that `lama-minimal models` lists."""
    out: Path
    """Folder for report.json and report.png."""
    beside: tuple[str, ...] = ()
    """Other models for the same pictures, with which the first one is compared picture by picture."""
    data: tuple[str, ...] | None = None
    """Folder or tar shards of images; None = held-out built-in scenes."""
    masks: Literal["thin", "medium", "thick"] = "thick"
    """Recipe of the masks."""
    sizes: tuple[int, ...] = (256,)
    """Sides of the square pictures, pixels; the training size and twice that are telling."""
    count: int = 48
    """Pictures of each size."""
    seed: int = 0
    """Seed of pictures and masks."""
    protocol: str | None = None
    """The original's protocol instead: SSIM, LPIPS, FID, KID, IDS and F1 on thin, medium and thick masks, at the first
    of --sizes; `inception` = by its networks (extra metrics), or name or file of a loss network that takes their place,
    such as scenes-segmentation. --count 30000 --sizes 512 for Places, --count 2000 for CelebA-HQ."""
    device: str | None = None
    """Where to compute; None = a GPU if there is one."""


@dataclass
class Demo:
    """Train a small LaMa in five minutes on a CPU, fill holes with it, and compare it with classical methods."""

    out: Path = Path("runs/demo")
    """Folder of the run and its report."""
    steps: int | None = None
    """Training steps; None = the preset's."""


BenchPart = Literal["inference", "training", "profile", "strategy", "memory", "feeding", "shards", "growth"]


@dataclass
class Bench:
    """Measure speed and memory, beside the authors' code where it is given."""

    reference: Path | None = None
    """A checkout of the authors' code (git clone https://github.com/advimman/lama); None = no comparison."""
    out: Path | None = None
    """JSON file for all numbers; a picture is drawn beside it."""
    model: Literal["lama-fourier", "big-lama"] = "lama-fourier"
    """Whose networks."""
    parts: tuple[BenchPart, ...] = get_args(BenchPart)
    """What to measure."""
    rounds: int = 7
    """Turns of each contender; more = less noise."""
    device: str | None = None
    """Where to compute; None = a GPU if there is one."""


@dataclass
class Ablate:
    """Train the rows of one of the paper's tables at course scale, test them, and write table, figure and pictures."""

    table: Literal["convolutions", "masks", "perceptual", "blocks", "beyond"]
    """Tables 2, 4 and 3 of the paper, its depths, and what it did not ask."""
    out: Path
    """Folder for records, table, figure and pictures, one folder a table; the same command again goes on."""
    scale: Literal["notebook", "cpu", "gpu"] = "cpu"
    """notebook = some 15 seconds a run; cpu = at most six core-minutes; gpu = larger pictures, all losses."""
    seeds: int = 1
    """Runs of each row, with seeds 0, 1, …."""
    rows: tuple[str, ...] | None = None
    """Names of rows, such as fourier regular-narrower; None = all."""
    jobs: int = 1
    """Runs at once, one thread each."""
    compare: bool = False
    """Say of each score whether it lies in the interval of the recorded results that ship."""
    device: str | None = None
    """Where to compute; None = at scale gpu a GPU, else the CPU."""


@dataclass
class Models:
    """List the models that ship and those that can be downloaded."""


@dataclass
class Pretrain:
    """Train a small network for the perceptual loss, on built-in scenes or on labelled photographs."""

    out: Path
    """File for the weights, NAME.safetensors; a card NAME.json is written beside it."""
    pretext: Literal["segmentation", "classification"] = "segmentation"
    """Label every pixel, or say which class of scene a picture shows."""
    encoder: Literal["dilated", "undilated", "vgg", "vgg-small", "fourier"] = "dilated"
    """A small ResNet with or without dilation, a VGG, a smaller one, or a network of Fourier convolutions."""
    data: Path | None = None
    """Folder with images/ and labels/ (equal names, label pictures of one channel); None = built-in scenes."""
    ignore: int = 255
    """Label of pixels that do not count (CamVid as prepared for SegNet: 11)."""
    steps: int = 1000
    """Updates."""
    size: int = 64
    """Side of the pictures, pixels."""
    seed: int = 0
    """Seed of the weights."""
    device: str = "cpu"
    """Where to compute."""


@dataclass
class Grade:
    """Grade learners' notebooks, each exercise in a sandbox."""

    notebooks: tyro.conf.Positional[tuple[Path, ...]]
    """Notebooks, or folders of them: a folder for each learner in the folder of a class."""
    out: Path
    """Folder for class.html, a page per learner, grades.csv and report.json."""
    hidden: Path | None = None
    """Private folder with tests of your own, CHAPTER/EXERCISE.py; a public repository keeps no secret."""
    solutions: Path | None = None
    """Folder of the original notebooks; None = solutions/ of this checkout."""
    seed: int = 0
    """Draws the tests' inputs; take one that learners do not know."""
    seconds: float = 60
    """Wall-clock limit of an exercise; a notebook has ten times as much."""
    memory: float = 4
    """Limit of a learner's process, GB."""


@dataclass
class Handout:
    """Pack chapters for learners, without solutions."""

    chapters: tyro.conf.Positional[tuple[str, ...]]
    """Numbers such as 03 04; none = all."""
    out: Path
    """Folder for the zip."""


@dataclass
class NbgraderExport:
    """Lay out a course folder that nbgrader can run."""

    folder: tyro.conf.Positional[Path]
    """A new or empty folder."""
    chapters: tuple[str, ...] = ()
    """Numbers such as 03 04; none = all."""


def run_train(arguments: Train) -> None:
    """Train with a progress bar."""
    from tqdm import tqdm

    from lama_minimal.train import leave_processes, train

    settings = arguments.settings
    if arguments.data is not None:
        settings = replace(settings, data=replace(settings.data, folder="::".join(arguments.data)))
    if arguments.start is not None:
        settings = replace(settings, run=replace(settings.run, start=arguments.start))
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
    from lama_minimal.inference import (
        Inpainter,
        colour_profile,
        gather_summaries,
        inpaint_folder,
        save_image,
        this_process,
    )
    from lama_minimal.shards import is_shards

    place = arguments.device, arguments.precision, arguments.coarse_to_fine, arguments.seamless
    if Path(arguments.image).is_dir() or is_shards(arguments.image):
        if arguments.mask is not None:
            raise UserError("a folder has its masks beside the images (x.png, x_mask001.png): leave --mask out")
        rank, world = this_process()
        inpainter = Inpainter.load(arguments.model, *place)
        options = dict(strategy=arguments.strategy, refine=arguments.refine, rank=rank, world=world)
        summary = inpaint_folder(inpainter, arguments.image, arguments.out, **options)
        if (summary := gather_summaries(summary, rank, world)) is not None:
            print(summary)
        return
    if arguments.mask is None:
        raise UserError("say what to fill: add --mask with a picture that is not black in the hole")
    inpainter = Inpainter.load(arguments.model, *place)
    filled = inpainter(arguments.image, arguments.mask, strategy=arguments.strategy, refine=arguments.refine)
    inputs = (arguments.image, arguments.mask)
    save_image(filled, arguments.out, icc_profile=colour_profile(arguments.image), inputs=inputs)


def run_app(arguments: App) -> None:
    """Serve the page until Ctrl+C."""
    try:
        from lama_minimal.app import read_passwords, serve
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise UserError("the page needs Gradio: pip install 'lama-minimal[app]'") from None
    passwords = read_passwords(arguments.password_file)
    place = dict(host=arguments.host, port=arguments.port)
    serve(arguments.model, passwords, **place, device=arguments.device, precision=arguments.precision)


def run_evaluate(arguments: Evaluate) -> None:
    """Evaluate a model and print its table."""
    from lama_minimal.evaluate import evaluate_model, evaluate_protocol, protocol_table
    from lama_minimal.inference import this_process

    rank, world = this_process()
    data = None if arguments.data is None else "::".join(arguments.data)
    if arguments.protocol is not None:
        if world > 1:
            raise UserError("the protocol is carried out by one process: leave torchrun out")
        if not arguments.sizes:
            raise UserError("say at which size: --sizes 256")
        if arguments.beside:
            raise UserError("the protocol is carried out for one model at a time: leave --beside out")
        options = dict(size=arguments.sizes[0], count=arguments.count, seed=arguments.seed, device=arguments.device)
        found = evaluate_protocol(arguments.model, data, arguments.protocol, out=arguments.out, **options)
        print(protocol_table(found))
        return
    report = evaluate_model(
        arguments.model,
        data,
        arguments.masks,
        arguments.sizes,
        arguments.count,
        arguments.out,
        arguments.seed,
        device=arguments.device,
        rank=rank,
        world=world,
        beside=arguments.beside,
    )
    print(f"process {rank} of {world} has done its share" if report is None else report.table())


def run_pretrain(arguments: Pretrain) -> None:
    """Train the loss network and say how well it labels."""
    from lama_minimal.checkpoint import pick_device
    from lama_minimal.pretext import ENCODERS, folder_segmentation, pretrain, scene_classification, scene_segmentation

    if arguments.out.suffix != ".safetensors":
        raise UserError(f"weights are written as safetensors: end --out {arguments.out} in .safetensors")
    if arguments.size < 32:
        raise UserError(f"size is {arguments.size}: give at least 32 pixels")
    if arguments.data is None:
        make = scene_segmentation if arguments.pretext == "segmentation" else scene_classification
        task = make(arguments.size)
    elif arguments.pretext == "segmentation":
        task = folder_segmentation(arguments.data, arguments.ignore, arguments.size)
    else:
        raise UserError("a folder's labels are of pixels: leave --pretext classification out")
    device = pick_device(arguments.device)
    scores = pretrain(arguments.out, task, ENCODERS[arguments.encoder], arguments.steps, arguments.seed, device)
    accuracy, constant = scores.values()
    print(f"held-out examples labelled rightly: {accuracy:.1%} (always the most frequent label: {constant:.1%})")


def run_ablate(arguments: Ablate) -> None:
    """Carry out a table's runs, and print the table or the comparison."""
    from lama_minimal.ablate import RECORDED, SCALES, TABLES, ablate, compare, comparison, load_records, table

    shipped = RECORDED / arguments.scale / arguments.table
    if arguments.compare and not shipped.is_dir():
        raise UserError(f"no records of {arguments.table} at scale {arguments.scale} ship: leave --compare out")
    recorded = load_records(shipped) if arguments.compare else []
    asked = TABLES[arguments.table](SCALES[arguments.scale])
    records = ablate(
        asked,
        arguments.out,
        arguments.seeds,
        arguments.rows,
        arguments.scale,
        arguments.jobs,
        arguments.device or (None if arguments.scale == "gpu" else "cpu"),
        progress=lambda record: print(f"{record.row}, seed {record.seed}: {record.seconds:.0f} s", flush=True),
    )
    print(table(records))
    if recorded:
        print(comparison(compare(records, recorded)))
    print(f"records, table, figure and pictures: {arguments.out / arguments.table}")


def run_models(arguments: Models) -> None:
    """Print what the cards say."""
    import json

    from lama_minimal.checkpoint import GENERATOR, SHIPPED, shipped_generators
    from lama_minimal.download import PUBLISHED

    for name, card in shipped_generators().items():
        megabytes = (SHIPPED / name / GENERATOR).stat().st_size / 1e6
        default = "the default, " if name == DEFAULT_MODEL else ""
        print(f"{name}  ({default}ships, {megabytes:.1f} MB, {card['licence']})")
        print(f"    inpainting; {card['data']}")
        print(f"    {card['summary']}")
    for card in sorted(SHIPPED.glob("*.json")):
        values = json.loads(card.read_text(encoding="utf-8"))
        megabytes = card.with_suffix(".safetensors").stat().st_size / 1e6
        numbers = {name.replace("_", " "): n for name, n in values["scores"].items() if isinstance(n, int | float)}
        print(f"{card.stem}  (ships, {megabytes:.1f} MB, {values['licence']})")
        print(f"    {values['pretext']}; {values['data']}")
        print(f"    {', '.join(f'{name} {number:.3g}' for name, number in numbers.items())}")
    for name, weights in PUBLISHED.items():
        print(f"{name}  (downloaded when asked for, {weights.parameters / 1e6:.1f} M parameters, {weights.licence})")
        print(f"    {weights.page}")


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
    settings = preset("demo")
    run_train(Train(arguments.out, "demo", steps=arguments.steps, resume=resume, device="cpu", settings=settings))
    print("evaluating beside the classical methods …")
    report = evaluate_model(str(arguments.out), sizes=(64, 128), count=80, out=arguments.out, with_photographs=True)
    print(report.table())
    print(f"\nlook at {arguments.out / 'report.png'}; the numbers are in report.json beside it")


def run_grade(arguments: Grade) -> None:
    """Grade, print a line for each notebook, and write the reports."""
    from lama_minimal.grade import grade
    from lama_minimal.gradebook import write_reports

    asked = asdict(arguments)
    paths, out = asked.pop("notebooks"), asked.pop("out")
    records = []
    for record in grade(paths, private=[out], **asked):
        records.append(record)
        said = f"{record.points:g} of {record.max_points:g}" if record.chapter else ""
        why = f"  not graded: {record.reason}" if record.status != "graded" else ""
        line = f"{record.learner}  {record.chapter}  {said}{why}"
        print("".join(letter if letter.isprintable() else "?" for letter in line), flush=True)
    write_reports(records, out)
    print(f"{records[0].isolation}\nlook at {out / 'class.html'}")


def run_handout(arguments: Handout) -> None:
    """Pack."""
    from lama_minimal.handout import handout

    print(handout(arguments.chapters, arguments.out))


def run_nbgrader_export(arguments: NbgraderExport) -> None:
    """Export, and say how to go on."""
    from lama_minimal.handout import nbgrader_export

    written = nbgrader_export(arguments.folder, arguments.chapters)
    print(
        f"{len(written)} chapters; go on with: cd {arguments.folder} && nbgrader generate_assignment {written[0].stem}"
    )


COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "train": (Train, run_train),
    "inpaint": (Inpaint, run_inpaint),
    "app": (App, run_app),
    "evaluate": (Evaluate, run_evaluate),
    "demo": (Demo, run_demo),
    "ablate": (Ablate, run_ablate),
    "models": (Models, run_models),
    "pretrain": (Pretrain, run_pretrain),
    "bench": (Bench, run_bench),
    "grade": (Grade, run_grade),
    "handout": (Handout, run_handout),
    "nbgrader-export": (NbgraderExport, run_nbgrader_export),
}


def _usage() -> str:
    """What there is, a line each."""
    lines = [f"  {name:15} {kind.__doc__}" for name, (kind, _) in COMMANDS.items()]
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
    """Settings that the flags of ``train`` start from: those of the run to resume, else the preset's.

    The networks of a run that starts from a model are the model's.
    """
    saved = Path(_value_of("--out", arguments) or "") / "settings.json"
    if "--resume" in arguments and saved.exists():
        return read_settings(saved)
    settings = preset(_value_of("--preset", arguments) or "lama-fourier")
    start = _value_of("--start", arguments) or _value_of("--run.start", arguments)
    if start is None or {"-h", "--help"} & set(arguments):
        return settings
    from lama_minimal.checkpoint import adopt

    return adopt(settings, start)


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
    # Threads that wait for work soon sleep instead of spinning: on a machine whose cores are busy with something else,
    # spinning made training some thirty times slower. Not at once: a fill is many small pieces of work, and waking
    # threads for each made it a tenth slower. Both are read when PyTorch is imported, later;
    # the second by GNU's library alone.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_usage())
        return
    name = arguments[0]
    # What only fills takes its large tensors in pages of 2 MiB instead of 4 KiB, where Linux allows it: each new page
    # interrupts, and that took 6 to 9% of a fill. (Training keeps its memory, and float32 was slower with large pages.)
    if name in ("inpaint", "app", "evaluate", "bench"):
        os.environ.setdefault(LARGE_PAGES, "1")
    try:
        if name not in COMMANDS:
            raise UserError(f"unknown command {name!r}; {suggest(name, COMMANDS)}")
        COMMANDS[name][1](_parse(name, arguments[1:]))
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # whoever reads, such as head, has read enough; nothing is left to flush at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except UserError as error:
        print(f"lama-minimal: error: {error}", file=sys.stderr)
        sys.exit(2)
