"""The web page in a process of its own, as a user starts it, for tests with and without a browser."""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import pytest
import torch

from lama_minimal.checkpoint import save_generator
from lama_minimal.config import GeneratorSettings
from lama_minimal.models import build_generator

ROOT = Path(__file__).parent.parent


@dataclass
class Server:
    """The page in a process of its own, which has nothing but ``home`` to write to."""

    address: str
    process: subprocess.Popen
    home: Path
    log: Path

    def memory(self) -> int:
        """Resident bytes."""
        return psutil.Process(self.process.pid).memory_info().rss

    def files(self) -> list[Path]:
        """What the page's visitors have on the disk, in the page's own folder."""
        found = [path for path in (self.home / "tmp").rglob("*") if path.is_file()]
        return [path for path in found if path.parent.name != "page"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(home: Path, model: Path, *options: str) -> Server:
    """Start the page and wait until it says that it is there."""
    (home / "tmp").mkdir(parents=True)
    port, log = free_port(), home.with_suffix(".log")
    command = [sys.executable, "-m", "lama_minimal", "app", "--model", str(model), *options, "--port", str(port)]
    places = dict(TMPDIR=str(home / "tmp"), HOME=str(home), OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=home, env=os.environ | places, stdout=out, stderr=out)
    for _ in range(600):
        if "open http" in log.read_text():
            return Server(f"http://127.0.0.1:{port}", process, home, log)
        if process.poll() is not None:
            break
        time.sleep(0.1)
    process.kill()
    pytest.fail(f"the page did not start: {log.read_text()[-2000:]}")


def stop(server: Server) -> None:
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(timeout=60)


def saved(folder: Path, width: int) -> Path:
    """A small generator that has learned nothing."""
    torch.manual_seed(0)
    settings = GeneratorSettings(width=width, blocks=1)
    save_generator(build_generator(**asdict(settings)), settings, folder)
    return folder
