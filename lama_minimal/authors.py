"""The authors' checkpoints: their parameter names become ours here, and nowhere else.

Widths, depths, the kind of convolution and the share of global channels are read off the tensors, so that any network
of the authors' code loads without a settings file, and a tensor that fits nowhere is an error rather than skipped.
"""

import io
import math
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lama_minimal.config import UserError
from lama_minimal.download import PUBLISHED, fetch_weights
from lama_minimal.models import Discriminator, FourierGenerator, Generator, ResidualGenerator, count_parameters
from lama_minimal.perceptual import PerceptualNetwork, ResNetEncoder, VGG19Encoder

StateDict = Mapping[str, Tensor]

# Each table is a list of (their name, our name), applied to the beginnings of what follows a common prefix.
_FFC_NAMES = [
    ("ffc.convl2l", "ffc.local_to_local"),
    ("ffc.convl2g", "ffc.local_to_global"),
    ("ffc.convg2l", "ffc.global_to_local"),
    ("ffc.convg2g.conv1", "ffc.global_to_global.reduce"),
    ("ffc.convg2g.fu.conv_layer", "ffc.global_to_global.fourier_unit.conv"),
    ("ffc.convg2g.fu.bn", "ffc.global_to_global.fourier_unit.norm"),
    ("ffc.convg2g.lfu.conv_layer", "ffc.global_to_global.local_fourier_unit.unit.conv"),
    ("ffc.convg2g.lfu.bn", "ffc.global_to_global.local_fourier_unit.unit.norm"),
    ("ffc.convg2g.conv2", "ffc.global_to_global.expand"),
    ("bn_l", "local_norm"),
    ("bn_g", "global_norm"),
]


def _block_indices(state_dict: StateDict, pattern: str) -> list[int]:
    """The sorted indices of the authors' ``model`` list whose keys match ``pattern``, a regular expression."""
    found = {int(match[1]) for key in state_dict if (match := re.match(rf"model\.(\d+)\.{pattern}", key))}
    return sorted(found)


def _decoder_names(start: int, downsamplings: int) -> list[tuple[str, str]]:
    """Transposed convolution and BatchNorm every three entries from ``start`` on, padding, last convolution."""
    names = []
    for step in range(downsamplings):
        names += [
            (f"model.{start + 3 * step}", f"decoder.{step}.0"),
            (f"model.{start + 3 * step + 1}", f"decoder.{step}.1"),
        ]
    return [*names, (f"model.{start + 3 * downsamplings + 1}", f"decoder.{downsamplings}")]


def _fourier_generator(state_dict: StateDict) -> tuple[FourierGenerator, list[tuple[str, str]]]:
    """An FFC generator of the right shape, and its table of names."""
    trunk = _block_indices(state_dict, r"conv1\.")
    downsamplings, blocks = trunk[0] - 2, len(trunk)
    decoder = trunk[-1] + 2  # one entry concatenates the branches
    channels = state_dict[f"model.{decoder}.weight"].shape[0]
    norm = state_dict.get(f"model.{trunk[0]}.conv1.bn_g.weight")
    generator = FourierGenerator(
        width=state_dict["model.1.ffc.convl2l.weight"].shape[0],
        blocks=blocks,
        downsamplings=downsamplings,
        max_channels=channels,
        global_ratio=0 if norm is None else norm.shape[0] / channels,
        lfu=any(".lfu." in key for key in state_dict),
    )
    names = []
    for depth in range(downsamplings):
        names += [(f"model.{depth + 1}.ffc.convl2l", f"encoder.{depth}.0")]
        names += [(f"model.{depth + 1}.bn_l", f"encoder.{depth}.1")]
    names += [(f"model.{downsamplings + 1}.{theirs}", f"split.{ours}") for theirs, ours in _FFC_NAMES]
    for block, index in enumerate(trunk):
        for their_half, our_half in (("conv1", "first"), ("conv2", "second")):
            names += [
                (f"model.{index}.{their_half}.{theirs}", f"trunk.{block}.{our_half}.{ours}")
                for theirs, ours in _FFC_NAMES
            ]
    return generator, names + _decoder_names(decoder, downsamplings)


def _residual_generator(state_dict: StateDict) -> tuple[ResidualGenerator, list[tuple[str, str]]]:
    """A regular or dilated generator of the right shape, and its table of names."""
    trunk = _block_indices(state_dict, r"conv_block\.")
    downsamplings, blocks = (trunk[0] - 4) // 3, len(trunk)
    decoder = trunk[-1] + 1
    parallel = len(
        [key for key in state_dict if re.match(rf"model\.{trunk[0]}\.conv_block\.0\.convs\.\d+\.weight", key)]
    )
    generator = ResidualGenerator(
        width=state_dict["model.1.weight"].shape[0],
        blocks=blocks,
        downsamplings=downsamplings,
        max_channels=state_dict[f"model.{decoder}.weight"].shape[0],
        dilations=[2**power for power in range(parallel or 1)],
    )
    names = []
    for depth in range(downsamplings + 1):
        names += [(f"model.{3 * depth + 1}", f"encoder.{depth}.0"), (f"model.{3 * depth + 2}", f"encoder.{depth}.1")]
    # A plain convolution is preceded by a padding layer in the authors' list, a dilated one pads by itself.
    positions = [("0.convs", "1", "3.convs", "4")] if parallel else [("1", "2", "5", "6")]
    conv = "convs" if parallel else "convs.0"
    ours = (f"0.{conv}", "1", f"3.{conv}", "4")
    for block, index in enumerate(trunk):
        for their_layer, our_layer in zip(*positions, ours, strict=True):
            names += [(f"model.{index}.conv_block.{their_layer}", f"trunk.{block}.body.{our_layer}")]
    return generator, names + _decoder_names(decoder, downsamplings)


def _discriminator(state_dict: StateDict) -> tuple[Discriminator, list[tuple[str, str]]]:
    """A discriminator of the right shape, and its table of names."""
    last = max((int(match[1]) for key in state_dict if (match := re.match(r"model(\d+)\.", key))), default=0)
    discriminator = Discriminator(
        width=state_dict["model0.0.weight"].shape[0],
        layers=last - 1,
        max_channels=state_dict[f"model{last}.0.weight"].shape[1],
    )
    names = [(f"model{stage}", f"stages.{stage}") for stage in range(last)]
    return discriminator, [*names, (f"model{last}.0", "head")]


def _resnet(state_dict: StateDict) -> tuple[ResNetEncoder, list[tuple[str, str]]]:
    """A dilated ResNet encoder of the right shape, and its table of names."""
    blocks = []
    for stage in (1, 2, 3, 4):
        units = {match[1] for key in state_dict if (match := re.match(rf"layer{stage}\.(\d+)\.", key))}
        blocks.append(len(units))
    encoder = ResNetEncoder(
        blocks=blocks,
        bottleneck="layer1.0.conv3.weight" in state_dict,
        width=state_dict["layer1.0.conv1.weight"].shape[0],
        stem_channels=tuple(state_dict[f"conv{index}.weight"].shape[0] for index in (1, 2, 3)),
    )
    sequence = [("conv1", "0"), ("bn1", "1"), ("conv2", "3"), ("bn2", "4"), ("conv3", "6"), ("bn3", "7")]
    names = [(theirs, f"stem.{ours}") for theirs, ours in sequence]
    for stage, count in enumerate(blocks):
        for unit in range(count):
            theirs_at, ours_at = f"layer{stage + 1}.{unit}", f"stages.{stage}.{unit}"
            names += [(f"{theirs_at}.{theirs}", f"{ours_at}.body.{ours}") for theirs, ours in sequence]
            names += [(f"{theirs_at}.downsample", f"{ours_at}.shortcut")]
    return encoder, names


def _vgg19(state_dict: StateDict) -> tuple[VGG19Encoder, list[tuple[str, str]]]:
    """VGG19 in torchvision's naming, ``features.0``, ``features.2``, …: convolutions in order, pooling between."""
    encoder = VGG19Encoder()
    indices = sorted({int(key.split(".")[1]) for key in state_dict if key.startswith("features.")})
    return encoder, [(f"features.{index}", f"convs.{n}") for n, index in enumerate(indices[: len(encoder.convs)])]


def _rename(state_dict: StateDict, names: list[tuple[str, str]], unused: str) -> dict[str, Tensor]:
    """Our names for their tensors; those whose key matches ``unused`` stay behind.

    Raises:
        ValueError: a tensor fits nowhere.
    """
    table = dict(names)
    renamed = {}
    for key, tensor in state_dict.items():
        parts = key.split(".")
        ours = next(
            (table[p] + key[len(p) :] for n in range(len(parts), 0, -1) if (p := ".".join(parts[:n])) in table), None
        )
        if ours is not None:
            renamed[ours] = tensor
        elif not re.match(unused, key):
            raise ValueError(f"checkpoint entry {key!r} belongs to no part of this network")
    return renamed


def load_reference(state_dict: StateDict, kind: str) -> Generator | Discriminator | PerceptualNetwork:
    """Build our network from a state dict with the authors' names, in evaluation mode.

    Args:
        state_dict: the authors' keys without a leading ``generator.`` or ``discriminator.``.
        kind: ``"generator"`` (Fourier, regular or dilated), ``"discriminator"``, or ``"perceptual"`` (a dilated
            ResNet encoder of the ADE20K code, or torchvision's VGG19).

    Returns:
        A generator maps (B, 4, H, W) to (B, 3, H, W); a discriminator returns ``(logits, features)``; a perceptual
        network called with ``(prediction, target)`` returns the unweighted sum over its stages, with BatchNorm's
        running statistics.

    Raises:
        ValueError: an unknown kind, an entry that belongs nowhere, or one that is missing or of another shape.
    """
    unused = r"(?!)"  # nothing
    try:
        if kind == "generator":
            fourier = "model.1.ffc.convl2l.weight" in state_dict
            network, names = (_fourier_generator if fourier else _residual_generator)(state_dict)
            network.seamless = False  # it gives what the authors' program gives
        elif kind == "discriminator":
            network, names = _discriminator(state_dict)
        elif kind == "perceptual" and "features.0.weight" in state_dict:
            (network, names), unused = _vgg19(state_dict), r"features\.|classifier\."
        elif kind == "perceptual":
            # The CSAIL code's BatchNorm leaves its bookkeeping in the file beside the statistics.
            extra = re.compile(r".*\._(tmp_running_(mean|var)|running_iter)")
            state_dict = {key: tensor for key, tensor in state_dict.items() if not extra.fullmatch(key)}
            (network, names), unused = _resnet(state_dict), r"fc\."
        else:
            raise ValueError(f"unknown kind {kind!r}: use 'generator', 'discriminator' or 'perceptual'")
        _fill(network, _rename(state_dict, names, unused))
    except (IndexError, RuntimeError, ZeroDivisionError) as error:  # shapes from which no network can be built
        raise ValueError(f"this is no {kind} of the authors' code") from error
    except KeyError as error:
        raise ValueError(f"this is no {kind} of the authors' code: {error} is missing") from error
    return (PerceptualNetwork(network, batch_statistics=False) if kind == "perceptual" else network).eval()


def _fill(network: nn.Module, state_dict: dict[str, Tensor]) -> None:
    """Load strictly, with one line of error.

    Raises:
        ValueError: a tensor is missing, has another shape or belongs nowhere.
    """
    own = network.state_dict()
    for name, tensor in own.items():
        if name not in state_dict:
            if name.endswith("num_batches_tracked"):  # a counter that exports drop; nothing here reads it
                continue
            raise ValueError(f"the checkpoint lacks {name}")
        if state_dict[name].shape != tensor.shape:
            raise ValueError(f"{name}: expected {tuple(tensor.shape)}, found {tuple(state_dict[name].shape)}")
    if surplus := state_dict.keys() - own.keys():
        raise ValueError(f"checkpoint entry {min(surplus)} belongs to no part of this network")
    network.load_state_dict(own | state_dict)


# Reading files. A checkpoint is a pickle, and a pickle is a program: what follows runs none of it but the few steps
# that describe tensors, so that a file from anywhere can be opened. It reads torch.save's two formats and TorchScript
# archives by itself instead of through torch.load and torch.jit.load: torch.load's restricted mode refuses the
# settings and callbacks in Lightning's files, its open mode executes them, and torch.jit.load is deprecated.

_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first object in a file of torch.save before PyTorch 1.6
_BROKEN = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    SafetensorError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)
"""What a damaged pickle, archive or description of a tensor raises."""


class _InertType(type):
    """Makes a class take whatever an unpickler does to classes and to their instances, and do nothing."""

    def __call__(cls, *args: object, **kwargs: object) -> "_InertType":
        """Calling it, whatever for, gives the class itself: it is its own only instance."""
        return cls

    def __setitem__(cls, key: object, value: object) -> None:
        """Keep nothing."""

    def append(cls, item: object) -> None:
        """Keep nothing."""

    extend = add = __setstate__ = append


class _Inert(metaclass=_InertType):
    """Stands in for every class and function that is not needed."""

    def __new__(cls, *args: object, **kwargs: object) -> type["_Inert"]:
        return cls


# The few classes that a pickle may really build. Each has ``__setstate__``, without which a pickle could set attributes
# of the class itself.


class _Mapping(dict):
    """Stands in for ``OrderedDict``, whose attributes (``_metadata``) nobody needs."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Keep nothing."""


class _Module:
    """Stands in for a module of a TorchScript archive."""

    attributes: object = None

    def __setstate__(self, state: object) -> None:
        self.attributes = state


class _Parameter:
    """Stands in for ``torch._utils._rebuild_parameter``."""

    def __new__(cls, tensor: object, *_: object) -> object:
        return tensor

    def __setstate__(self, state: object) -> None:
        """Keep nothing."""


class _Storage(NamedTuple):
    """Numbers that lie elsewhere in the file."""

    key: str
    dtype: torch.dtype
    length: int


class _Entry(NamedTuple):
    """Stands in for ``torch._utils._rebuild_tensor_v2``: a tensor that is described but not read yet."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    requires_grad: object = None
    hooks: object = None
    metadata: object = None

    def __setstate__(self, state: object) -> None:
        """Keep nothing."""


_KNOWN = {
    ("collections", "OrderedDict"): _Mapping,
    ("torch._utils", "_rebuild_parameter"): _Parameter,
    ("torch._utils", "_rebuild_tensor"): _Entry,
    ("torch._utils", "_rebuild_tensor_v2"): _Entry,
} | {(module, name): dtype for module in ("torch", "torch.cuda") for name, dtype in _DTYPES.items()}


class _Unpickler(pickle._Unpickler):
    """Reads what a checkpoint says of its tensors, and nothing else; no code outside this module is run.

    The base is the standard library's unpickler in Python: in the C one a single wrong byte may ask for gigabytes.
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="utf-8", errors="replace")  # byte strings, from the time of Python 2
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> object:
        """What the pickle's name stands for; every global of every opcode comes through here."""
        return _Module if module.split(".")[0] == "__torch__" else _KNOWN.get((module, name), _Inert)

    def get_extension(self, code: int) -> None:
        """A global by a registered number; ``copyreg`` would hand out what it has cached."""
        self.append(_Inert)

    def persistent_load(self, pid: Any) -> object:
        """A storage; newer formats end its description with the length, the old one with the part that is used."""
        match pid:
            case ("storage", torch.dtype() as dtype, str(key), _, int(length), *rest) if rest in ([], [None]):
                return self.storages.setdefault(key, _Storage(key, dtype, length))
        return _Inert


def _entries(contents: object) -> dict[str, _Entry]:
    """The tensors of what was unpickled, by name.

    Raises:
        UserError: there are none.
    """
    if isinstance(contents, _Module):
        entries = _module_entries(contents, "", set())
    else:
        inner = contents.get("state_dict", contents) if isinstance(contents, dict) else {}
        entries = inner if isinstance(inner, dict) else {}
    entries = {key: entry for key, entry in entries.items() if isinstance(key, str) and isinstance(entry, _Entry)}
    if not entries:
        raise UserError("holds no state dict, a mapping of names to tensors; save network.state_dict() instead")
    return entries


def _module_entries(module: _Module, prefix: str, seen: set[int]) -> dict[str, object]:
    """A TorchScript module's attributes by the names that its state dict has."""
    seen.add(id(module))
    entries = {}
    for name, value in module.attributes.items():
        if not isinstance(value, _Module):
            entries[prefix + name] = value
        elif id(value) not in seen:
            entries |= _module_entries(value, f"{prefix}{name}.", seen)
    return entries


def _tensors(entries: dict[str, _Entry], read: Callable[[_Storage], bytes]) -> dict[str, Tensor]:
    """Read the storages that ``entries`` use, each once, and cut the tensors out of them.

    Raises:
        ValueError: a description that does not fit its storage.
        RuntimeError: the same, found by torch.
    """
    flat: dict[str, Tensor] = {}
    tensors = {}
    for name, entry in entries.items():
        storage = entry.storage
        if not isinstance(storage, _Storage) or math.prod(entry.size) > storage.length:
            raise ValueError(f"{name} is larger than what is stored of it")
        if storage.key not in flat:
            data = bytearray(read(storage))
            if len(data) != storage.length * storage.dtype.itemsize:
                raise ValueError(f"{name} has {len(data)} bytes")
            flat[storage.key] = (
                torch.frombuffer(data, dtype=storage.dtype) if data else torch.empty(0, dtype=storage.dtype)
            )
        tensors[name] = torch.as_strided(flat[storage.key], entry.size, entry.stride, entry.offset)
    return tensors


def _read_zip(path: Path) -> dict[str, Tensor]:
    """torch.save's format since 1.6 and TorchScript's: ``<any>/data.pkl`` and ``<any>/data/<key>``, not compressed."""
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        root = next((name.removesuffix("data.pkl") for name in members if re.fullmatch(r"[^/]+/data\.pkl", name)), None)
        if root is None:
            inside = next((name for name in members if name.endswith(".ckpt")), None)
            fix = f"unzip it and give the folder with {inside}" if inside else "give the checkpoint itself"
            raise UserError(f"is a zip archive but no checkpoint: {fix}")

        def read(name: str) -> bytes:
            if members[root + name].compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{name} is compressed, which torch never does")
            return archive.read(root + name)

        entries = _entries(_Unpickler(io.BytesIO(read("data.pkl"))).load())
        return _tensors(entries, lambda storage: read(f"data/{storage.key}"))


def _read_legacy(path: Path) -> dict[str, Tensor]:
    """torch.save's format before 1.6: pickles of a magic number, version, machine, contents and keys, then storages."""
    with path.open("rb") as file:
        if _Unpickler(file).load() != _LEGACY_MAGIC:
            raise UserError("is a pickle but no checkpoint of PyTorch; save network.state_dict() with torch.save")
        for _ in ("version", "machine"):
            _Unpickler(file).load()
        unpickler = _Unpickler(file)
        entries = _entries(unpickler.load())
        starts = {}
        for key in _Unpickler(file).load():
            storage = unpickler.storages[key]
            if int.from_bytes(file.read(8), "little") != storage.length:
                raise ValueError(f"storage {key} has another length than its description")
            starts[key] = file.tell()
            if file.seek(storage.length * storage.dtype.itemsize, os.SEEK_CUR) > path.stat().st_size:
                raise EOFError("it ends too early")

        def read(storage: _Storage) -> bytes:
            file.seek(starts[storage.key])
            return file.read(storage.length * storage.dtype.itemsize)

        return _tensors(entries, read)


def _checkpoint_file(path: Path) -> Path:
    """``path``, or the checkpoint inside a released folder; its ``config.yaml`` is not needed, shapes tell it all.

    Raises:
        UserError: there is no such file.
    """
    if path.is_dir():
        if not (inside := path / "models" / "best.ckpt").is_file():
            raise UserError(f"{path} lacks models/best.ckpt; give the folder of a released model, or a checkpoint file")
        return inside
    if not path.is_file():
        raise UserError(f"{path} does not exist; give a checkpoint file, or a folder with models/best.ckpt")
    return path


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint, under the names they have there, and run none of the code it may hold.

    Args:
        path: a file of torch.save (``.ckpt``, ``.pth``, ``.pt``; a state dict, or a mapping with a ``state_dict``), a
            TorchScript archive, a safetensors file, or a released folder with ``models/best.ckpt``.

    Returns:
        Names and tensors on the CPU.

    Raises:
        UserError: no such file, or one that is no checkpoint or damaged, with what to do about it.
    """
    path = _checkpoint_file(Path(path).expanduser())
    try:
        with path.open("rb") as file:
            head = file.read(512)
        if head.startswith(b"version https://git-lfs"):
            raise UserError("is a Git LFS pointer, not the file it stands for; run `git lfs pull` there")
        if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
            raise UserError("is a web page, not a checkpoint; open its address in a browser and save the file itself")
        if head.startswith(b"PK\x03\x04"):
            return _read_zip(path)
        if head[8:9] == b"{":
            return load_file(path)
        if head.startswith(b"\x80"):
            return _read_legacy(path)
        raise UserError("is empty; fetch it again" if not head else "is no checkpoint; give a .ckpt, .pth or .pt file")
    except UserError as error:
        raise UserError(f"{path} {error}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except _BROKEN as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is damaged or incomplete ({reason}); fetch it again") from error


def split_networks(state_dict: StateDict) -> dict[str, dict[str, Tensor]]:
    """Sort the authors' entries by network.

    A training checkpoint also holds loss networks (``loss_resnet_pl.``, ``loss_pl.``), evaluators (``val_evaluator.``,
    ``test_evaluator.``, ``extra_evaluators.``) and perhaps ``generator_average.``, which their prediction never reads:
    they are left out. A TorchScript export puts ``model.`` before each name; a bare generator or discriminator is
    recognised as well.

    Args:
        state_dict: names and tensors of :func:`read_state_dict`.

    Returns:
        ``"generator"`` and ``"discriminator"``, those that are there, each with names for :func:`load_reference`.
    """
    networks: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state_dict.items():
        if match := re.match(r"(?:model\.)?(generator|discriminator)\.", key):
            networks.setdefault(match[1], {})[key[match.end() :]] = tensor
    if not networks and any(re.match(r"model\.\d+\.", key) for key in state_dict):
        return {"generator": dict(state_dict)}
    if not networks and any(re.match(r"model\d+\.", key) for key in state_dict):
        return {"discriminator": dict(state_dict)}
    return networks


def _locate(name_or_path: str | Path) -> Path:
    """The file of published weights, fetched if need be, or the path itself; a string that is a name is the name."""
    return fetch_weights(name_or_path) if name_or_path in PUBLISHED else Path(name_or_path)


def _build(state_dict: StateDict, kind: str, name_or_path: str | Path) -> Generator | Discriminator | PerceptualNetwork:
    """:func:`load_reference` for a file, whose name its errors give; published weights have the published size.

    Raises:
        UserError: the tensors do not make this network.
    """
    try:
        network = load_reference(state_dict, kind)
    except ValueError as error:
        raise UserError(f"{name_or_path} does not fit: {error}; give a checkpoint of the authors' code") from error
    published = PUBLISHED.get(name_or_path)
    if published and kind != "discriminator" and count_parameters(network) != published.parameters:
        raise UserError(
            f"the file of {name_or_path} holds another network ({count_parameters(network)} parameters instead of "
            f"{published.parameters}); delete {fetch_weights(name_or_path)} and fetch {published.url}"
        )
    return network


def load_authors_networks(name_or_path: str | Path) -> tuple[Generator, Discriminator | None]:
    """Load a generator of the authors' code, and the discriminator trained with it where the file has one.

    Args:
        name_or_path: a name in :data:`lama_minimal.download.PUBLISHED`, or what :func:`read_state_dict` reads.

    Returns:
        The generator, and the discriminator or None (released models have none), in evaluation mode, on the CPU.

    Raises:
        UserError: the file cannot be had or read, or holds no generator of the authors' code.
    """
    networks = split_networks(read_state_dict(_locate(name_or_path)))
    if "generator" not in networks:
        raise UserError(
            f"{name_or_path} holds no generator of the authors' code; give a checkpoint with generator.model.…"
        )
    generator = _build(networks["generator"], "generator", name_or_path)
    if "discriminator" not in networks:
        return generator, None
    return generator, _build(networks["discriminator"], "discriminator", name_or_path)


def load_authors_generator(name_or_path: str | Path) -> Generator:
    """The generator of :func:`load_authors_networks`, for prediction."""
    return load_authors_networks(name_or_path)[0]


def load_perceptual(name_or_path: str | Path, batch_statistics: bool = True) -> PerceptualNetwork:
    """Load the frozen network of a perceptual loss.

    Args:
        name_or_path: ``"ade20k"`` (the paper's), ``"imagenet-resnet50"``, ``"vgg19"``, or a file with such an encoder.
        batch_statistics: as in :class:`~lama_minimal.perceptual.PerceptualNetwork`.

    Raises:
        UserError: the file cannot be had or read, or holds no such encoder.
    """
    network = _build(read_state_dict(_locate(name_or_path)), "perceptual", name_or_path)
    return PerceptualNetwork(network.encoder, batch_statistics)
