"""The loss network: it can be trained here, and the one that ships sees what it was trained to see."""

import json

import numpy as np
import pytest
import torch

from lama_minimal.checkpoint import SHIPPED, load_loss_network
from lama_minimal.config import UserError
from lama_minimal.pretext import train_segmentation
from lama_minimal.scenes import LABELS, draw_scene


def test_training_beats_a_constant_guess_and_loads_again(tmp_path):
    out = tmp_path / "small.safetensors"
    scores = train_segmentation(out, steps=25, size=64, batch_size=8)
    assert scores["pixel_accuracy"] > 1.5 * scores["constant_guess"]
    network = load_loss_network(str(out), batch_statistics=False)
    image = torch.rand(1, 3, 64, 64)
    assert network(image, image) == 0 and network(image, image.flip(-1)) > 0


def test_shipped_features_tell_labels_apart_on_new_scenes():
    """A linear probe on its deepest features, fitted on some new scenes, labels others well above chance."""
    network = load_loss_network("scenes-segmentation", batch_statistics=False)
    features, labels = [], []
    for n in range(60):
        scene = draw_scene((9, n), 64)
        image = torch.from_numpy(scene.image).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            deep = network.features(image)[-1][0]  # (C, 8, 8)
        features.append(deep.flatten(1).T.numpy())
        labels.append(scene.labels[4::8, 4::8].reshape(-1))
    x, y = np.concatenate(features), np.concatenate(labels)
    x = np.c_[x, np.ones(len(x))]
    half = len(x) // 2
    targets = np.eye(len(LABELS))[y[:half]]
    probe = np.linalg.solve(x[:half].T @ x[:half] + 10 * np.eye(x.shape[1]), x[:half].T @ targets)
    accuracy = ((x[half:] @ probe).argmax(1) == y[half:]).mean()
    constant = (y[half:] == np.bincount(y[:half]).argmax()).mean()
    assert accuracy > 0.6 > 2 * constant


@pytest.mark.parametrize("card", sorted(SHIPPED.glob("*.json")), ids=lambda path: path.stem)
def test_every_weight_file_has_a_whole_card(card):
    values = json.loads(card.read_text())
    assert values.keys() >= {"data", "command", "scores", "seconds", "device", "licence"}
    assert card.with_suffix(".safetensors").stat().st_size < 16e6


def test_an_unknown_network_is_a_clear_error():
    with pytest.raises(UserError):
        load_loss_network("scenes-segmentatoin")
