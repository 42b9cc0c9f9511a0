"""What a teacher gives away: a zip for learners, and a course folder for nbgrader.

In the course folder, with nbgrader's environment activated (it calls ``alembic`` by name): ``nbgrader
generate_assignment 04_fourier``, then, with a submission in ``submitted/NAME/04_fourier/``, ``nbgrader autograde
04_fourier``, ``nbgrader generate_feedback 04_fourier`` and ``nbgrader export``. ``make nbgrader`` does so with nbgrader
0.9.6 and compares its points with those of ``lama-minimal grade``.

nbgrader runs a learner's code with the teacher's rights and compares in the same process; ``lama-minimal grade`` does
neither.
"""

import shutil
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path

from lama_minimal.config import UserError
from lama_minimal.grade import SOLUTIONS, cells_of

CHAPTERS = SOLUTIONS.parent / "chapters"
SECRETS = ("### BEGIN SOLUTION", "### BEGIN HIDDEN TESTS")

README = """\
{chapters}

Set up once (Python 3.11 or newer), in this folder:

    python -m venv .venv
    .venv/bin/python -m pip install "lama-minimal[course] @ git+{address}"
    (Windows: .venv\\Scripts\\python)
    .venv/bin/python -m jupyterlab

Write your answers where it says YOUR CODE HERE, run all cells, save, and hand in the notebook under its own name.
Cells with tests are replaced by the originals before grading: change them as you like, it makes no difference.
"""

CONFIG = """\
# Made by `lama-minimal nbgrader-export`; for nbgrader 0.9.6.
c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "lama-minimal"
c.ExecutePreprocessor.timeout = 300  # seconds a cell
c.ClearSolutions.code_stub = {"python": "# YOUR CODE HERE\\nraise NotImplementedError()"}
"""


def _choose(folder: Path, numbers: Sequence[str]) -> list[Path]:
    """The notebooks whose names begin with the numbers; all where none are given."""
    found = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise UserError(f"no notebooks in {folder}: run this in a checkout of the course")
    chosen = [path for path in found if not numbers or path.stem in numbers or path.stem.partition("_")[0] in numbers]
    known = {part for path in found for part in (path.stem, path.stem.partition("_")[0])}
    unknown = [number for number in numbers if number not in known]
    if unknown:
        raise UserError(f"no chapter {unknown[0]}: there are {', '.join(path.stem for path in found)}")
    return chosen


def _repository() -> str:
    """The repository's address, as ``pyproject.toml`` has it."""
    project = tomllib.loads((SOLUTIONS.parent / "pyproject.toml").read_text("utf-8"))["project"]
    return project["urls"]["Repository"]


def handout(numbers: Sequence[str], out: Path, chapters: Path | None = None) -> Path:
    """Pack chapters for learners, without solutions and hidden tests; the same chapters make the same bytes.

    Args:
        numbers: such as 03 and 04, or full names; none = all.
        out: folder for the zip.
        chapters: folder of the student notebooks; None = the one of the checkout.

    Returns:
        The zip's path.

    Raises:
        UserError: no such chapter, or one that holds an answer.
    """
    chosen = _choose(chapters or CHAPTERS, numbers)
    for path in chosen:
        if any(secret in cell["source"] for cell in cells_of(path) for secret in SECRETS):
            raise UserError(f"{path} holds answers or hidden tests: generate it anew with `make chapters`")
    out.mkdir(parents=True, exist_ok=True)
    target = out / f"lama-minimal-{'-'.join(path.stem.partition('_')[0] for path in chosen)}.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        names = "\n".join(path.name for path in chosen)
        readme = README.format(chapters=names, address=_repository())
        files = {"README.txt": readme} | {path.name: path.read_text("utf-8") for path in chosen}
        for name, text in files.items():
            packed.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), text.encode(), zipfile.ZIP_DEFLATED)
    return target


def nbgrader_export(out: Path, numbers: Sequence[str] = (), solutions: Path | None = None) -> list[Path]:
    """Lay out a course folder: ``nbgrader_config.py`` and ``source/NN_name/NN_name.ipynb``.

    Args:
        out: the folder; must be empty or new.
        numbers: chapters; none = all.
        solutions: folder of the originals; None = the one of the checkout.

    Returns:
        The notebooks written.

    Raises:
        UserError: no such chapter, or there is something in the folder.
    """
    chosen = _choose(solutions or SOLUTIONS, numbers)
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty: name a new folder")
    written = []
    for path in chosen:
        target = out / "source" / path.stem / path.name
        target.parent.mkdir(parents=True)
        shutil.copyfile(path, target)
        written.append(target)
    (out / "nbgrader_config.py").write_text(CONFIG)
    return written
