"""What only a GPU can show. Without one these tests are skipped; with one, this prints the figures for a report:

pytest tests/test_gpu.py -s
"""

import time
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from lama_minimal.config import preset
from lama_minimal.data import evaluation_set
from lama_minimal.inference import Inpainter
from lama_minimal.models import FourierGenerator
from lama_minimal.train import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def fourier(seed=0):
    """The paper's generator with statistics that make its output vary (fresh weights give grey)."""
    torch.manual_seed(seed)
    generator = FourierGenerator()
    for module in generator.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return generator.eval()


@pytest.mark.parametrize("size", [(256, 256), (264, 520)])
@torch.no_grad()
def test_cpu_and_gpu_agree(size, monkeypatch):
    """Float32 without TF32, at even and odd bottleneck sizes: the projection leaves nothing to the library."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    generator = fourier()
    x = torch.rand(1, 4, *size)
    on_cpu = generator(x)
    on_gpu = generator.cuda()(x.cuda()).cpu()
    error = ((on_gpu - on_cpu).norm() / on_cpu.norm()).item()
    print(f"\nCPU against GPU at {size}: relative error {error:.1e}")
    assert error < 1e-4


def test_training_in_bfloat16(tmp_path):
    """The paper's networks with all losses that need no download, batch 10 and 30 at 256 pixels."""
    for batch in (10, 30):
        settings = preset("lama-fourier")
        settings = replace(
            settings,
            perceptual=replace(settings.perceptual, network="scenes-segmentation"),
            data=replace(settings.data, workers=12),
            run=replace(settings.run, precision="bfloat16", batch_size=batch, steps=60, evaluate_every=1000),
        )
        torch.cuda.reset_peak_memory_stats()
        records = []
        for record in islice(train(settings, None), 50):
            records.append((time.perf_counter(), record))
        assert all(np.isfinite(value) for _, record in records for value in record.terms.values())
        seconds = np.diff([moment for moment, _ in records])[-20:]
        peak = torch.cuda.max_memory_allocated() / 2**30
        print(f"\nbatch {batch}: {batch / np.median(seconds):.0f} images/s with data, peak {peak:.1f} GiB")
        assert records[-1][1].terms["l1"] < records[0][1].terms["l1"]


def test_inpainting_a_large_picture():
    (sample,) = evaluation_set(None, 1, 2048, "thick")
    inpainter = Inpainter(fourier())
    for strategy in ("whole", "crop"):
        torch.cuda.reset_peak_memory_stats()
        inpainter(sample.image, sample.mask, strategy=strategy)
        began = time.perf_counter()
        filled = inpainter(sample.image, sample.mask, strategy=strategy)
        seconds, peak = time.perf_counter() - began, torch.cuda.max_memory_allocated() / 2**30
        print(f"\n2048², {strategy}: {seconds:.2f} s, peak {peak:.1f} GiB")
        assert (filled[~sample.mask] == sample.image[~sample.mask]).all()
