"""Fast Fourier convolution: against NumPy's transforms, closed forms, and a literal rewriting of the LFU."""

import numpy as np
import pytest
import torch

from lama_minimal.fourier import (
    FFC,
    FFCResidual,
    FourierUnit,
    LocalFourierUnit,
    ReflectConv2d,
    SpectralTransform,
    project_hermitian,
)


def unit_with_fresh_statistics(unit):
    """Evaluation mode with BatchNorm statistics that are not the identity."""
    torch.manual_seed(1)
    for module in unit.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return unit.eval()


def numpy_unit(unit, x):
    """The Fourier unit over the *full* spectrum, conjugate half filled in by symmetry, in float64."""
    x = x.double().numpy()
    half = np.fft.rfft2(x, norm="ortho")
    stacked = np.stack([half.real, half.imag], 2).reshape(x.shape[0], -1, *half.shape[2:])
    mixed = np.einsum("oc,bchk->bohk", unit.conv.weight[:, :, 0, 0].double().detach().numpy(), stacked)
    norm = unit.norm

    def column(t):
        return t.detach().double().numpy()[None, :, None, None]

    mixed = (mixed - column(norm.running_mean)) / np.sqrt(column(norm.running_var) + norm.eps)
    mixed = np.maximum(mixed * column(norm.weight) + column(norm.bias), 0)
    mixed = mixed.reshape(x.shape[0], -1, 2, *half.shape[2:])
    spectrum = mixed[:, :, 0] + 1j * mixed[:, :, 1]
    height, width = x.shape[-2:]
    full = np.zeros((*spectrum.shape[:2], height, width), complex)
    bound = {0, width // 2} if width % 2 == 0 else {0}
    for column_index in range(width // 2 + 1):
        for row in range(height):
            value = spectrum[:, :, row, column_index]
            if column_index in bound:
                value = (value + spectrum[:, :, -row % height, column_index].conj()) / 2
            full[:, :, row, column_index] = value
            full[:, :, -row % height, -column_index % width] = value.conj()
    result = np.fft.ifft2(full, norm="ortho")
    assert abs(result.imag).max() < 1e-12  # Hermitian: the signal is real
    return result.real


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (6, 11), (9, 4), (2, 2), (1, 5), (5, 1)])
def test_fourier_unit_equals_numpy_on_the_full_spectrum(size):
    torch.manual_seed(0)
    unit = unit_with_fresh_statistics(FourierUnit(3, 4))
    x = torch.randn(2, 3, *size)
    assert np.allclose(unit(x).detach().numpy(), numpy_unit(unit, x), atol=1e-5)


@pytest.mark.parametrize("width", [8, 9])
def test_projection_is_idempotent_and_keeps_real_signals(width):
    half = torch.fft.rfft2(torch.randn(2, 3, 6, width, dtype=torch.float64))
    assert torch.allclose(project_hermitian(half, width), half)
    noise = torch.randn(2, 3, 6, width // 2 + 1, dtype=torch.complex128)
    once = project_hermitian(noise, width)
    assert not torch.allclose(once, noise)
    assert torch.allclose(project_hermitian(once, width), once)
    assert torch.allclose(torch.fft.rfft2(torch.fft.irfft2(once, s=(6, width))), once)


def test_projection_is_the_nearest_real_spectrum():
    """The projection is orthogonal: what it takes away is orthogonal to every spectrum of a real signal."""
    torch.manual_seed(0)
    noise = torch.randn(1, 1, 6, 5, dtype=torch.complex128)
    removed = noise - project_hermitian(noise, 8)
    real = torch.fft.rfft2(torch.randn(1, 1, 6, 8, dtype=torch.float64))
    for column in (0, 4):
        product = (removed[..., column].conj() * real[..., column]).sum()
        assert abs(product.real) < 1e-10


def test_gradients():
    torch.manual_seed(0)
    unit = FourierUnit(2, 2).double().eval()
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(unit, (x,))


def test_without_relu_an_impulse_stays_in_its_row_and_its_mirror_image():
    """The nonlinearity in the spectrum is what makes the unit global."""
    torch.manual_seed(0)
    unit = FourierUnit(4, 4).eval()
    impulse = torch.zeros(1, 4, 32, 32)
    impulse[:, :, 5, 9] = 1
    spectrum = torch.fft.rfft2(impulse, norm="ortho")
    stacked = torch.stack([spectrum.real, spectrum.imag], 2).flatten(1, 2)
    mixed = unit.conv(stacked).unflatten(1, (4, 2))
    linear = torch.fft.irfft2(project_hermitian(torch.complex(mixed[:, :, 0], mixed[:, :, 1]), 32), norm="ortho")

    def elsewhere(y):
        energy = y.double().square().sum(dim=(0, 1, 3))  # of float32, a difference of sums would be as large
        return ((energy.sum() - energy[5] - energy[-5]) / energy.sum()).item()

    assert elsewhere(linear) < 1e-8
    assert elsewhere(unit(impulse)) > 0.2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_transforms_in_float32(dtype):
    unit = FourierUnit(2, 2).eval()
    x = torch.randn(1, 2, 16, 24)
    y = unit.to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    assert torch.allclose(y.float(), unit.float()(x), atol=0.1)


@pytest.mark.parametrize("size", [(8, 8), (12, 20)])
def test_local_fourier_unit_step_by_step(size):
    """Quadrants as channels in the authors' order (split rows, then columns), transformed, tiled."""
    torch.manual_seed(0)
    lfu = unit_with_fresh_statistics(LocalFourierUnit(8))
    x = torch.randn(2, 8, *size)
    quarter = x[:, :2]
    rows = torch.cat(quarter.split(size[0] // 2, dim=-2), dim=1)
    quadrants = torch.cat(rows.split(size[1] // 2, dim=-1), dim=1)
    assert torch.allclose(lfu(x), lfu.unit(quadrants).repeat(1, 1, 2, 2), atol=1e-6)


@pytest.mark.parametrize("size", [(7, 9), (2, 3), (5, 8)])
def test_local_fourier_unit_on_odd_sizes(size):
    assert LocalFourierUnit(8).eval()(torch.randn(1, 8, *size)).shape == (1, 8, *size)


def test_lfu_enters_the_spectral_transform():
    torch.manual_seed(0)
    x = torch.randn(1, 8, 6, 10)
    transform = SpectralTransform(8, 8, lfu=True).eval()
    with_lfu = transform(x)
    transform.local_fourier_unit = None
    assert not torch.allclose(with_lfu, transform(x))


def test_absent_branches_are_none():
    x = torch.randn(1, 6, 8, 8)
    local, glob = FFC((6, 0), (4, 0), 3)((x, None))
    assert local.shape == (1, 4, 8, 8) and glob is None
    local, glob = FFC((6, 0), (2, 4), 3, stride=2)((x, None))
    assert local.shape == (1, 2, 4, 4) and glob.shape == (1, 4, 4, 4)
    local, glob = FFCResidual((0, 6))((None, x))
    assert local is None and glob.shape == x.shape
    with pytest.raises(ValueError, match="stride"):
        FFC((4, 4), (4, 4), 3, stride=2)


def test_a_change_anywhere_reaches_everywhere_through_the_global_branch_only():
    torch.manual_seed(0)
    block = FFCResidual((4, 12)).eval()
    local, glob = torch.randn(1, 4, 24, 24), torch.randn(1, 12, 24, 24)
    before = block((local, glob))
    poked = glob.clone()
    poked[0, :, 2, 2] += 10
    after = block((local, poked))
    assert ((after[1] - before[1]).abs().amax(1) > 1e-6).float().mean() > 0.9
    poked = local.clone()
    poked[0, :, 2, 2] += 10
    alone = FFCResidual((4, 0)).eval()
    difference = alone((poked, None))[0] - alone((local, None))[0]
    assert difference[..., 6:, 6:].abs().max() == 0


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 1, 1), (3, 2, 1), (7, 1, 1), (3, 1, 2)])
def test_a_mirrored_border_is_made_again_for_gradients(monkeypatch, kernel, stride, dilation):
    """First and second derivatives, against PyTorch's own padding; the extended copy is not kept."""
    torch.manual_seed(0)
    options = dict(stride=stride, padding=dilation * (kernel // 2), dilation=dilation, padding_mode="reflect")
    ours, theirs = ReflectConv2d(3, 4, kernel, stride, dilation), torch.nn.Conv2d(3, 4, kernel, **options)
    theirs.load_state_dict(ours.state_dict())
    made, pad = [], ReflectConv2d.pad
    monkeypatch.setattr(ReflectConv2d, "pad", lambda conv, x: made.append(x.shape) or pad(conv, x))
    x = torch.randn(2, 3, 9, 10)
    found = []
    for conv in (ours.double(), theirs.double()):
        image = x.double().requires_grad_()
        (slope,) = torch.autograd.grad(conv(image).square().sum(), image, create_graph=True)
        found.append([slope, *torch.autograd.grad(slope.square().sum(), [image, conv.weight, conv.bias])])
    assert all(torch.allclose(a, b, rtol=1e-9) for a, b in zip(*found, strict=True))
    made.clear()
    output = ours(x.double())
    assert len(made) == 1
    output.sum().backward()
    assert len(made) == 2
