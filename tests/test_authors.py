"""Reading the authors' files: every format, built here from the reference's key lists; no foreign code ever runs."""

import copyreg
import functools
import operator
import os
import pickle
import random
import subprocess
import sys
import threading
import types
import warnings
import zipfile
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import REFERENCE, draw_weights, relative_error, tensors
from safetensors.torch import save_file

from lama_minimal import authors
from lama_minimal.authors import (
    load_authors_generator,
    load_authors_networks,
    load_perceptual,
    read_state_dict,
    split_networks,
)
from lama_minimal.config import UserError
from lama_minimal.download import PUBLISHED
from lama_minimal.models import FourierGenerator, count_parameters
from lama_minimal.perceptual import ResNetEncoder, VGG19Encoder

ADE20K_FILE = "encoder_epoch_20.pth"


@pytest.fixture(scope="module")
def golden():
    return tensors()


GENERATOR = draw_weights(REFERENCE["generators"]["fourier"]["keys"], 100)
DISCRIMINATOR = draw_weights(REFERENCE["discriminator"], 600)


def prefixed(prefix, state_dict):
    return {prefix + name: tensor for name, tensor in state_dict.items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def throwaway_class(monkeypatch, module, name, **members):
    """A class in a module that exists only while the file is written, as the authors' libraries do for us."""
    parts = module.split(".")
    for n in range(1, len(parts) + 1):
        if (parent := ".".join(parts[:n])) not in sys.modules:
            monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
    cls = type(name, (), {"__module__": module, **members})
    setattr(sys.modules[module], name, cls)
    return cls


LIGHTNING = {
    **prefixed("generator.", GENERATOR),
    **prefixed("discriminator.", DISCRIMINATOR),
    "loss_resnet_pl.impl.conv1.weight": torch.ones(2, 2),
    "loss_pl.vgg.features.0.weight": torch.ones(3),
    "val_evaluator.scores.lpips.net.lin0.weight": torch.ones(4),
    "test_evaluator.scores.fid.model.blocks.0.0.conv.weight": torch.ones(5),
    "generator_average.model.1.ffc.convl2l.weight": torch.ones(6),
}


def save_lightning(path, **options):
    """A training checkpoint with what Lightning and the authors put beside the weights."""
    with pytest.MonkeyPatch.context() as patch:
        config = throwaway_class(
            patch, "omegaconf.dictconfig", "DictConfig", __setstate__=lambda self, state: self.__dict__.update(state)
        )
        listed = throwaway_class(
            patch, "omegaconf.listconfig", "ListConfig", __reduce__=lambda self: (type(self), (), None, iter([1, 2]))
        )
        listed.extend = lambda self, items: None
        table = throwaway_class(
            patch, "omegaconf.base", "Table", __reduce__=lambda self: (type(self), (), None, None, iter([("k", 1)]))
        )
        table.__setitem__ = lambda self, key, value: None
        callback = throwaway_class(patch, "pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
        metadata = throwaway_class(patch, "omegaconf.base", "ContainerMetadata")
        node = config()
        node.__dict__.update({"_content": {"lr": listed(), "table": table()}, "_metadata": metadata(), "_parent": node})
        torch.save(
            {
                "epoch": 39,
                "global_step": 1_000_000,
                "pytorch-lightning_version": "1.2.9",
                "callbacks": {
                    callback: {"best_model_score": torch.tensor(0.9), "best_model_path": "x", "self": callback()}
                },
                "optimizer_states": [
                    {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"betas": (0.9, 0.99)}]}
                ],
                "lr_schedulers": [],
                "hyper_parameters": node,
                "numpy": [np.float64(3), np.arange(3)],
                "odd": [{1, 2}, Path("p"), functools.partial(print, 1), complex(1, 2), bytearray(b"x"), len],
                "state_dict": torch.nn.Module.state_dict(torch.nn.Linear(1, 1)) | LIGHTNING,
            },
            path,
            **options,
        )


def tree(state_dict):
    """Plain modules whose state dict has these names, as they stand around a traced generator."""
    root = torch.nn.Module()
    for key, tensor in state_dict.items():
        *path, leaf = key.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, torch.nn.Module())
            module = module._modules[part]
        if "running_" in leaf or "num_batches" in leaf:
            module.register_buffer(leaf, tensor)
        else:
            module.register_parameter(leaf, torch.nn.Parameter(tensor))
    return root


class Composite(torch.nn.Module):
    """What the TorchScript file of other tools computes, as far as its format matters: (image, mask) → picture."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, image, mask):
        return mask * self.model.generator.model._modules["1"].ffc.convl2l.weight.mean() + (1 - mask) * image


def save_torchscript(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Composite(tree(prefixed("generator.", GENERATOR))), (torch.ones(1, 3, 4, 4),) * 2)
        torch.jit.save(traced, str(path))


# --- formats ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
def test_lightning_checkpoint_with_foreign_classes(tmp_path, zipped):
    path = tmp_path / "best.ckpt"
    save_lightning(path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModuleNotFoundError):  # the file does need classes that are not there
        torch.load(path, weights_only=False)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)

    state_dict = read_state_dict(path)
    assert {k for k in state_dict if k not in LIGHTNING} == {"weight", "bias"}
    assert same({k: state_dict[k] for k in LIGHTNING}, LIGHTNING)
    networks = split_networks(state_dict)
    assert networks.keys() == {"generator", "discriminator"}
    assert same(networks["generator"], GENERATOR) and same(networks["discriminator"], DISCRIMINATOR)


@pytest.mark.parametrize("zipped", [True, False])
def test_raw_state_dict_both_formats_all_types_and_views(tmp_path, zipped):
    base = torch.arange(24.0)
    tensors = {
        "a": base.view(4, 6).t(),
        "b": base[5:9],  # shares the storage of a
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(7),
        **{str(t): torch.tensor([0, 1, 1]).to(t) for t in authors._DTYPES.values()},
        "parameter": torch.nn.Parameter(torch.ones(2, 2)),
    }
    torch.save(tensors, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    expected = torch.load(tmp_path / "x.pth", weights_only=True)
    assert same(read_state_dict(tmp_path / "x.pth"), expected)
    assert {k: t.stride() for k, t in read_state_dict(tmp_path / "x.pth").items()}["a"] == (1, 6)


def test_torchscript_archive(tmp_path):
    save_torchscript(tmp_path / "big-lama.pt")
    state_dict = read_state_dict(tmp_path / "big-lama.pt")
    assert same(state_dict, prefixed("model.generator.", GENERATOR))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert state_dict.keys() == torch.jit.load(str(tmp_path / "big-lama.pt")).state_dict().keys()


def test_reading_torchscript_warns_of_nothing(tmp_path):
    save_torchscript(tmp_path / "x.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_state_dict(tmp_path / "x.pt")


def test_released_folder_and_safetensors(tmp_path):
    folder = tmp_path / "big-lama"
    (folder / "models").mkdir(parents=True)
    (folder / "config.yaml").write_text("generator:\n  kind: ffc_resnet\n")
    torch.save({"state_dict": prefixed("generator.", GENERATOR)}, folder / "models" / "best.ckpt")
    save_file(GENERATOR, tmp_path / "x.safetensors")
    assert same(split_networks(read_state_dict(folder))["generator"], GENERATOR)
    assert same(split_networks(read_state_dict(tmp_path / "x.safetensors"))["generator"], GENERATOR)


@pytest.mark.parametrize("save", [save_lightning, save_torchscript])
def test_loaded_generator_computes_what_the_reference_does(tmp_path, golden, save):
    save(tmp_path / "file")
    generator = load_authors_generator(str(tmp_path / "file"))
    assert not generator.seamless  # fills as the authors' program does
    assert not generator.training
    with torch.no_grad():
        assert relative_error(generator(golden["fourier.x"]), golden["fourier.y_eval"]) < 1e-5


def test_discriminator_comes_along_for_fine_tuning(tmp_path, golden):
    save_lightning(tmp_path / "last.ckpt")
    _, discriminator = load_authors_networks(tmp_path / "last.ckpt")
    with torch.no_grad():
        logits, _ = discriminator(golden["discriminator.x"])
    assert relative_error(logits, golden["discriminator.logits"]) < 1e-5
    save_torchscript(tmp_path / "x.pt")
    assert load_authors_networks(tmp_path / "x.pt")[1] is None


@pytest.mark.parametrize("name", ["regular", "dilated"])
def test_other_generators_of_the_paper(tmp_path, golden, name):
    weights = draw_weights(REFERENCE["generators"][name]["keys"], 100)
    torch.save({"state_dict": prefixed("generator.", weights)}, tmp_path / "best.ckpt")
    with torch.no_grad():
        assert (
            relative_error(
                load_authors_generator(tmp_path / "best.ckpt")(golden[f"{name}.x"]), golden[f"{name}.y_eval"]
            )
            < 1e-5
        )


# --- perceptual networks ------------------------------------------------------------------------------------


def csail_file(path, keys):
    """As the CSAIL code wrote its files: PyTorch 0.4's format, no counters, bookkeeping beside the statistics."""
    weights = {k: t for k, t in draw_weights(keys, 1000).items() if not k.endswith("num_batches_tracked")}
    for key in [k for k in weights if k.endswith("running_mean")]:
        weights[key.replace("running_mean", "_tmp_running_mean")] = torch.ones_like(weights[key])
        weights[key.replace("running_mean", "_tmp_running_var")] = torch.ones_like(weights[key])
        weights[key.replace("running_mean", "_running_iter")] = torch.ones(1)
    torch.save(weights, path, _use_new_zipfile_serialization=False)


def test_ade20k_encoder_put_into_the_cache_by_hand(tmp_path, golden, monkeypatch):
    name = "hrf_resnet18dilated"  # a small one in the place of ResNet50
    keys = REFERENCE[name]["keys"]
    parameters = sum(int(np.prod(shape)) for key, shape in keys.items() if key.endswith(("weight", "bias")))
    monkeypatch.setenv("LAMA_MINIMAL_CACHE", str(tmp_path))
    monkeypatch.setitem(PUBLISHED, "ade20k", replace(PUBLISHED["ade20k"], parameters=parameters))
    csail_file(tmp_path / ADE20K_FILE, keys)
    network = load_perceptual("ade20k", batch_statistics=False)
    with torch.no_grad():
        loss = 30 * network(golden[f"{name}.pred"], golden[f"{name}.target"]).item()
    assert loss == pytest.approx(REFERENCE[name]["loss_x30"], rel=1e-4)
    with (tmp_path / ADE20K_FILE).open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match="not the file seen first"):
        load_perceptual("ade20k")


def test_batch_statistics_follow_the_argument(tmp_path):
    csail_file(tmp_path / "e.pth", REFERENCE["hrf_resnet18dilated"]["keys"])
    for batch_statistics in (True, False):
        network = load_perceptual(tmp_path / "e.pth", batch_statistics)
        norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert len(norms) > 10 and all(m.training is batch_statistics for m in norms)


def test_another_network_under_a_published_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("LAMA_MINIMAL_CACHE", str(tmp_path))
    csail_file(tmp_path / ADE20K_FILE, REFERENCE["hrf_resnet18dilated"]["keys"])  # a ResNet18, same file name at CSAIL
    with pytest.raises(UserError, match=r"another network.*23631808.*encoder_epoch_20"):
        load_perceptual("ade20k")


def test_vgg19_of_torchvision(tmp_path):
    indices, channels, inputs = [], [], 3
    layer = 0
    for stage, (width, count) in enumerate([(64, 2), (128, 2), (256, 4), (512, 4), (512, 4)]):
        layer += stage > 0  # pooling
        for _ in range(count):
            indices.append(layer)
            channels.append((width, inputs))
            inputs, layer = width, layer + 2
    assert indices == [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34]  # torchvision's configuration E
    weights = {"classifier.0.weight": torch.ones(2, 2)}
    for n, (index, shape) in enumerate(zip(indices, channels, strict=True)):
        weights[f"features.{index}.weight"] = torch.full((*shape, 3, 3), float(n))
        weights[f"features.{index}.bias"] = torch.full(shape[:1], -float(n))
    torch.save(weights, tmp_path / "vgg19.pth")
    convs = load_perceptual(tmp_path / "vgg19.pth").encoder.convs
    assert [(c.weight.unique().item(), c.bias.unique().item()) for c in convs] == [
        (float(n), -float(n)) for n in range(13)
    ]


def test_published_sizes_are_those_of_the_networks():
    with torch.device("meta"):
        sizes = {
            "big-lama": count_parameters(FourierGenerator(blocks=18)),
            "big-lama-torchscript": count_parameters(FourierGenerator(blocks=18)),
            "ade20k": count_parameters(ResNetEncoder()),
            "imagenet-resnet50": count_parameters(ResNetEncoder()),
            "vgg19": count_parameters(VGG19Encoder()),
        }
    assert sizes == {name: weights.parameters for name, weights in PUBLISHED.items()}


# --- by name, over a network --------------------------------------------------------------------------------


def test_big_lama_by_name_from_a_server(tmp_path, monkeypatch, golden):
    served, cache = tmp_path / "served", tmp_path / "cache"
    served.mkdir()
    save_lightning(served / "best.ckpt")
    with zipfile.ZipFile(served / "big-lama.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("big-lama/config.yaml", "generator: {}\n")
        archive.write(served / "best.ckpt", "big-lama/models/best.ckpt")
    handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=served))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/big-lama.zip"
    monkeypatch.setenv("LAMA_MINIMAL_CACHE", str(cache))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setitem(PUBLISHED, "big-lama", replace(PUBLISHED["big-lama"], url=url, parameters=135571))
    try:
        load_authors_generator("big-lama")
    finally:
        server.shutdown()
        server.server_close()
    generator = load_authors_generator("big-lama")  # now from the cache
    with torch.no_grad():
        assert relative_error(generator(golden["fourier.x"]), golden["fourier.y_eval"]) < 1e-5
    monkeypatch.setitem(PUBLISHED, "big-lama", replace(PUBLISHED["big-lama"], parameters=50_975_875))
    with pytest.raises(UserError, match="another network"):
        load_authors_generator("big-lama")


# --- nothing is run -----------------------------------------------------------------------------------------


class Reduces:
    """Pickles as a call of ``function(*arguments)``."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class SetsState:
    def __getstate__(self):
        return self.__dict__

    def __setstate__(self, state):
        Path(state["marker"]).touch()


class MadeByNew:
    def __new__(cls, *args, **kwargs):
        Path(args[0] if args else kwargs["marker"]).touch()
        return super().__new__(cls)

    def __getnewargs__(self):
        return (self.marker,)


class MadeByNewEx(MadeByNew):
    def __getnewargs_ex__(self):
        return (), {"marker": self.marker}


class Collects(list):
    def append(self, item):
        Path(item).touch()

    def extend(self, items):
        Path(*items).touch()

    def __reduce_ex__(self, protocol):
        return (Collects, (), None, iter([self.marker]))


class Maps(dict):
    def __setitem__(self, key, value):
        Path(value).touch()

    def __reduce_ex__(self, protocol):
        return (Maps, (), None, None, iter([("key", self.marker)]))


def holding(cls, marker):
    """An instance of ``cls`` with ``marker``, made without running what is under test."""
    instance = object.__new__(cls) if cls not in (Collects, Maps) else cls()
    instance.__dict__["marker"] = marker
    return instance


def payloads(folder):
    """Objects that create ``folder / "marker"`` when an ordinary pickle module loads them, and raw opcodes that do."""
    marker = str(folder / "marker")
    code = f"open({marker!r}, 'w').close()"
    gadget = folder / "gadget.pth"
    torch.save({"x": Reduces(exec, code)}, gadget)
    objects = {
        "os.system": Reduces(os.system, f"touch {marker}"),
        "eval": Reduces(eval, code),
        "exec": Reduces(exec, code),
        "subprocess": Reduces(subprocess.call, ["touch", marker]),
        "partial": Reduces(functools.partial(exec, code)),
        "torch.load": Reduces(functools.partial(torch.load, weights_only=False), str(gadget)),
        "methodcaller": Reduces(operator.methodcaller("touch"), Path(marker)),
        "setstate": holding(SetsState, marker),
        "new": holding(MadeByNew, marker),
        "append": holding(Collects, marker),
        "setitem": holding(Maps, marker),
    }
    for name, value in objects.items():
        for protocol in (0, 2, 4):  # GLOBAL as text, GLOBAL, STACK_GLOBAL
            if not (name == "new" and protocol == 0):
                nested = {"a": [({"b": value},)], "state_dict": {"w": value}}
                yield f"{name}-{protocol}", pickle.dumps(nested, protocol)
    yield "new_ex", pickle.dumps(holding(MadeByNewEx, marker), 4)
    path = marker.encode()
    yield "INST", b"(S'touch " + path + b"'\nios\nsystem\n."
    yield "OBJ", b"(cos\nsystem\nX" + (6 + len(path)).to_bytes(4, "little") + b"touch " + path + b"o."
    copyreg.add_extension("os", "system", 0xF0)
    yield "EXT1", b"\x82\xf0(S'touch " + path + b"'\ntR."
    copyreg.remove_extension("os", "system", 0xF0)
    yield "memo", b"cos\nsystem\nq\x000(h\x00(S'touch " + path + b"'\ntR."


def as_zip(path, data):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")


def as_torchscript(path, data):
    as_zip(path, data)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/constants.pkl", data)
        archive.writestr("archive/code/__torch__.py", "")


def as_legacy(path, data):
    magic = pickle.dumps(authors._LEGACY_MAGIC, 2)
    path.write_bytes(magic + pickle.dumps(1001, 2) + pickle.dumps({}, 2) + data + pickle.dumps([], 2))


def as_legacy_first(path, data):
    path.write_bytes(data if data.startswith(b"\x80") else b"\x80\x02" + data)


def read_or_refuse(path):
    try:
        return read_state_dict(path)
    except UserError:
        return None


@pytest.mark.parametrize("wrap", [as_zip, as_torchscript, as_legacy, as_legacy_first])
def test_no_foreign_code_is_run(tmp_path, wrap):
    marker = tmp_path / "marker"
    seen = 0
    for name, data in payloads(tmp_path):
        try:
            pickle.loads(data)
        except (TypeError, AttributeError, pickle.UnpicklingError):
            pass  # some go on to something senseless after the harm is done
        assert marker.exists(), f"{name} would harm nobody: the test proves nothing"
        marker.unlink()
        wrap(tmp_path / "evil.ckpt", data)
        read_or_refuse(tmp_path / "evil.ckpt")
        assert not marker.exists(), name
        seen += 1
    assert seen > 30


def test_evil_beside_good_weights_is_ignored(tmp_path):
    marker = tmp_path / "marker"
    good = {"generator.w": torch.arange(3.0)}
    for zipped in (True, False):
        contents = {"state_dict": good, "hyper_parameters": Reduces(exec, f"open({str(marker)!r}, 'w')")}
        torch.save(contents, tmp_path / "x.ckpt", _use_new_zipfile_serialization=zipped)
        assert same(read_state_dict(tmp_path / "x.ckpt"), good) and not marker.exists()
    torch.load(tmp_path / "x.ckpt", weights_only=False)
    assert marker.exists()


def test_a_pickle_cannot_change_the_readers_own_classes(tmp_path):
    class Victim:
        pass

    globals()["Victim"] = Victim
    attributes = b"}X\x04\0\0\0evilK\x01s"
    pickle.loads(f"c{__name__}\nVictim\nN".encode() + attributes + b"\x86b.")
    assert Victim.evil == 1  # an unpickler that hands out a bare class lets it be changed
    for module, name in [*authors._KNOWN, ("__torch__.x", "Y"), ("os", "system")]:
        for state in (attributes, b"N" + attributes + b"\x86", attributes + attributes + b"\x86"):
            as_zip(tmp_path / "x.ckpt", f"c{module}\n{name}\n".encode() + state + b"b.")
            read_or_refuse(tmp_path / "x.ckpt")
    stand_ins = {*filter(callable, authors._KNOWN.values()), authors._Module, authors._Inert, authors._InertType}
    assert len(stand_ins) == 6 and not any(hasattr(stand_in, "evil") for stand_in in stand_ins)


def test_tensors_that_claim_more_than_is_there(tmp_path):
    """A description may not reach outside its storage, nor spread few numbers over a gigantic shape."""

    def entry(length, offset, size, stride):
        description = pickle.dumps((offset, size, stride), 2)[2:-1].split(b"\x87")[0]
        # {"w": _rebuild_tensor_v2(("storage", FloatStorage, "0", "cpu", length), offset, size, stride, False, None)}
        storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu" + length + b"tQ"
        return b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n(" + storage + description + b"\x89NtRs."

    def write(*arguments):
        with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
            archive.writestr("a/data.pkl", entry(*arguments))
            archive.writestr("a/data/0", np.arange(4, dtype=np.float32).tobytes())
        return tmp_path / "x.pt"

    assert read_state_dict(write(b"K\x04", 1, (3,), (1,)))["w"].tolist() == [1, 2, 3]  # the recipe itself is sound
    for wrong in [
        (b"K\x04", 2, (3,), (1,)),
        (b"K\x04", 0, (4,), (2,)),
        (b"K\x04", 0, (10**6, 10**6), (0, 0)),
        (b"K\x04", -1, (3,), (1,)),
        (b"K\x04", 0, (-3,), (1,)),
        (b"K\x08", 0, (4,), (1,)),
        (b"J\xff\xff\xff\x7f", 0, (4,), (1,)),
    ]:
        with pytest.raises(UserError, match="damaged"):
            read_state_dict(write(*wrong))


# --- files that are no checkpoints --------------------------------------------------------------------------


def refused(path, pattern):
    with pytest.raises(UserError, match=pattern) as caught:
        read_state_dict(path)
    message = str(caught.value)
    assert "\n" not in message and path.name in message


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        (b"", "empty"),
        (b"hello", "no checkpoint"),
        (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "web page"),
        (b"\xef\xbb\xbf\r\n  <html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 410046389\n", "Git LFS pointer"),
        (pickle.dumps({"w": np.ones(3)}, 2), "no checkpoint of PyTorch"),
        (pickle.dumps({"w": np.ones(3)}, 5), "no checkpoint of PyTorch"),
        (b"PK\x03\x04" + b"\0" * 40, "damaged or incomplete"),
        (b"\x10\0\0\0\0\0\0\0{not really json", "damaged or incomplete"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path, content, pattern):
    (tmp_path / "best.ckpt").write_bytes(content)
    refused(tmp_path / "best.ckpt", pattern)


def test_zip_archives_that_are_no_checkpoint(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("a.png", b"x")
    refused(tmp_path / "photos.zip", "no checkpoint")
    with zipfile.ZipFile(tmp_path / "big-lama.zip", "w") as archive:
        archive.writestr("big-lama/models/best.ckpt", b"x")
    refused(tmp_path / "big-lama.zip", "unzip it and give the folder with big-lama/models/best.ckpt")


def test_missing_files_and_folders(tmp_path):
    refused(tmp_path / "none.ckpt", "does not exist")
    refused(tmp_path, "lacks models/best.ckpt")


def test_contents_without_a_generator(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")  # a whole network instead of its state dict
    refused(tmp_path / "module.pth", "state dict")
    torch.save({"state_dict": {}}, tmp_path / "empty.pth")
    refused(tmp_path / "empty.pth", "state dict")
    for name, weights, pattern in [
        ("unet", {"down.0.weight": torch.ones(2, 2)}, "no generator"),
        ("gan", {"generator.model.0.weight": torch.ones(2, 2)}, "does not fit"),
        (
            "lacking",
            prefixed("generator.", {k: t for k, t in GENERATOR.items() if "5.conv1.bn_l.bias" not in k}),
            "lacks",
        ),
        ("more", prefixed("generator.", GENERATOR | {"model.1.ffc.convl2l.bias": torch.ones(8)}), "belongs to no part"),
        ("other", prefixed("generator.", GENERATOR | {"extra.weight": torch.ones(8)}), "belongs to no part"),
    ]:
        torch.save({"state_dict": weights}, tmp_path / f"{name}.ckpt")
        with pytest.raises(UserError, match=rf"{name}\.ckpt.*{pattern}"):
            load_authors_generator(tmp_path / f"{name}.ckpt")
    for weights in ({"w": torch.ones(1)}, {"features.0.weight": torch.ones(1)}, {"conv1.weight": torch.ones(1)}):
        torch.save(weights, tmp_path / "encoder.pth")
        with pytest.raises(UserError, match=r"encoder\.pth does not fit"):
            load_perceptual(tmp_path / "encoder.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_anywhere(tmp_path, zipped):
    good, bad = tmp_path / "good.ckpt", tmp_path / "bad.ckpt"
    save_lightning(good, _use_new_zipfile_serialization=zipped)
    data = good.read_bytes()
    for share in np.linspace(0, 1, 60, endpoint=False):
        bad.write_bytes(data[: int(share * len(data))])
        refused(bad, "damaged or incomplete|empty")
    bad.write_bytes(data[:-1])
    refused(bad, "damaged or incomplete")


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_anywhere(tmp_path, zipped):
    """Flipped bits give an error for the user, or leave names and tensors alone where the format carries a checksum."""
    weights = {f"generator.{n}": torch.arange(4.0) + n for n in range(3)}
    good, bad = tmp_path / "good.ckpt", tmp_path / "bad.ckpt"
    torch.save({"state_dict": weights, "odd": [np.arange(3), Path("x")]}, good, _use_new_zipfile_serialization=zipped)
    data = good.read_bytes()
    draw_position = random.Random(0)
    refusals = 0
    for _ in range(500):
        changed = bytearray(data)
        changed[draw_position.randrange(len(data))] ^= 1 << draw_position.randrange(8)
        bad.write_bytes(changed)
        state_dict = read_or_refuse(bad)
        refusals += state_dict is None
        if zipped and state_dict is not None:
            assert same(state_dict, weights)
    assert refusals > 50
