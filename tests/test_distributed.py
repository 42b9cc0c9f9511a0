"""Several machines, as network namespaces on one: the same weights as one process, also when a process is killed.

Each process normalises by its own batch, as in the original, and gradients are averaged. One process that takes the
others' batches as micro-batches (``run.accumulate``) therefore makes the same steps, up to the order of the sums.
BatchNorm's running statistics are averaged after each step where there are several processes, and updated one
micro-batch after the other where there is one: they agree only roughly, and are left out of the comparison.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lama_minimal.checkpoint import TrainingState, save_generator
from lama_minimal.config import GeneratorSettings, UserError, read_settings
from lama_minimal.models import FourierGenerator
from lama_minimal.train import join_processes

TINY = [
    *("--preset", "demo", "--device", "cpu", "--generator.width", "8", "--generator.blocks", "1", "--data.size", "16"),
    *(
        "--loss.adversarial",
        "0.1",
        "--discriminator.width",
        "8",
        "--discriminator.layers",
        "1",
        "--run.batch-size",
        "2",
    ),
    *("--data.evaluation-images", "1", "--run.evaluate-every", "100", "--run.sample-every", "100"),
]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@contextmanager
def machines(count: int) -> Iterator[list[str]]:
    """Names of network namespaces that reach one another as 10.99.0.1, 10.99.0.2, … and nothing else.

    The first one holds the switch. Nothing of the machine's own network is touched.
    """
    names = [f"lama-{os.getpid()}-{index}" for index in range(count)]
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", names[0], "link", "add", "net0", "type", "bridge")
        for index, name in enumerate(names[1:], 1):
            ip("-n", name, "link", "add", "net0", "type", "veth", "peer", "name", f"port{index}", "netns", names[0])
            ip("-n", names[0], "link", "set", f"port{index}", "master", "net0", "up")
        for index, name in enumerate(names, 1):
            ip("-n", name, "addr", "add", f"10.99.0.{index}/24", "dev", "net0")
            ip("-n", name, "link", "set", "net0", "up")
        yield names
    finally:
        for name in names:
            inside = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout.split()
            for process in inside:  # left by a test that failed
                with suppress(ProcessLookupError):
                    os.kill(int(process), signal.SIGKILL)
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def can_make_machines() -> str:
    """Why network namespaces cannot be made here; empty = they can."""
    if shutil.which("ip") is None:
        return "there is no `ip` (iproute2)"
    try:
        with machines(2):
            return ""
    except subprocess.CalledProcessError as error:
        return f"network namespaces cannot be made ({error.stderr.strip()}); it takes root on Linux"


WHY_NOT = can_make_machines()
several = pytest.mark.skipif(bool(WHY_NOT), reason=f"NOTHING ABOUT SEVERAL MACHINES IS TESTED: {WHY_NOT}")


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"} | more


def _start(command: list[str], log: IO[str]) -> subprocess.Popen:
    interface = environment(GLOO_SOCKET_IFNAME="net0")
    return subprocess.Popen(command, env=interface, stdout=log, stderr=log, start_new_session=True)


def torchrun(names: list[str], out: Path, steps: int, *more: str) -> list[subprocess.Popen]:
    """The README's command on each machine."""
    started = []
    for index, name in enumerate(names, 1):
        command = ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run"]
        command += ["--nnodes", str(len(names)), "--nproc-per-node", "1", "--rdzv-backend", "c10d"]
        command += ["--rdzv-endpoint", "10.99.0.1:29400", "--local-addr", f"10.99.0.{index}", "--max-restarts", "3"]
        command += ["--rdzv-conf", f"is_host={int(index == 1)}"]  # found out by names, which these machines lack
        command += ["-m", "lama_minimal", "train", "--out", str(out), *TINY, "--steps", str(steps), *more]
        log = (out.parent / f"{out.name}-{index}.log").open("w")
        started.append(_start(command, log))
        log.close()
    return started


def wait(started: list[subprocess.Popen], out: Path) -> None:
    """Until all have ended well."""
    codes = [process.wait(timeout=300) for process in started]
    logs = "\n".join(path.read_text()[-2000:] for path in sorted(out.parent.glob(f"{out.name}-*.log")))
    assert codes == [0] * len(started), logs


def alone(out: Path, steps: int, micro_batches: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Weights of one process that makes the same steps, before them and after."""
    command = [sys.executable, "-m", "lama_minimal", "train", "--out", str(out), *TINY, "--steps", str(steps)]
    command += ["--run.accumulate", str(micro_batches)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    fresh = TrainingState.create(read_settings(out / "settings.json"), torch.device("cpu"))
    fresh.save(out / "fresh/last")
    return weights(out / "fresh"), weights(out)


def weights(out: Path) -> dict[str, torch.Tensor]:
    """Weights of both networks."""
    generator = load_file(out / "last/generator.safetensors")
    training = load_file(out / "last/training.safetensors")
    discriminator = {name: tensor for name, tensor in training.items() if name.startswith("discriminator.")}
    assert generator and discriminator
    return {name: value for name, value in (generator | discriminator).items() if value.is_floating_point()}


def check_same(found: dict[str, torch.Tensor], start: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    """Within 2% of the way that training has moved each tensor's weights.

    A bias before a BatchNorm has no gradient but rounding noise, which Adam turns into strides of random sign.
    """
    compared = [name for name in wanted if "running" not in name and not name.endswith(".0.bias")]
    assert len(compared) > 20
    for name in compared:
        way = (wanted[name] - start[name]).abs().max()
        assert (found[name] - wanted[name]).abs().max() < 0.02 * way + 1e-7, name
        assert way > 1e-4, name  # there was something to learn


def worker_of(process: subprocess.Popen) -> int:
    """The training process that torchrun has started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return next(int(child) for child in children if b"lama_minimal" in Path(f"/proc/{child}/cmdline").read_bytes())


@several
@pytest.mark.xdist_group("machines")
def test_two_machines_make_the_steps_of_one(tmp_path) -> None:
    with machines(2) as names:
        wait(torchrun(names, tmp_path / "two", 12), tmp_path / "two")
    check_same(weights(tmp_path / "two"), *alone(tmp_path / "one", 12, 2))


@several
@pytest.mark.xdist_group("machines")
def test_three_machines_survive_a_kill(tmp_path) -> None:
    """One worker dies by SIGKILL after step 4: all go on from the last checkpoint, to the same weights."""
    out = tmp_path / "three"
    with machines(3) as names:
        started = torchrun(names, out, 24, "--run.save-every", "2")
        end = time.monotonic() + 200
        while not (out / "last/state.json").exists() or json.loads((out / "last/state.json").read_text())["step"] < 4:
            assert time.monotonic() < end and all(process.poll() is None for process in started)
            time.sleep(0.01)
        os.kill(worker_of(started[1]), signal.SIGKILL)
        wait(started, out)
    steps = [int(line.split(",")[0]) for line in (out / "log.csv").read_text().splitlines()[1:]]
    assert steps == list(range(1, 25))
    assert any("exitcode: -9" in path.read_text() for path in tmp_path.glob("three-*.log"))
    check_same(weights(out), *alone(tmp_path / "one", 24, 3))


def test_two_processes_fill_a_folder(tmp_path) -> None:
    """Under torchrun: each picture once, and one summary of both."""
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for n in range(5):
        Image.new("RGB", (24, 20), (10 * n, 0, 0)).save(folder / f"{n}.png")
        Image.new("L", (24, 20), 255).save(folder / f"{n}_mask.png")
    (folder / "3.png").write_bytes(b"broken")
    save_generator(FourierGenerator(8, 1, 2), GeneratorSettings(width=8, blocks=1, downsamplings=2), tmp_path / "model")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command += ["lama_minimal", "inpaint", str(folder), "--out", str(out), "--model", str(tmp_path / "model")]
    done = subprocess.run([*command, "--device", "cpu"], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("4 written, 0 already there, 1 failed\n") and done.stdout.count("written") == 1
    assert "3.png" in done.stdout and sorted(path.name for path in out.iterdir()) == [
        f"{n}_mask.png" for n in (0, 1, 2, 4)
    ]


def test_restarts_that_could_not_work_are_refused_at_once(monkeypatch) -> None:
    """PyTorch's default lets restarted processes find the addresses of their predecessors."""
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "TORCHELASTIC_MAX_RESTARTS": "3"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    with pytest.raises(UserError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        join_processes("cpu")
