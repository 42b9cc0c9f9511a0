"""Networks for the perceptual loss, trained on the built-in scenes or on labelled photographs: minutes on a CPU.

The paper takes a network that learned to *segment* (Section 2.2): to label each pixel it had to see far and keep
places apart; one that learned to *classify* the whole picture did not. The built-in scenes come with both kinds of
labels, so small ones of both kinds can be trained anywhere, with equal networks and equal budgets.

Shape letters: B batch, S the pictures' side, K labels; a label is a number below K, or ``IGNORED``.
"""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from lama_minimal.config import UserError
from lama_minimal.perceptual import IMAGENET_MEAN, IMAGENET_STD, Encoder, VGG19Encoder, build_encoder
from lama_minimal.scenes import LABELS, SCENE_CLASSES, draw_scene

ENCODERS: dict[str, dict[str, Any]] = {
    "dilated": {
        "blocks": [2, 2, 2, 2], "bottleneck": False, "width": 32, "stem_channels": [32, 32, 64], "dilated": True,
    },
    "undilated": {
        "blocks": [2, 2, 2, 2], "bottleneck": False, "width": 32, "stem_channels": [32, 32, 64], "dilated": False,
    },
    "vgg": {"stages": [[32, 2], [64, 2], [128, 3], [256, 3], [256, 1]]},
    "vgg-small": {"stages": [[24, 1], [48, 1], [96, 2], [192, 2]]},
    "fourier": {"width": 48, "blocks": [2, 2, 3], "global_ratio": 0.75},
}  # fmt: skip
"""Shapes of small encoders: a ResNet18 at half the width, dilated or not (2.8 M numbers), a VGG-like one (2.4 M), and
one of Fourier convolutions (2.8 M), each below 6 MB in half precision; and a smaller VGG (0.6 M)."""

PRETEXT_SCENES = 2
"""First number of these scenes' seeds, so that they are not those of training (0) or evaluation (1)."""

IGNORED = -100
"""The label that no loss and no score sees."""

HELD_OUT = 8
"""Batches that training never sees, on which it is scored."""

Examples = tuple[Tensor, Tensor]
"""Pictures (B, 3, S, S) in [0, 1], and their labels: (B, S, S) one a pixel, or (B,) one a picture."""


# ---------------------------------------------------------------------------------------------------------- examples


@dataclass(frozen=True)
class Task:
    """Something to learn: endless batches of labelled pictures, of which the first ``HELD_OUT`` are a test."""

    batches: Iterator[Examples]
    labels: int
    """K."""
    pretext: str
    """What is learned, in words, for the card."""
    data: str
    """What it is learned from, in words."""
    flags: tuple[str, ...] = ()
    """What the command needs beyond its defaults to do the same."""
    licence: str = "Apache-2.0"
    """Terms of the weights, which follow from those of the pictures."""


def scene_segmentation(size: int = 64, batch_size: int = 16) -> Task:
    """Label every pixel of a built-in scene: sky, brick, window, ….

    Args:
        size: side of the scenes, pixels.
        batch_size: scenes in a batch.
    """
    pretext = f"segmentation into {len(LABELS)} labels"
    return Task(_scenes(size, batch_size, whole=False), len(LABELS), pretext, f"built-in scenes at {size} pixels")


def scene_classification(size: int = 64, batch_size: int = 16) -> Task:
    """Say which class of scene a picture shows: bricks, fence, hills, …. The arguments are those of the other task."""
    pretext = f"classification into {len(SCENE_CLASSES)} scene classes"
    batches = _scenes(size, batch_size, whole=True)
    return Task(
        batches, len(SCENE_CLASSES), pretext, f"built-in scenes at {size} pixels", ("--pretext classification",)
    )


def _scenes(size: int, batch_size: int, whole: bool) -> Iterator[Examples]:
    """The same scenes for both pretexts; ``whole``: one label a picture."""
    for first in count(0, batch_size):
        scenes = [draw_scene((PRETEXT_SCENES, first + n), size) for n in range(batch_size)]
        images = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2) / 255
        if whole:
            labels = torch.tensor([SCENE_CLASSES.index(scene.scene_class) for scene in scenes])
        else:
            labels = torch.from_numpy(np.stack([scene.labels for scene in scenes])).long()
        yield images, labels


def folder_segmentation(
    folder: str | Path, ignore: int | None = 255, size: int = 64, batch_size: int = 16, seed: int = 0
) -> Task:
    """Label every pixel of photographs, as CamVid, Cityscapes or ADE20K are laid out.

    Args:
        folder: holds ``images/`` and ``labels/`` with pictures of equal stems; a label picture has one channel, whose
            values are the labels. A tenth of the pictures, at least one, is held out.
        ignore: label of pixels that count for nothing; ``None`` = every pixel counts.
        size: side of the random crops, pixels; they show a quarter to all of the shorter side, half of them mirrored.
        batch_size: crops in a batch.
        seed: of choice and crops.

    Raises:
        UserError: no such folders, a picture without labels, or labels that are no such picture.
    """
    pairs = _pairs(Path(folder))
    labels = 1 + max(_most_label(path, ignore) for _, path in pairs)
    if labels < 2:
        raise UserError(f"{folder}: the label pictures hold one label only, there is nothing to learn")
    order = np.random.default_rng((seed, 0)).permutation(len(pairs))
    tenth = max(1, len(pairs) // 10)
    held_out, rest = ([pairs[index] for index in part] for part in (order[:tenth], order[tenth:]))

    def batches() -> Iterator[Examples]:
        for batch in count():
            rng = np.random.default_rng((seed, 1, batch))
            files = held_out if batch < HELD_OUT else rest or held_out
            chosen = [files[index] for index in rng.integers(len(files), size=batch_size)]
            crops = [_crop(*pair, ignore, size, rng) for pair in chosen]
            images = torch.from_numpy(np.stack([image for image, _ in crops])).permute(0, 3, 1, 2) / 255
            yield images, torch.from_numpy(np.stack([label for _, label in crops])).long()

    name = Path(*Path(folder).resolve().parts[-2:]).as_posix()
    data = f"{len(rest)} labelled photographs of {name}, crops of {size} pixels"
    flags = (f"--data {name}", f"--ignore {ignore}")
    licence = "that of the photographs and their labels"
    return Task(batches(), labels, f"segmentation into {labels} labels", data, flags, licence)


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Pictures and their label pictures, by stem."""
    images, labels = (
        {path.stem: path for path in sorted((folder / name).glob("*.*"))} for name in ("images", "labels")
    )
    if not images or not labels:
        raise UserError(f"{folder} must hold images/ and labels/ with pictures of equal stems")
    if lacking := sorted(images.keys() - labels.keys()):
        raise UserError(f"{folder}/labels lacks {lacking[0]} ({len(lacking)} in all): every image needs its labels")
    return [(path, labels[stem]) for stem, path in images.items()]


def _read(path: Path, mode: str | None = None) -> np.ndarray:
    """A picture's pixels in Pillow's ``mode``; ``None`` = as they are, one channel."""
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture if mode is None else picture.convert(mode))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}): save or copy it again") from error
    if mode is None and pixels.ndim != 2:
        raise UserError(f"{path} has colours: a label picture has one channel, whose values are the labels")
    return pixels


def _read_labels(path: Path, ignore: int | None) -> np.ndarray:
    labels = _read(path).astype(np.int32)
    return labels if ignore is None else np.where(labels == ignore, IGNORED, labels)


def _most_label(path: Path, ignore: int | None) -> int:
    return int(_read_labels(path, ignore).max())


def _crop(
    image: Path, labels: Path, ignore: int | None, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A random square of a picture, (S, S, 3) uint8, and of its labels, (S, S)."""
    pixels, numbers = _read(image, "RGB"), _read_labels(labels, ignore)
    if pixels.shape[:2] != numbers.shape:
        raise UserError(f"{labels} is {numbers.shape[::-1]} pixels, its image {pixels.shape[1::-1]}: make them equal")
    shorter = min(numbers.shape)
    window = int(rng.integers(max(1, shorter // 4), shorter, endpoint=True))
    top, left = (int(rng.integers(side - window, endpoint=True)) for side in numbers.shape)
    pixels, numbers = (array[top : top + window, left : left + window] for array in (pixels, numbers))
    smoothing = cv2.INTER_AREA if window > size else cv2.INTER_CUBIC
    pixels = cv2.resize(pixels, (size, size), interpolation=smoothing)
    numbers = cv2.resize(numbers, (size, size), interpolation=cv2.INTER_NEAREST)
    if rng.random() < 0.5:
        pixels, numbers = pixels[:, ::-1], numbers[:, ::-1]
    return pixels, numbers


# ---------------------------------------------------------------------------------------------------------- training


def pretrain(
    out: Path,
    task: Task,
    shape: Mapping[str, Any] = ENCODERS["dilated"],
    steps: int = 1000,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Train an encoder and a linear head on a task; write the encoder's weights (float16) and a card.

    Args:
        out: ``NAME.safetensors``; ``NAME.json`` is written beside it.
        task: what to learn; labels of whole pictures are learned from the mean of the head's answers.
        shape: the encoder's arguments, such as one of :data:`ENCODERS`.
        steps: updates, at least 1.
        seed: of the weights.
        device: where to compute.

    Returns:
        Accuracy on held-out examples, and the share of the most frequent label, which a constant guess would get.

    Raises:
        UserError: no steps asked for, or pictures and labels that cannot be read.
    """
    if steps < 1:
        raise UserError(f"steps is {steps}: give at least 1")
    torch.manual_seed(seed)
    encoder = _fresh(shape).to(device, memory_format=torch.channels_last)
    head = nn.Conv2d(encoder.channels, task.labels, kernel_size=1).to(device)
    learning_rate = 1e-3 if isinstance(encoder, VGG19Encoder) else 2e-3  # without BatchNorm 2e-3 is too fast
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=learning_rate, total_steps=steps)
    began = time.time()
    held_out = list(islice(task.batches, HELD_OUT))
    batch_size, size = held_out[0][0].shape[0], held_out[0][0].shape[-1]
    whole = held_out[0][1].ndim == 1

    def logits(images: Tensor) -> Tensor:
        """(B, K, S, S), or (B, K) for labels of whole pictures."""
        deep = head(encoder(_normalised(images.to(device)))[-1])
        if whole:
            return deep.mean(dim=(2, 3))
        return F.interpolate(deep, size=images.shape[-2:], mode="bilinear", align_corners=False)

    for images, labels in tqdm(islice(task.batches, steps), total=steps, desc=task.pretext):
        loss = F.cross_entropy(logits(images), labels.to(device), ignore_index=IGNORED)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    encoder.eval()
    with torch.no_grad():
        guesses = torch.cat([logits(images).argmax(1).cpu() for images, _ in held_out])
    scores = _score(guesses, torch.cat([labels for _, labels in held_out]), "accuracy" if whole else "pixel_accuracy")
    seconds = round(time.time() - began)
    place = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "CPU"
    weights = {name: t.half().contiguous() if t.is_floating_point() else t for name, t in encoder.state_dict().items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.cpu() for name, tensor in weights.items()}, out)
    card = {
        "encoder": dict(shape),
        "data": f"{task.data}, {steps} steps of {batch_size} pictures",
        "command": _command(out, task, shape, steps, size, seed),
        "pretext": task.pretext,
        "scores": scores,
        "seconds": seconds,
        "device": place,
        "seed": seed,
        "licence": task.licence,
    }
    out.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")
    return scores


def _command(out: Path, task: Task, shape: Mapping[str, Any], steps: int, size: int, seed: int) -> str:
    """What to type for the same weights; defaults are left out."""
    name = next((name for name, known in ENCODERS.items() if known == shape), None)
    if name is None:
        return "lama_minimal.pretext.pretrain, in Python"
    flags = {"encoder": (name, "dilated"), "size": (size, 64), "seed": (seed, 0)}
    said = [f"--{flag} {value}" for flag, (value, default) in flags.items() if value != default]
    return " ".join(["lama-minimal pretrain", *task.flags, *said, f"--steps {steps} --out {out.name}"])


def _fresh(shape: Mapping[str, Any]) -> Encoder:
    """An encoder with random weights; without BatchNorm they must keep the size of what passes (He et al. 2015)."""
    encoder = build_encoder(shape)
    if isinstance(encoder, VGG19Encoder):
        for conv in encoder.convs:
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)
    return encoder


def _normalised(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


def _score(guesses: Tensor, truth: Tensor, name: str) -> dict[str, float]:
    """Share of right labels, and that of a constant guess, among those that count."""
    counts = truth != IGNORED
    guesses, truth = guesses[counts], truth[counts]
    right = (guesses == truth).float().mean().item()
    return {name: right, "constant_guess": (truth.bincount().max() / truth.numel()).item()}
