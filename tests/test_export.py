"""Export: the same function without complex numbers, and a file that other programs run to the same numbers."""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from lama_minimal import __version__, export
from lama_minimal.config import UserError
from lama_minimal.export import (
    MatrixTransform,
    export_onnx,
    exportable,
    fourier_matrices,
    onnxruntime_session,
    openvino_session,
)
from lama_minimal.models import FourierGenerator, ResidualGenerator, composite, generator_input


@torch.no_grad()
def lively(build):
    """A generator whose statistics make every fold matter, and whose picture varies; fresh weights give grey."""
    torch.manual_seed(0)
    generator = build().eval()
    for module in generator.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.1)
    head, logits = generator.decoder[-1], generator(torch.rand(1, 4, 96, 96)).logit()
    head.weight *= 2 / logits.std()
    head.bias.sub_(logits.mean()).mul_(2 / logits.std())
    return generator


def example(height, width):
    """A picture with a rectangular hole, ragged at one side."""
    torch.manual_seed(1)
    image, mask = torch.rand(1, 3, height, width), torch.zeros(1, 1, height, width)
    mask[:, :, height // 4 : height // 2, width // 4 :] = 1
    mask[:, :, height // 4 : height // 2 : 2, width // 3 : width // 2] = 0
    return image, mask


SIZES = [(8, 8), (9, 7), (8, 7), (7, 8), (1, 2), (3, 1), (32, 48)]


@pytest.mark.parametrize("size", [1, 2, 7, 64, 509])
def test_fourier_matrices(size):
    real, imaginary = fourier_matrices(size)
    expected = np.fft.fft(np.eye(size), norm="ortho")
    np.testing.assert_allclose(real.numpy() + 1j * imaginary.numpy(), expected, atol=1e-14)


@pytest.mark.parametrize("size", SIZES)
def test_transform_against_numpy(size):
    x = np.random.default_rng(0).standard_normal((2, 3, *size))
    expected = np.fft.rfft2(x, norm="ortho")
    got = MatrixTransform(*size)(torch.from_numpy(x).float()).unflatten(1, (3, 2))  # re₀, im₀, re₁, …
    np.testing.assert_allclose(got[:, :, 0], expected.real, atol=3e-6)
    np.testing.assert_allclose(got[:, :, 1], expected.imag, atol=3e-6)


@pytest.mark.parametrize("size", SIZES)
def test_inverse_of_any_half_spectrum_against_numpy(size):
    """Of numbers that no real signal has: numpy inverts the whole spectrum, made Hermitian by averaging."""
    height, width = size
    half = width // 2 + 1
    rng = np.random.default_rng(0)
    spectrum = rng.standard_normal((3, height, half)) + 1j * rng.standard_normal((3, height, half))

    def mirrored(full):
        return full[:, -np.arange(height)][:, :, -np.arange(width)].conj()

    full = np.zeros((3, height, width), complex)
    full[:, :, :half] = spectrum
    given = np.arange(width) < half
    full = np.where(given, full, mirrored(full))
    signal = np.fft.ifft2((full + mirrored(full)) / 2, norm="ortho")
    assert np.abs(signal.imag).max() < 1e-12

    pairs = np.stack([spectrum.real, spectrum.imag], axis=1).reshape(1, 6, height, half)
    got = MatrixTransform(*size).inverse(torch.from_numpy(pairs).float())
    np.testing.assert_allclose(got[0], signal.real, atol=3e-6)


GENERATORS = [
    *(
        pytest.param(partial(FourierGenerator, 8, 2, global_ratio=ratio, lfu=lfu), id=f"fourier-{ratio}-{lfu}")
        for ratio in (0.0, 0.5, 0.75, 1.0)
        for lfu in (False, True)
    ),
    pytest.param(partial(FourierGenerator, 8, 1, downsamplings=2), id="fourier-shallow"),
    pytest.param(partial(ResidualGenerator, 8, 2), id="regular"),
    pytest.param(partial(ResidualGenerator, 8, 2, dilations=(1, 2, 4, 8)), id="dilated"),
]


@pytest.mark.parametrize("size", [(80, 96), (72, 88), (72, 80)])  # the trunk: even, odd, one of each
@pytest.mark.parametrize("build", GENERATORS)
@torch.no_grad()
def test_exportable_is_the_same_function(build, size, monkeypatch):
    generator = lively(build)
    x = torch.cat([generator_input(*example(*size)), torch.rand(1, 4, *size)])
    expected = generator(x)
    assert expected.std() > 0.2
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    network = exportable(generator.train(), *size)  # its mode does not matter
    assert generator.training and all(before[name].equal(value) for name, value in generator.state_dict().items())

    def refuse(*arguments, **keywords):
        raise AssertionError("complex numbers")

    for place, name in [(torch.fft, "rfft2"), (torch.fft, "irfft2"), (torch, "view_as_complex")]:
        monkeypatch.setattr(place, name, refuse)
    assert (network(x) - expected).abs().max() < 1e-5
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(
    ("generator", "size", "fix"),
    [
        (FourierGenerator(8, 1), (500, 512), "504×512"),
        (FourierGenerator(8, 1), (512, 8), "512×16"),
        (FourierGenerator(8, 1, downsamplings=2), (62, 64), "64×64"),
        (ResidualGenerator(8, 1, dilations=(1, 2, 4, 8)), (64, 100), "72×104"),
    ],
)
def test_a_size_that_does_not_fit_names_one_that_does(generator, size, fix, tmp_path):
    with pytest.raises(UserError, match=fix):
        export_onnx(generator, tmp_path / "model.onnx", *size)
    exportable(generator, *map(int, fix.split("×")))
    assert not [*tmp_path.iterdir()]


# ---------------------------------------------------------------------------------------------------------- the file


@pytest.fixture(scope="module")
def exporter():
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'lama-minimal[export]'")


@pytest.fixture(scope="module")
def written(exporter, tmp_path_factory):
    """Generator, size and file of a model with every kind of path, odd at the trunk."""
    generator, size = lively(partial(FourierGenerator, 8, 1, lfu=True)), (72, 56)
    path = tmp_path_factory.mktemp("export") / "little-lama.onnx"
    export_onnx(generator, path, *size)
    return generator, size, path


def check_session(session, generator, size):
    image, mask = example(*size)
    with torch.no_grad():
        expected = composite(generator(generator_input(image, mask)), image, mask)
    filled = session(image.numpy(), mask.numpy())
    assert filled.dtype == np.float32
    assert np.abs(filled - expected.numpy()).max() < 1e-5
    known = np.broadcast_to(mask.numpy() == 0, filled.shape)
    assert (filled[known] == image.numpy()[known]).all()
    kept = filled.copy()
    session(1 - image.numpy(), mask.numpy())
    assert (filled == kept).all()  # a later run leaves it alone


def test_onnxruntime_gives_the_same(written):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'lama-minimal[export]'")
    generator, size, path = written
    check_session(onnxruntime_session(path, threads=1), generator, size)


def test_openvino_gives_the_same(written):
    pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install openvino")
    generator, size, path = written
    check_session(openvino_session(path, threads=1), generator, size)


def test_openvino_in_bfloat16(written):
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install openvino")
    _, size, path = written
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(UserError, match="float32"):
            openvino_session(path, 1, "bfloat16")
        return
    image, mask = (part.numpy() for part in example(*size))
    exact, rounded = (openvino_session(path, 1, precision)(image, mask) for precision in ("float32", "bfloat16"))
    assert 1e-5 < np.abs(rounded - exact).max() < 0.1


def test_dilated_in_another_opset(exporter, tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'lama-minimal[export]'")
    generator, size = lively(partial(ResidualGenerator, 8, 1, dilations=(1, 2, 4, 8))), (72, 80)
    export_onnx(generator, tmp_path / "dilated.onnx", *size, opset=20)
    check_session(onnxruntime_session(tmp_path / "dilated.onnx", threads=1), generator, size)


def test_the_file_says_what_it_is(written):
    import onnx

    _, (height, width), path = written
    assert [*path.parent.iterdir()] == [path]  # no weights beside it
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)

    def shapes(values):
        return {value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in values}

    assert shapes(model.graph.input) == {"image": [1, 3, height, width], "mask": [1, 1, height, width]}
    assert shapes(model.graph.output) == {"filled": [1, 3, height, width]}
    assert [(system.domain, system.version) for system in model.opset_import] == [("", 18)]
    assert (model.producer_name, model.producer_version) == ("lama-minimal", __version__)
    described = {entry.key: entry.value for entry in model.metadata_props}
    assert described["name"] == model.graph.name == "little-lama"
    assert (described["height"], described["width"]) == (str(height), str(width))
    assert "Apache-2.0" in described["licence"] and "weights" in described["licence"]
    assert not {"DFT", "BatchNormalization"} & {node.op_type for node in model.graph.node}


def test_the_file_tells_nothing_about_the_machine_and_holds_little_else_than_weights(written):
    generator, _, path = written
    content = path.read_bytes()
    for folder in {Path(export.__file__).parent, Path(torch.__file__).parent, Path.home()} - {Path("/")}:
        assert str(folder).encode() not in content
    weights = sum(parameter.numel() * 4 for parameter in generator.parameters())
    assert len(content) < weights + 300_000


def test_nothing_partial_is_left(exporter, tmp_path, monkeypatch):
    generator = ResidualGenerator(8, 1)
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(UserError, match="cannot write"):
        export_onnx(generator, tmp_path / "folder.onnx", 16, 16)

    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(UserError, match="cannot write"):
        export_onnx(generator, tmp_path / "file" / "model.onnx", 16, 16)

    def disk_full(handle):
        raise OSError("No space left on device")

    monkeypatch.setattr(export.os, "fsync", disk_full)
    with pytest.raises(UserError, match="No space left"):
        export_onnx(generator, tmp_path / "file", 16, 16)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.onnx"]
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.parametrize("opset", [17, 99])
def test_unknown_opset(opset, tmp_path):
    with pytest.raises(UserError, match="18"):
        export_onnx(ResidualGenerator(8, 1), tmp_path / "model.onnx", 16, 16, opset)


@pytest.mark.parametrize(
    ("module", "package", "call"),
    [
        ("onnx", r"lama-minimal\[export\]", lambda path: export_onnx(ResidualGenerator(8, 1), path, 16, 16)),
        ("onnxscript", r"lama-minimal\[export\]", lambda path: export_onnx(ResidualGenerator(8, 1), path, 16, 16)),
        ("onnxruntime", r"lama-minimal\[export\]", lambda path: onnxruntime_session(path, 1)),
        ("openvino", "openvino", lambda path: openvino_session(path, 1)),
    ],
)
def test_a_missing_package_is_named(module, package, call, tmp_path, monkeypatch):
    for name in ("onnx", "onnxscript", "onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, name, None if name == module else sys)
    with pytest.raises(UserError, match=f"{module} is not installed: pip install '{package}'"):
        call(tmp_path / "model.onnx")


@pytest.mark.parametrize(("package", "session"), [("onnxruntime", onnxruntime_session), ("openvino", openvino_session)])
def test_a_missing_file_is_named(package, session, tmp_path):
    pytest.importorskip(package, reason=f"{package} is not installed")
    with pytest.raises(UserError, match=r"no file .*model\.onnx"):
        session(tmp_path / "model.onnx", 1)
