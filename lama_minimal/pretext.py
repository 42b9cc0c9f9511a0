"""Networks for the perceptual loss, trained on the built-in scenes: no download, a few minutes on a CPU.

The paper takes a network that learned to *segment* (Section 2.2): to label each pixel it had to see far and keep
places apart. The built-in scenes come with such labels, so a small one can be trained anywhere.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from lama_minimal.perceptual import IMAGENET_MEAN, IMAGENET_STD, ResNetEncoder
from lama_minimal.scenes import LABELS, draw_scene

ENCODER = {"blocks": [2, 2, 2, 2], "bottleneck": False, "width": 32, "stem_channels": [32, 32, 64]}
"""A ResNet18 at half the width: 2.8 M numbers, 5.6 MB in half precision."""

PRETEXT_SCENES = 2
"""First number of these scenes' seeds, so that they are not those of training (0) or evaluation (1)."""


def _batches(size: int, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless normalised pictures (B, 3, S, S) and labels (B, S, S)."""
    mean, std = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)
    index = 0
    while True:
        scenes = [draw_scene((PRETEXT_SCENES, index + n), size) for n in range(count)]
        index += count
        images = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2) / 255
        labels = torch.from_numpy(np.stack([scene.labels for scene in scenes])).long()
        yield (images - mean) / std, labels


def train_segmentation(
    out: Path, steps: int = 1000, size: int = 64, batch_size: int = 16, seed: int = 0
) -> dict[str, float]:
    """Train an encoder to label the pixels of scenes; write its weights (float16) and a card.

    Args:
        out: ``NAME.safetensors``; ``NAME.json`` is written beside it.
        steps: updates.
        size: side of the scenes, pixels.
        batch_size: scenes in an update.
        seed: of the weights.

    Returns:
        Pixel accuracy on held-out scenes, and the share of the most frequent label, which a constant guess would get.
    """
    torch.manual_seed(seed)
    encoder = ResNetEncoder(**ENCODER, dilated=True).to(memory_format=torch.channels_last)
    head = nn.Conv2d(encoder.channels, len(LABELS), kernel_size=1)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    batches = _batches(size, batch_size)
    began = time.time()
    held_out = [next(batches) for _ in range(8)]

    def logits(images: Tensor) -> Tensor:
        deep = encoder(images.contiguous(memory_format=torch.channels_last))[-1]
        return F.interpolate(head(deep), size=images.shape[-2:], mode="bilinear", align_corners=False)

    for _ in tqdm(range(steps), desc="segmentation"):
        images, labels = next(batches)
        loss = F.cross_entropy(logits(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    encoder.eval()
    with torch.no_grad():
        guesses = torch.cat([logits(images).argmax(1) for images, _ in held_out])
    truth = torch.cat([labels for _, labels in held_out])
    scores = {
        "pixel_accuracy": (guesses == truth).float().mean().item(),
        "constant_guess": (truth.flatten().bincount().max() / truth.numel()).item(),
    }
    weights = {name: t.half().contiguous() if t.is_floating_point() else t for name, t in encoder.state_dict().items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, out)
    card = {
        "encoder": ENCODER | {"dilated": True},
        "data": f"built-in scenes at {size} pixels, {steps} steps of {batch_size} pictures",
        "command": f"lama-minimal pretrain --steps {steps} --out {out.name}",
        "pretext": f"segmentation into {len(LABELS)} labels",
        "scores": scores,
        "seconds": round(time.time() - began),
        "device": "CPU",
        "seed": seed,
        "licence": "Apache-2.0",
    }
    out.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")
    return scores
