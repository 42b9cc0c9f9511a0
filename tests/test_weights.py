"""What ships: generators that load, do better than a plain colour, and say where they come from."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from skimage import data

from lama_minimal.checkpoint import SHIPPED, load_generator, save_generator, shipped_generators
from lama_minimal.classical import mean_colour
from lama_minimal.cli import main
from lama_minimal.config import DEFAULT_MODEL, GeneratorSettings
from lama_minimal.inference import Inpainter, read_picture, save_image
from lama_minimal.models import build_generator

NAMES = list(shipped_generators())


@pytest.fixture(scope="module")
def brick() -> tuple[np.ndarray, np.ndarray]:
    """A photograph of a wall, and a hole in it."""
    image = np.dstack([data.brick()[:256, :256]] * 3)
    mask = np.zeros((256, 256), bool)
    mask[90:150, 100:180] = True
    return image, mask


def test_the_default_model_comes_first() -> None:
    assert NAMES[0] == DEFAULT_MODEL and len(NAMES) > 1


@pytest.mark.parametrize("name", NAMES)
def test_a_card_says_what_it_takes_to_make_it_again(name: str) -> None:
    card = shipped_generators()[name]
    assert {"summary", "data", "command", "scores", "steps", "seconds", "device", "commit", "seed", "licence"} < {*card}
    assert card["command"].startswith("lama-minimal train --preset ")
    if "photographs" in card["data"]:  # their terms, not ours
        assert "research" in card["licence"]


@pytest.mark.parametrize("name", NAMES)
def test_weights_fill_a_wall(name: str, brick: tuple[np.ndarray, np.ndarray]) -> None:
    image, mask = brick
    assert (SHIPPED / name / "generator.safetensors").stat().st_size < 16e6
    filled = Inpainter.load(name)(image, mask)
    assert (filled[~mask] == image[~mask]).all()
    error, plain = (np.abs(made.astype(int) - image)[mask].mean() for made in (filled, mean_colour(image, mask)))
    assert error < plain


def test_the_command_needs_no_model(tmp_path, brick) -> None:
    image, mask = brick
    save_image(image, tmp_path / "wall.png")
    save_image(np.dstack([np.uint8(255) * mask] * 3), tmp_path / "mask.png")
    main(
        ["inpaint", str(tmp_path / "wall.png"), "--mask", str(tmp_path / "mask.png"), "--out", str(tmp_path / "o.png")]
    )
    np.testing.assert_array_equal(read_picture(tmp_path / "o.png")[0], Inpainter.load(DEFAULT_MODEL)(image, mask))


def test_with_a_card_weights_take_half_the_space(tmp_path) -> None:
    settings = GeneratorSettings(width=8, blocks=2, downsamplings=2)
    generator = build_generator(**asdict(settings))
    generator.training_size = 64
    with torch.no_grad():  # beyond float16
        next(module for module in generator.modules() if hasattr(module, "running_var")).running_var.fill_(1e6)
    card = {"data": "none", "licence": "Apache-2.0"}
    sizes = []
    for name, more in (("full", None), ("half", card)):
        save_generator(generator, settings, tmp_path / name, more)
        sizes.append((tmp_path / name / "generator.safetensors").stat().st_size)
    assert 0.45 < sizes[1] / sizes[0] < 0.62
    assert json.loads((tmp_path / "half/generator.json").read_text())["card"] == card
    again = load_generator(tmp_path / "half")
    assert again.training_size == 64
    for (key, mine), theirs in zip(generator.state_dict().items(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(theirs, mine, rtol=1e-3, atol=1e-6, msg=key)
