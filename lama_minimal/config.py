"""Every setting, with its unit and meaning, and the presets: named, frozen values of one configuration.

This module imports nothing heavy, so that a command line can read it before it needs PyTorch.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints


class UserError(ValueError):
    """A mistake that a user can make and mend: one clear line that names the fix. The command line exits with 2."""


@dataclass(frozen=True)
class GeneratorSettings:
    """The network that fills holes."""

    convolution: Literal["fourier", "regular", "dilated"] = "fourier"
    """Convolutions of the residual blocks."""
    width: int = 64
    """Channels of the first layer, doubled at each downsampling."""
    blocks: int = 9
    """Residual blocks at the lowest resolution."""
    downsamplings: int = 3
    """How often the size is halved; sizes are multiples of 2 to this power."""
    max_channels: int = 1024
    """Upper limit of the channels."""
    global_ratio: float = 0.75
    """Share of the channels in the global (Fourier) branch, 0 to 1."""
    lfu: bool = False
    """Add local Fourier units (off in every published model)."""


@dataclass(frozen=True)
class DiscriminatorSettings:
    """The network that tells filled patches from real ones."""

    width: int = 64
    """Channels of the first layer, doubled at each next one."""
    layers: int = 4
    """Convolutions with stride 2."""
    max_channels: int = 512
    """Upper limit of the channels."""


@dataclass(frozen=True)
class PerceptualSettings:
    """The frozen network of the perceptual loss."""

    network: str = "ade20k"
    """scenes-segmentation (ships with the package), ade20k (the paper's), imagenet-resnet50, vgg19, or a file."""
    dilated: bool = True
    """Dilate a ResNet's last two stages (a high receptive field) or stride them as usual; the weights fit both."""
    batch_statistics: bool = True
    """BatchNorm uses the batch's statistics (as the paper's training did) instead of its running ones."""


@dataclass(frozen=True)
class LossSettings:
    """Weights of the losses; 0 turns a term off."""

    l1_known: float = 10.0
    """Mean absolute error on known pixels."""
    l1_hole: float = 0.0
    """Mean absolute error inside the hole (0 in the paper; small models learn faster with it)."""
    adversarial: float = 10.0
    """Generator's adversarial term."""
    feature_matching: float = 100.0
    """Distance of the discriminator's features."""
    perceptual: float = 30.0
    """High-receptive-field perceptual loss."""
    r1: float = 0.001
    """Gradient penalty of the discriminator."""
    mask_target: Literal["nearest", "any-overlap"] = "nearest"
    """Which patches of a prediction the discriminator calls fake."""


@dataclass(frozen=True)
class DataSettings:
    """What the networks see."""

    folder: str | None = None
    """Folder of images, searched recursively, or tar shards, also http(s), such as 'a/train-{000000..000999}.tar',
    several joined by '::'; None = built-in scenes only."""
    held_out: str | None = None
    """Folder or shards on which the run is evaluated; None = at most a tenth of the images above, left out there."""
    cache: float = 20.0
    """Most disk space for pieces of shards that come over http(s), GB (10^9 bytes)."""
    scenes: float = 0.0
    """Share of built-in scenes mixed into a folder's images, 0 to 1 (without a folder: all)."""
    size: int = 256
    """Side of the square training crops, pixels."""
    augmentation: Literal["paper", "perspective", "flip", "none"] = "paper"
    """The paper's geometric and colour ones, of these the perspective only, random crop and flip, or centre crops."""
    masks: Literal["wide", "narrow"] = "wide"
    """Recipe of the training masks, scaled from 256 pixels to the crop's size."""
    evaluation_images: int = 40
    """Fixed held-out images on which the run is evaluated."""
    workers: int = 2
    """Processes that prepare batches; 0 = in the training process."""


@dataclass(frozen=True)
class OptimizerSettings:
    """How weights change."""

    generator_lr: float = 1e-3
    """Adam's learning rate for the generator."""
    discriminator_lr: float = 1e-4
    """Adam's learning rate for the discriminator."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Constant as in the paper, or a cosine decay to 2% over the run."""
    clip: float = 1.0
    """Largest norm of each network's gradient; larger ones are scaled down."""
    ema: float | None = None
    """Decay of the moving average of the generator's weights, such as 0.999; None = off."""


@dataclass(frozen=True)
class RunSettings:
    """How long, how precise, how often."""

    steps: int = 1_000_000
    """Generator updates in all."""
    batch_size: int = 10
    """Images of each process and each micro-step."""
    accumulate: int = 1
    """Micro-steps whose gradients are averaged for one update."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Arithmetic of the networks; Fourier transforms, losses and the discriminator's step stay in float32."""
    reuse_prediction: bool = True
    """The discriminator judges the prediction that the generator's step made. The authors' code makes a new one, by the
    updated generator: a pass more, from which no gain was found."""
    channels_last: bool = True
    """Memory layout with channels innermost: faster, same results to rounding."""
    compile: bool = False
    """torch.compile the generator: slow first steps, faster later ones (GPU)."""
    seed: int = 0
    """Seed of weights, data and masks."""
    start: str | None = None
    """Model whose weights the run starts from (fine-tuning): as for --model; None = fresh weights."""
    warm_up: int = 500
    """Steps in which a discriminator that such a model lacks learns alone, the generator's weights frozen."""
    evaluate_every: int = 5000
    """Steps between evaluations on the fixed held-out images."""
    save_every: int = 1000
    """Steps between writings of the `last` checkpoint."""
    sample_every: int = 1000
    """Steps between grids of pictures in `samples/`."""


@dataclass(frozen=True)
class Settings:
    """A whole training run."""

    generator: GeneratorSettings = field(default_factory=GeneratorSettings)
    discriminator: DiscriminatorSettings = field(default_factory=DiscriminatorSettings)
    perceptual: PerceptualSettings = field(default_factory=PerceptualSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    data: DataSettings = field(default_factory=DataSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    run: RunSettings = field(default_factory=RunSettings)


DEFAULT_MODEL = "course"
"""The model that is used where none is named; it comes with the package."""

_PAPER = Settings()


def _variant(base: Settings = _PAPER, **parts: dict[str, Any]) -> Settings:
    """A copy of ``base`` with some fields of some parts changed."""
    return replace(base, **{name: replace(getattr(base, name), **changes) for name, changes in parts.items()})


# Small models; the README says what each one reaches. The rates were tried: for the demo's 1,000 steps a rate of 1e-3
# is better than 2e-3, and 4e-3 is too fast.
_SMALL = _variant(
    generator=dict(width=24, blocks=4, downsamplings=2),
    discriminator=dict(width=32, layers=3),
    perceptual=dict(network="scenes-segmentation"),
    data=dict(size=64, augmentation="flip", workers=0),
    optimizer=dict(generator_lr=2e-3, discriminator_lr=4e-4, schedule="cosine"),
    run=dict(batch_size=16),
)

PRESETS: dict[str, Settings] = {
    "lama-fourier": _PAPER,
    "big-lama": _variant(generator=dict(blocks=18), run=dict(batch_size=15)),
    "lama-regular": _variant(generator=dict(convolution="regular")),
    "lama-dilated": _variant(generator=dict(convolution="dilated")),
    # one GPU; untried so far
    "gpu": _variant(
        generator=dict(width=48, blocks=6),
        discriminator=dict(width=48),
        perceptual=dict(network="scenes-segmentation"),
        data=dict(workers=8),
        optimizer=dict(ema=0.999, schedule="cosine"),
        run=dict(steps=60_000, batch_size=32, precision="bfloat16", evaluate_every=2000),
    ),
    # two CPU cores, about an hour, all five losses
    "cpu": _variant(
        _SMALL,
        loss=dict(l1_known=2.0, l1_hole=10.0, adversarial=0.3, feature_matching=2.0, perceptual=0.1),
        run=dict(steps=4500, evaluate_every=250, save_every=250, sample_every=500),
    ),
    # two CPU cores, five minutes, L1 only: `make demo`
    "demo": _variant(
        _SMALL,
        loss=dict(l1_known=2.0, l1_hole=10.0, adversarial=0.0, feature_matching=0.0, perceptual=0.0, r1=0.0),
        optimizer=dict(generator_lr=1e-3),
        run=dict(steps=1000, evaluate_every=250, save_every=250, sample_every=250),
    ),
}  # fmt: skip


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, or all of them."""
    known = list(known)
    near = get_close_matches(str(name), known, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"


def preset(name: str) -> Settings:
    """The preset of this name.

    Raises:
        UserError: no such preset.
    """
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}; {suggest(name, PRESETS)}")
    return PRESETS[name]


def from_dict(values: Any, kind: type = Settings, where: str = "") -> Any:
    """Settings from nested plain values; fields left out keep their defaults.

    Raises:
        UserError: a field that does not exist, with the nearest one that does, or a value of another type.
    """
    if not isinstance(values, dict):
        raise UserError(f"settings {where.rstrip('.') or 'as a whole'}: expected names and values, found {values!r}")
    hints = get_type_hints(kind)
    parts = {}
    for name, value in values.items():
        if name not in hints:
            raise UserError(f"unknown setting {where}{name}; {suggest(name, hints)}")
        if is_dataclass(hints[name]):
            parts[name] = from_dict(value, hints[name], f"{where}{name}.")
        else:
            _check_type(where + name, value, hints[name])
            parts[name] = value
    return kind(**parts)


def _check_type(name: str, value: Any, hint: Any) -> None:
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise UserError(f"setting {name} cannot be {value!r}; {suggest(value, get_args(hint))}")
        return
    allowed = get_args(hint) or (hint,)
    whole_for_real = float in allowed and isinstance(value, int) and not isinstance(value, bool)
    if type(value) not in allowed and not whole_for_real:
        raise UserError(f"setting {name} cannot be {value!r}: expected {getattr(hint, '__name__', hint)}")


def read_settings(path: Path) -> Settings:
    """The settings saved with a run.

    Raises:
        UserError: unreadable, or not settings of this version.
    """
    try:
        return from_dict(json.loads(path.read_text()))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): start again in another folder") from error


def check(settings: Settings) -> None:
    """Check the ranges of settings that a training run depends on.

    Raises:
        UserError: the first one that is out of its range.
    """
    multiple = 2**settings.generator.downsamplings
    reach = 8 if settings.generator.convolution == "dilated" else 1
    least = max(16, (reach + 1) * multiple)
    run, data, generator = settings.run, settings.data, settings.generator
    at_least_one = {f"run.{name}": getattr(run, name) for name in ("steps", "batch_size", "accumulate")}
    at_least_one |= {f"run.{name}": getattr(run, name) for name in ("evaluate_every", "save_every", "sample_every")}
    at_least_one |= {"data.evaluation_images": data.evaluation_images, "generator.width": generator.width}
    at_least_one |= {"generator.blocks": generator.blocks, "generator.downsamplings": generator.downsamplings}
    for name, value in at_least_one.items():
        if value < 1:
            raise UserError(f"{name} is {value}: give at least 1")
    if data.size % multiple or data.size < least:
        raise UserError(f"data.size is {data.size}: give a multiple of {multiple} of at least {least} pixels")
    shares = {"data.scenes": data.scenes, "generator.global_ratio": generator.global_ratio}
    shares["optimizer.ema"] = settings.optimizer.ema or 0.0
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise UserError(f"{name} is {value}: give a number from 0 to 1")
    weights = {f"loss.{f.name}": getattr(settings.loss, f.name) for f in fields(LossSettings) if f.type is float}
    at_least_zero = {"data.workers": data.workers, "run.seed": run.seed, "run.warm_up": run.warm_up, **weights}
    for name, value in at_least_zero.items():
        if value < 0:
            raise UserError(f"{name} is {value}: give 0 or more")
