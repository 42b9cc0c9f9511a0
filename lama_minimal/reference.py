"""The authors' own code, imported from a checkout of github.com/advimman/lama, to be timed beside ours.

Nothing of it is part of this package. Of its dependencies only those are needed that its numbers depend on (PyTorch and
NumPy); the others, some of which no longer install, are replaced by empty stand-ins while it is imported.
"""

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn

from lama_minimal.config import LossSettings, UserError

STAND_INS = ("pytorch_lightning", "torchvision", "kornia", "omegaconf", "pandas", "scipy")
"""Packages that the authors' modules import but do not compute with."""


class _StandIns(MetaPathFinder, Loader):
    """Answers the import of a package that is not needed with an object that has every attribute."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] in STAND_INS else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = MagicMock(name=spec.name)
        module.__path__, module.__name__ = [], spec.name
        return module

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""


@contextmanager
def _authors_imports(folder: Path) -> Iterator[None]:
    """Import from ``folder``; afterwards every module is again what it was."""
    before, finder = dict(sys.modules), _StandIns()
    for name in [name for name in before if name.split(".")[0] in STAND_INS]:
        del sys.modules[name]
    sys.meta_path.insert(0, finder)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - set(before):
            if name.split(".")[0] in (*STAND_INS, "saicinpainting", "models"):
                del sys.modules[name]
        sys.modules.update(before)


class Reference:
    """The authors' networks and losses.

    >>> reference = Reference("lama")  # git clone https://github.com/advimman/lama
    >>> generator = reference.generator(blocks=9)
    """

    def __init__(self, folder: str | Path) -> None:
        """Import from ``folder``, a checkout of their repository.

        Raises:
            UserError: it is none.
        """
        folder = Path(folder)
        if not (folder / "saicinpainting/training/modules/ffc.py").exists():
            raise UserError(f"{folder} is no checkout of the authors' code: git clone https://github.com/advimman/lama")
        with _authors_imports(folder.resolve()):
            modules, losses = "saicinpainting.training.modules", "saicinpainting.training.losses"
            self._generator = importlib.import_module(f"{modules}.ffc").FFCResNetGenerator
            self._discriminator = importlib.import_module(f"{modules}.pix2pixhd").NLayerDiscriminator
            self._adversarial = importlib.import_module(f"{losses}.adversarial").NonSaturatingWithR1
            self._matching = importlib.import_module(f"{losses}.feature_matching")
            self._encoder = importlib.import_module("models.ade20k.base").ResnetDilated
            self._resnet50 = importlib.import_module("models.ade20k.resnet").resnet50

    def generator(self, blocks: int) -> nn.Module:
        """Their FFC generator with the settings of ``lama-fourier`` (9 blocks) and ``big-lama`` (18)."""
        plain, spectral = dict(ratio_gin=0, ratio_gout=0, enable_lfu=False), dict(ratio_gin=0.75, ratio_gout=0.75)
        return self._generator(
            4, 3, ngf=64, n_downsampling=3, n_blocks=blocks, add_out_act="sigmoid",
            init_conv_kwargs=plain, downsample_conv_kwargs=plain, resnet_conv_kwargs=spectral | dict(enable_lfu=False),
        )  # fmt: skip

    def discriminator(self) -> nn.Module:
        """Their patch discriminator."""
        return self._discriminator(3, ndf=64, n_layers=4)

    def encoder(self) -> nn.Module:
        """Their dilated ResNet50, with random weights."""
        return self._encoder(self._resnet50(pretrained=False), dilate_scale=8)

    def training_step(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        encoder: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        weights: LossSettings,
    ) -> Callable[[Tensor, Tensor], dict[str, float]]:
        """Their two steps of one iteration, in the order of their trainer, from their networks and loss functions.

        Returns:
            A function of images (B, 3, H, W) and masks (B, 1, H, W) that updates both networks.
        """
        adversarial = self._adversarial(
            weights.r1, weights.adversarial, mask_as_fake_target=True, allow_scale_mask=True
        )
        mean = torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1)
        std = torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1)

        def features(image: Tensor) -> list[Tensor]:
            return encoder((image - mean.to(image)) / std.to(image), return_feature_maps=True)

        def predict(image: Tensor, mask: Tensor) -> Tensor:
            return generator(torch.cat([image * (1 - mask), mask], dim=1))

        def update(network: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()

        def step(image: Tensor, mask: Tensor) -> dict[str, float]:
            image = image.detach().clone()
            generator.requires_grad_(True), discriminator.requires_grad_(False)
            fake = predict(image, mask)
            l1 = self._matching.masked_l1_loss(fake, image, mask, weights.l1_known, weights.l1_hole)
            real_logits, real_features = discriminator(image)
            fake_logits, fake_features = discriminator(fake)
            gan, _ = adversarial.generator_loss(image, fake, real_logits, fake_logits, mask)
            matching = self._matching.feature_matching_loss(fake_features, real_features) * weights.feature_matching
            pairs = zip(features(fake), features(image), strict=True)
            hrf = torch.stack([nn.functional.mse_loss(*pair) for pair in pairs]).sum() * weights.perceptual
            update(generator, optimizers[0], l1 + gan + matching + hrf)

            generator.requires_grad_(False), discriminator.requires_grad_(True)
            fake = predict(image, mask).detach()
            adversarial.pre_discriminator_step(image, fake, generator, discriminator)
            loss, _ = adversarial.discriminator_loss(image, fake, discriminator(image)[0], discriminator(fake)[0], mask)
            update(discriminator, optimizers[1], loss)
            return dict(l1=l1.item(), perceptual=hrf.item(), discriminator=loss.item())

        return step
