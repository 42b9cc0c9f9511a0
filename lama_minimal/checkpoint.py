"""Checkpoints: one object owns all that a training run needs to go on, and is written so that nothing is ever lost.

A checkpoint is a folder: ``generator.safetensors`` (what ``--model`` takes) with its architecture in
``generator.json``, ``training.safetensors`` (the rest that resuming needs) and ``state.json`` (step, settings,
digests).
Weights are plain arrays: nothing that is read here can run code.
"""

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lama_minimal.authors import load_authors_generator, load_authors_networks, load_perceptual, load_reference
from lama_minimal.config import DEFAULT_MODEL, DiscriminatorSettings, GeneratorSettings, Settings, UserError, from_dict
from lama_minimal.download import PUBLISHED
from lama_minimal.models import Discriminator, FourierGenerator, Generator, ParallelConv, build_generator
from lama_minimal.perceptual import PerceptualNetwork, ResNetEncoder, build_encoder

__all__ = ["TrainingState", "load_generator", "load_loss_network", "load_reference", "save_generator"]

GENERATOR, ARCHITECTURE = "generator.safetensors", "generator.json"
TRAINING, STATE = "training.safetensors", "state.json"
SHIPPED = Path(__file__).parent / "weights"
"""Weights that come with the package: loss networks, ``NAME.safetensors`` with a card ``NAME.json``, and generators,
folders ``NAME`` whose ``generator.json`` holds the card."""


@dataclass
class TrainingState:
    """Everything that changes while training, and the frozen perceptual network beside it."""

    settings: Settings
    generator: Generator
    discriminator: Discriminator | None
    perceptual: PerceptualNetwork | None
    generator_optimizer: Adam
    discriminator_optimizer: Adam | None
    average: AveragedModel | None
    scaler: torch.amp.GradScaler | None
    step: int = 0
    """Updates made."""
    position: int = 0
    """Samples that all processes have taken so far; with the seed, the position in the data."""
    warm_up: int = 0
    """Steps, of the first ones, in which only the discriminator learns."""
    best_error: float = float("inf")
    """Lowest error on the fixed held-out images so far."""

    @classmethod
    def create(cls, settings: Settings, device: torch.device) -> "TrainingState":
        """Networks and what goes with them; unused parts are ``None``.

        Weights are fresh, drawn from the seed, or those of ``settings.run.start``.

        Raises:
            UserError: there is no such model, or its networks are not those of the settings.
        """
        torch.manual_seed(settings.run.seed)
        loss, optimizer = settings.loss, settings.optimizer
        memory_format = torch.channels_last if settings.run.channels_last else torch.contiguous_format

        def place(network: nn.Module) -> nn.Module:
            return network.to(device, memory_format=memory_format)

        def adam(network: nn.Module, learning_rate: float) -> Adam:
            return Adam(network.parameters(), lr=learning_rate, fused=True)

        generator = place(build_generator(**asdict(settings.generator))).train()
        judged = loss.adversarial > 0 or loss.feature_matching > 0
        discriminator = place(Discriminator(**asdict(settings.discriminator))).train() if judged else None
        warm_up = 0
        if settings.run.start is not None:
            warm_up = 0 if _start(settings.run.start, generator, discriminator) else settings.run.warm_up
        perceptual = None
        if loss.perceptual > 0:
            perceptual = place(load_loss_network(**asdict(settings.perceptual)))
            perceptual.compute_in(getattr(torch, settings.run.precision))
        average = None
        if optimizer.ema is not None:
            average = AveragedModel(generator, multi_avg_fn=get_ema_multi_avg_fn(optimizer.ema), use_buffers=True)
        return cls(
            settings=settings,
            generator=generator,
            discriminator=discriminator,
            perceptual=perceptual,
            generator_optimizer=adam(generator, optimizer.generator_lr),
            discriminator_optimizer=adam(discriminator, optimizer.discriminator_lr) if judged else None,
            average=average,
            scaler=torch.amp.GradScaler(device.type) if settings.run.precision == "float16" else None,
            warm_up=warm_up,
        )

    @property
    def best_generator(self) -> Generator:
        """The weights to use: the moving average where there is one."""
        return self.generator if self.average is None else self.average.module

    def save(self, folder: Path) -> None:
        """Write the whole state to ``folder``, or leave what was there.

        Raises:
            UserError: it cannot be written (a full disk, say).
        """
        tensors = {"random.cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        if self.average is not None:
            tensors |= _prefixed("generator", self.generator.state_dict())
            tensors["average.n_averaged"] = self.average.n_averaged
        if self.discriminator is not None:
            tensors |= _prefixed("discriminator", self.discriminator.state_dict())
            tensors |= _optimizer_tensors("discriminator_optimizer", self.discriminator_optimizer)
        tensors |= _optimizer_tensors("generator_optimizer", self.generator_optimizer)
        state = {
            "step": self.step,
            "position": self.position,
            "warm_up": self.warm_up,
            "best_error": self.best_error,
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "settings": asdict(self.settings),
        }
        with _AtomicFolder(folder) as new:
            more = {"training_size": self.settings.data.size, "step": self.step}
            _write_generator(self.best_generator, self.settings.generator, new, more)
            _write_tensors(tensors, new / TRAINING)
            state["sha256"] = {name: _digest(new / name) for name in (GENERATOR, TRAINING)}
            _write_json(state, new / STATE)

    def load(self, folder: Path) -> None:
        """Take over the state in ``folder``.

        Raises:
            UserError: no checkpoint there, or it is damaged, or of other settings.
        """
        folder = find(folder)
        state = _read_json(folder / STATE)
        digests = state.get("sha256") or {}
        for name in (GENERATOR, TRAINING):
            if not (folder / name).is_file() or _digest(folder / name) != digests.get(name):
                raise UserError(f"{folder / name} is damaged (not what was saved): resume from another checkpoint")
        check_same_parts(from_dict(state["settings"]), self.settings)
        tensors, weights = _read_tensors(folder / TRAINING), _read_tensors(folder / GENERATOR)
        self.best_generator.load_state_dict(weights)
        if self.average is not None:
            self.generator.load_state_dict(_unprefixed("generator", tensors))
            self.average.n_averaged.copy_(tensors["average.n_averaged"])
        if self.discriminator is not None:
            self.discriminator.load_state_dict(_unprefixed("discriminator", tensors))
            _load_optimizer("discriminator_optimizer", self.discriminator_optimizer, tensors)
        _load_optimizer("generator_optimizer", self.generator_optimizer, tensors)
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(tensors["random.cpu"])
        if "random.cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["random.cuda"])
        self.step, self.best_error, self.warm_up = state["step"], state["best_error"], state.get("warm_up", 0)
        run = self.settings.run
        self.position = state.get("position", self.step * run.accumulate * run.batch_size)


def save_generator(
    generator: Generator, settings: GeneratorSettings, folder: Path, card: dict[str, Any] | None = None
) -> None:
    """Write a generator alone, as ``load_generator`` reads it.

    Args:
        generator: the network.
        settings: what it was built from.
        folder: is replaced.
        card: what a stranger should know of it (data, steps, scores, licence …); with a card, weights are written in
            float16, half as large, for models that are passed on.
    """
    with _AtomicFolder(folder) as new:
        _write_generator(generator, settings, new, {} if card is None else {"card": card}, half=card is not None)


def shipped_generators() -> dict[str, dict[str, Any]]:
    """Names and cards of the generators that come with the package."""
    descriptions = {path.parent.name: _read_json(path) for path in sorted(SHIPPED.glob(f"*/{ARCHITECTURE}"))}
    cards = {name: values["card"] | {"size": values["training_size"]} for name, values in descriptions.items()}
    return dict(sorted(cards.items(), key=lambda named: named[0] != DEFAULT_MODEL))


def load_generator(model: str | Path) -> Generator:
    """A generator in evaluation mode, on the CPU.

    Args:
        model: a folder of a run (its ``last`` is taken), of a checkpoint, a ``generator.safetensors``, a checkpoint of
            the authors (file or folder), or a name: of a model that comes with the package, such as ``course``, or of
            published weights, such as ``big-lama``.

    Raises:
        UserError: nothing of the kind, or a damaged file.
    """
    ours, place = _locate(model)
    return _read_generator(place) if ours else load_authors_generator(place)


def _locate(model: str | Path) -> tuple[bool, Path | str]:
    """Whether a model is a checkpoint of this package, and its folder; else what the authors' loader takes.

    Raises:
        UserError: there is none.
    """
    path = Path(model)
    if not path.exists() and str(model) in PUBLISHED:
        return False, str(model)
    if not path.exists() and (SHIPPED / path / GENERATOR).is_file():
        path = SHIPPED / path
    if path.name == GENERATOR:
        path = path.parent
    for folder in (find(path / "last"), find(path)):
        if (folder / GENERATOR).is_file():
            return True, folder
    if (path / "settings.json").exists() and (path / "samples").exists():
        raise UserError(f"{path} is a run that has not saved anything yet: train on with --resume")
    if path.exists():
        return False, path
    names = ", ".join([*shipped_generators(), *PUBLISHED])
    raise UserError(f"no model {str(model)!r}: give a run's folder, a checkpoint, or one of the names {names}")


# -------------------------------------------------------------------------------------------------------- fine-tuning


def load_networks(model: str | Path) -> tuple[Generator, Discriminator | None]:
    """A generator, and the discriminator that was trained with it where there is one; on the CPU.

    Args:
        model: as for :func:`load_generator`.

    Raises:
        UserError: nothing of the kind, or a damaged file.
    """
    ours, place = _locate(model)
    if not ours:
        return load_authors_networks(place)
    generator = _read_generator(place)
    weights = {}
    if (place / TRAINING).is_file():
        weights = _unprefixed("discriminator", _read_tensors(place / TRAINING))
    if not weights:
        return generator, None
    discriminator = Discriminator(**asdict(from_dict(_read_json(place / STATE)["settings"]).discriminator))
    discriminator.load_state_dict(weights)
    return generator, discriminator


def adopt(settings: Settings, model: str | Path) -> Settings:
    """Settings with the networks of a model, for a run that starts from it; ``run.start`` names it.

    Raises:
        UserError: as :func:`load_networks`.
    """
    generator, discriminator = load_networks(model)
    settings = replace(settings, generator=_architecture(generator), run=replace(settings.run, start=str(model)))
    if discriminator is None:
        return settings
    channels = [stage[0].out_channels for stage in discriminator.stages]
    judge = DiscriminatorSettings(channels[0], len(channels) - 1, max(channels[-1], channels[0]))
    return replace(settings, discriminator=judge)


def _architecture(generator: Generator) -> GeneratorSettings:
    """The settings that build a generator of these shapes."""
    first, channels = next(generator.encoder.parameters()), generator.decoder[0][0].in_channels
    common = dict(width=first.shape[0], blocks=len(generator.trunk), max_channels=channels)
    if isinstance(generator, FourierGenerator):
        norm = generator.split.global_norm
        share = 0.0 if norm is None else norm.num_features / channels
        lfu = any("local_fourier_unit" in name for name, _ in generator.named_parameters())
        return GeneratorSettings("fourier", downsamplings=len(generator.encoder), global_ratio=share, lfu=lfu, **common)
    parallel = next(len(module.convs) for module in generator.modules() if isinstance(module, ParallelConv))
    kind = "dilated" if parallel > 1 else "regular"
    return GeneratorSettings(kind, downsamplings=len(generator.encoder) - 1, **common)


def _start(model: str, generator: Generator, discriminator: Discriminator | None) -> bool:
    """Give networks the weights of a model; return whether none of them is left with fresh weights.

    Raises:
        UserError: the networks are others than the model's.
    """
    given = load_networks(model)
    for name, theirs, ours in zip(("generator", "discriminator"), given, (generator, discriminator), strict=True):
        if theirs is None or ours is None:
            continue
        weights, fresh = theirs.state_dict(), ours.state_dict()
        shapes, expected = ({key: value.shape for key, value in state.items()} for state in (weights, fresh))
        if shapes != expected:
            raise UserError(
                f"the {name} of {model} is another than that of the settings: leave its settings out, they come from "
                "the model (in Python: lama_minimal.checkpoint.adopt)"
            )
        ours.load_state_dict(weights)
    return discriminator is None or given[1] is not None


def load_loss_network(network: str, dilated: bool = True, batch_statistics: bool = True) -> PerceptualNetwork:
    """The frozen network of a perceptual loss.

    Args:
        network: name of one that ships with the package (``scenes-segmentation``) or is published (``ade20k``, trained
            to segment; ``imagenet-resnet50``, to classify; ``vgg19``), or a file, in one of the authors' formats or as
            :mod:`~lama_minimal.pretext` writes it.
        dilated: dilate a ResNet's last two stages (a high receptive field), or stride them.
        batch_statistics: as in :class:`~lama_minimal.perceptual.PerceptualNetwork`.

    Raises:
        UserError: nothing of that name, or a damaged file.
    """
    shipped = SHIPPED / f"{network}.safetensors"
    path = shipped if shipped.is_file() else Path(network)
    card = path.with_suffix(".json")
    if not (path.suffix == ".safetensors" and path.is_file() and card.is_file()):
        encoder = load_perceptual(network, batch_statistics).encoder
    else:
        encoder = build_encoder(_read_json(card)["encoder"])
        encoder.load_state_dict({key: tensor.float() for key, tensor in _read_tensors(path).items()})
    if isinstance(encoder, ResNetEncoder):
        encoder = encoder.with_dilation(dilated)
    return PerceptualNetwork(encoder, batch_statistics)


def pick_device(device: str | torch.device | None) -> torch.device:
    """The device of this name; ``None`` = a GPU if there is one (under torchrun, this process's own), else the CPU.

    Raises:
        UserError: there is no such device here.
    """
    if device is None:
        if torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
            return torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"no device {device!r} here ({reason}): use cpu, cuda or cuda:1, or leave it out") from error
    return place


def check_same_parts(before: Settings, now: Settings) -> None:
    """Check that a run's state fits settings: the same networks, and the same things beside them.

    Raises:
        UserError: the first difference, by name.
    """

    def parts(settings: Settings) -> dict[str, Any]:
        judged = settings.loss.adversarial > 0 or settings.loss.feature_matching > 0
        return {
            "generator": settings.generator,
            "model to start from (run.start)": settings.run.start,
            "a discriminator (loss.adversarial or loss.feature_matching)": judged and settings.discriminator,
            "a moving average (optimizer.ema)": settings.optimizer.ema is not None,
            "float16 (run.precision)": settings.run.precision == "float16",
        }

    ours = parts(now)
    for name, value in parts(before).items():
        if value != ours[name]:
            raise UserError(f"the run was started with another {name.removeprefix('a ')}: resume it as it was")


def find(folder: Path) -> Path:
    """Where the contents of ``folder`` are, if its replacement was interrupted, or is under way; see _AtomicFolder."""
    new, old = _beside(folder, "new"), _beside(folder, "old")
    if folder.exists() or not old.exists():
        return folder
    return new if new.exists() else old


class _AtomicFolder:
    """A folder that is replaced whole or not at all, even if the process is killed or the disk is full.

    All is written and flushed to ``NAME.new``; then ``NAME`` becomes ``NAME.old`` and ``NAME.new`` becomes ``NAME``.
    A process killed in between leaves no ``NAME``, but a complete ``NAME.new``, which readers :func:`find` and the next
    writer puts in place.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.new, self.old = folder, _beside(folder, "new"), _beside(folder, "old")

    def __enter__(self) -> Path:
        try:
            if (left := find(self.folder)) != self.folder:
                left.rename(self.folder)
            shutil.rmtree(self.new, ignore_errors=True)
            self.new.mkdir(parents=True)
        except OSError as error:
            raise UserError(f"cannot write {self.folder}: {error.strerror}") from error
        return self.new

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            _flush(self.new)
            shutil.rmtree(self.old, ignore_errors=True)
            if self.folder.exists():
                self.folder.rename(self.old)
            self.new.rename(self.folder)
            _flush(self.folder.parent)
            shutil.rmtree(self.old, ignore_errors=True)
            return
        shutil.rmtree(self.new, ignore_errors=True)
        if isinstance(error, OSError | SafetensorError):
            raise UserError(f"cannot write {self.folder}: {error}; what was saved before is untouched") from error


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(f"{folder.name}.{suffix}")


def _flush(path: Path) -> None:
    """Have the operating system put a file's or folder's contents on the disk, where it can."""
    if os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    _flush(path)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is damaged or no safetensors file: {error}") from error


def _write_json(values: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")
    _flush(path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
        if not isinstance(values, dict):
            raise ValueError("no table of names and values")
        return values
    except FileNotFoundError:
        raise UserError(f"no checkpoint at {path.parent}: {path.name} is not there") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}") from error


def _write_generator(
    generator: Generator, settings: GeneratorSettings, folder: Path, more: dict[str, Any], half: bool = False
) -> None:
    weights = generator.state_dict()
    if half:  # not the running statistics, which may leave float16's range
        weights |= {name: weight.half() for name, weight in generator.named_parameters()}
    _write_tensors(weights, folder / GENERATOR)
    digest = _digest(folder / GENERATOR)
    use = {name: getattr(generator, name) for name in ("training_size", "coarse_to_fine", "seamless")}
    description = {"generator": asdict(settings), **use, "sha256": digest}
    _write_json(description | more, folder / ARCHITECTURE)


def _read_generator(folder: Path) -> Generator:
    description = _read_json(folder / ARCHITECTURE)
    weights = _read_tensors(folder / GENERATOR)
    if description.get("sha256") != _digest(folder / GENERATOR):
        raise UserError(
            f"{folder / GENERATOR} is not the file that {ARCHITECTURE} beside it describes: copy both again"
        )
    generator = build_generator(**asdict(from_dict(description.get("generator"), GeneratorSettings)))
    try:
        generator.load_state_dict({name: weight.float() for name, weight in weights.items()})  # may be half on disk
    except RuntimeError as error:
        raise UserError(f"{folder / GENERATOR} does not fit {ARCHITECTURE}: {str(error).splitlines()[-1]}") from error
    generator.training_size = int(description.get("training_size", generator.training_size))
    generator.coarse_to_fine = bool(description.get("coarse_to_fine", generator.coarse_to_fine))
    generator.seamless = bool(description.get("seamless", generator.seamless))
    return generator.eval()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _unprefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {name[len(start) :]: tensor for name, tensor in tensors.items() if name.startswith(start)}


def _optimizer_tensors(prefix: str, optimizer: Adam) -> dict[str, Tensor]:
    """Adam's moments and step counts, by parameter number; its groups follow from the settings."""
    states = optimizer.state_dict()["state"]
    return {f"{prefix}.{index}.{name}": value for index, state in states.items() for name, value in state.items()}


def _load_optimizer(prefix: str, optimizer: Adam, tensors: dict[str, Tensor]) -> None:
    states: dict[int, dict[str, Tensor]] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, value in _unprefixed(prefix, tensors).items():
        index, field = name.split(".")
        if field != "step":  # moments lie in memory as their parameter does
            value = torch.empty_like(parameters[int(index)]).copy_(value)
        states.setdefault(int(index), {})[field] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": states})
