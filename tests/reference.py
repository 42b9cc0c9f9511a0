"""The golden numbers of the authors' code (public repository advimman/lama, commit 786f593), and how to rebuild them.

``golden/reference.safetensors`` holds inputs and results, ``golden/reference.json`` keys, shapes, loss values and
gradient norms, both computed once with the original code in float32 on a CPU. Weights are drawn by a formula.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

GOLDEN = Path(__file__).parent / "golden"
REFERENCE = json.loads((GOLDEN / "reference.json").read_text())


def tensors() -> dict[str, Tensor]:
    return load_file(GOLDEN / "reference.safetensors")


def draw_weights(shapes: dict[str, list[int]], seed: int) -> dict[str, Tensor]:
    """Entry number k of a state dict comes from ``RandomState(seed + k)``."""
    weights = {}
    for k, (name, shape) in enumerate(shapes.items()):
        random = np.random.RandomState(seed + k)
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(0)
            continue
        if name.endswith("running_var"):
            values = random.uniform(0.5, 1.5, shape)
        elif name.endswith("running_mean"):
            values = 0.1 * random.standard_normal(shape)
        elif len(shape) == 1 and name.endswith("weight"):
            values = random.uniform(0.5, 1.5, shape)
        elif len(shape) == 1:
            values = 0.1 * random.standard_normal(shape)
        else:
            values = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        weights[name] = torch.from_numpy(np.asarray(values, np.float32))
    return weights


def image(seed: int, batch: int, height: int, width: int) -> Tensor:
    random = np.random.RandomState(seed)
    coarse = torch.from_numpy(random.rand(batch, 3, 6, 6).astype(np.float32))
    smooth = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    noise = torch.from_numpy((0.05 * random.standard_normal((batch, 3, height, width))).astype(np.float32))
    return (smooth + noise).clamp(0, 1)


def hole(seed: int, batch: int, height: int, width: int) -> Tensor:
    random = np.random.RandomState(seed)
    mask = torch.zeros(batch, 1, height, width)
    for index in range(batch):
        for _ in range(2):
            y, x = random.randint(0, height // 2), random.randint(0, width // 2)
            tall, wide = random.randint(height // 6, height // 2), random.randint(width // 6, width // 2)
            mask[index, 0, y : y + tall, x : x + wide] = 1
    return mask


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()
