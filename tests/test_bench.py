"""The benchmark measures what it says: turns, operations, memory, weights; and it leaves other modules alone."""

import json
import sys
import tarfile
import time

import numpy as np
import pytest
import torch
from reference import draw_weights as golden_weights
from torch import nn

from lama_minimal import bench, losses
from lama_minimal.config import UserError
from lama_minimal.fourier import ReflectConv2d
from lama_minimal.models import FourierGenerator
from lama_minimal.reference import Reference

CPU = torch.device("cpu")


def test_contenders_take_turns():
    order = []
    timings = bench.take_turns({name: lambda name=name: order.append(name) for name in "abc"}, 3, CPU)
    assert "".join(order) == "abc" * 4  # one round to warm up
    assert all(len(timing.turns) == 3 for timing in timings.values())


def test_a_sleeper_is_timed_and_compared():
    timings = bench.take_turns({"slow": lambda: time.sleep(0.06), "fast": lambda: time.sleep(0.02)}, 5, CPU)
    middle, low, high = bench.ratio(timings["slow"], timings["fast"])
    assert 0.06 <= timings["slow"].median < 0.2
    assert low <= middle <= high and 1.5 < middle < 3.5


def test_operations_of_a_convolution_in_closed_form():
    conv = nn.Conv2d(5, 7, 3, padding=1, bias=False)
    x, forward = torch.zeros(2, 5, 11, 13), 2 * 2 * 7 * 5 * 9 * 11 * 13
    assert bench.count_operations(lambda: conv(x)) == forward
    assert bench.count_operations(lambda: conv(x).sum().backward()) == 2 * forward  # the picture asks for no gradient

    def penalty():
        image = x.clone().requires_grad_()
        losses.r1_penalty(conv(image), image).backward()

    # the convolution, its gradient at the image, and that one's by the weights and by what came from above
    assert bench.count_operations(penalty) == 4 * forward


def test_minimal_filtering_does_not_count_as_less_to_do(monkeypatch: pytest.MonkeyPatch):
    conv = ReflectConv2d(128, 384, 3)
    x = torch.zeros(2, 128, 32, 32).contiguous(memory_format=torch.channels_last)
    monkeypatch.setitem(bench._STEPS, "wide", lambda: conv(x).sum().backward())
    asked = 2 * (2 * 2 * 128 * 384 * 9 * 32 * 32)  # there, and back to the weights
    assert bench.count_operations(bench._STEPS["wide"]) < 0.6 * asked  # the way it goes has half the products
    assert bench._count_step("wide") == asked
    assert bench.count_operations(bench._STEPS["wide"]) < 0.6 * asked  # and is as before


def test_a_profile_names_what_takes_the_time():
    a = torch.randn(1500, 1500)
    (name, seconds, share), *others = bench.own_times(lambda: (a @ a).relu_(), CPU)
    assert name == "aten::mm" and seconds > 0 and 0.5 < share < 1
    assert "aten::relu_" in {name for name, *_ in others} or "aten::clamp_min_" in {name for name, *_ in others}
    assert share + sum(each for *_, each in others) == pytest.approx(1, abs=0.05)


def test_weights_are_those_of_the_golden_formula():
    network = bench.draw_weights(FourierGenerator(8, 1), 100)
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    for name, tensor in golden_weights(shapes, 100).items():
        assert torch.equal(network.state_dict()[name], tensor), name


def take(mebibytes: int) -> None:
    np.ones(mebibytes << 20, np.uint8).sum()


def test_peak_memory_is_that_of_the_task():
    small, large = (bench.peak_memory(take, size) for size in (1, 400))
    assert 350 << 20 < large - small < 450 << 20


def test_a_compact_hole_covers_its_share():
    hole = bench.compact_hole(256, 0.05)
    assert hole.mean() == pytest.approx(0.05, rel=0.02)
    assert hole[128, 128] and not hole[:60].any()


def test_rows_reach_the_file_and_the_picture(tmp_path, monkeypatch):
    rows = [
        {"part": "inference", "model": "m", "side": side, "contender": name, "seconds": 1.0, "seconds low": 0.9}
        | {"seconds high": 1.2, "ratio": 2.0, "ratio low": 1.5, "ratio high": 2.5}
        for side in (256, 512)
        for name in ("reference", "ours")
    ]
    monkeypatch.setattr(bench, "measure_inference", lambda *_: iter(rows))
    seen = []
    bench.bench(parts=["inference"], device="cpu", out=tmp_path / "new" / "bench.json", progress=seen.append)
    assert json.loads((tmp_path / "new" / "bench.json").read_text())["rows"] == rows == seen
    assert (tmp_path / "new" / "bench.png").stat().st_size > 5000
    text = bench.line(rows[1])
    assert "ours" in text and "side 256" in text and "ratio 2 (1.5 … 2.5)" in text


def test_mistakes_are_one_line(tmp_path):
    with pytest.raises(UserError, match="unknown part 'speed'"):
        bench.bench(parts=["speed"])
    with pytest.raises(UserError, match="git clone"):
        bench.bench(parts=["inference"], reference=tmp_path)


SKELETON = {
    "saicinpainting/training/modules/ffc.py": "import kornia.geometry\nfrom saicinpainting.utils import helper\n"
    "class FFCResNetGenerator: made_of = kornia.geometry.anything",
    "saicinpainting/training/modules/pix2pixhd.py": "class NLayerDiscriminator: pass",
    "saicinpainting/training/losses/adversarial.py": "class NonSaturatingWithR1: pass",
    "saicinpainting/training/losses/feature_matching.py": "",
    "saicinpainting/utils.py": "from pytorch_lightning import seed_everything as helper",
    "models/ade20k/base.py": "import pandas\nclass ResnetDilated: pass",
    "models/ade20k/resnet.py": "def resnet50(): pass",
}


def test_importing_the_authors_code_leaves_no_trace(tmp_path, monkeypatch):
    """A skeleton of their repository, with imports of packages that are not installed."""
    for name, text in SKELETON.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    before, path_before, finders = dict(sys.modules), list(sys.path), list(sys.meta_path)
    reference = Reference(tmp_path)
    assert reference._generator.__name__ == "FFCResNetGenerator"
    assert set(sys.modules) - set(before) <= {name for name in sys.modules if not name.startswith(("sai", "models"))}
    assert not {"kornia", "pytorch_lightning", "saicinpainting", "models"} & (set(sys.modules) - set(before))
    assert all(sys.modules[name] is module for name, module in before.items())
    assert sys.path == path_before and sys.meta_path == finders


def test_folder_and_shards_hold_the_same_pictures(tmp_path):
    files, tars, size = bench._write_photographs(tmp_path, 5, 2)
    packed = [packed_file.read() for path in tars for packed_file in members(path)]
    assert packed == [path.read_bytes() for path in files] and len(set(packed)) == 5
    assert size == pytest.approx(np.mean([len(content) for content in packed]))
    rows = list(bench.measure_shards(2, 1, 1))
    assert len(rows) == 8 and all("_" not in bench.line(row) for row in rows)


def members(path):
    with tarfile.open(path) as tar:
        yield from (tar.extractfile(member) for member in tar.getmembers())
