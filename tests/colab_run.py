"""Chapters where Colab's versions are, and the package is not (`make colab`).

    build/colab/bin/python tests/colab_run.py FOLDER NN …

The set-up and the imports of every chapter run in a kernel that lacks the package, then the chapters named from top to
bottom, all as they are handed out. The set-up cell fetches the package from its address; git is told that the address
is a copy of this checkout, uncommitted files included. What a chapter installs is removed again before the next one.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
SHOWN = "ipykernel ipywidgets ipython nbclient traitlets torch numpy scipy matplotlib pillow scikit-image opencv-python"


def output(*command: str, **options: object) -> str:
    """What a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout


def publish(folder: Path) -> None:
    """Commit a copy of this checkout to a repository in ``folder``, and lead git from the address there."""
    copy = folder / "copy"
    for name in output("git", "ls-files", "-co", "--exclude-standard", "-z", cwd=ROOT).split("\0"):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
    address = re.search(r'(?m)^Repository = "(.+)"$', (ROOT / "pyproject.toml").read_text())[1]
    settings = folder / "gitconfig"
    settings.write_text(f'[user]\nname = colab\nemail = colab\n[url "file://{copy}"]\ninsteadOf = {address}\n')
    os.environ["GIT_CONFIG_GLOBAL"] = str(settings)
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "copy"]):
        output("git", *command, cwd=copy)


def installed() -> set[str]:
    """Names of the distributions that are there."""
    return set(re.findall(r"(?m)^[\w.-]+", output(sys.executable, "-m", "pip", "list", "--format", "freeze")))


def run(path: Path, folder: Path, whole: bool) -> None:
    """Run a chapter, or its first three cells; its first error ends the program."""
    notebook = nbformat.read(path, as_version=4)
    if not whole:
        notebook.cells = notebook.cells[:3]
    before, began = installed(), time.monotonic()
    assert "lama-minimal" not in before
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    ran = sum(cell.cell_type == "code" for cell in notebook.cells)
    new = sorted(installed() - before)
    assert "lama-minimal" in new
    output(sys.executable, "-m", "pip", "uninstall", "--yes", *new)
    what = "whole" if whole else "set-up and imports"
    print(f"{path.stem}, {what}: {ran} cells, {time.monotonic() - began:.0f} s; fetched {', '.join(new)}", flush=True)


def main(folder: Path, numbers: list[str]) -> None:
    """Run it all."""
    print("Python", sys.version.split()[0], *(f"· {name} {version(name)}" for name in SHOWN.split()))
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "content").mkdir(parents=True)
    os.environ |= {"IPYTHONDIR": str(folder / "ipython"), "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # old ipykernel, new Python: or it warns
    publish(folder)
    paths = sorted((folder / "copy" / "chapters").glob("*.ipynb"))
    whole = [path for path in paths if path.stem[:2] in numbers]
    assert len(whole) == len(numbers), f"no such chapter among {numbers}"
    for path in paths:
        run(path, folder / "content", whole=False)
    for path in whole:
        run(path, folder / "content", whole=True)
    print(f"{len(paths)} chapters begin where Colab's versions are, {len(whole)} run from top to bottom")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2:])
