"""nbgrader itself generates, grades and explains exported chapters; its points must be ours (`make nbgrader`).

    build/nbgrader/bin/python tests/nbgrader_run.py FOLDER NN …

Each chapter has three submissions: the solutions, a blank one, and one with the first wrong answer of
``tests/course_wrong_answers`` that earns something. Exit code 1 if any exercise earns other points than with
``lama-minimal grade``.
"""

import csv
import os
import runpy
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from nbgrader.api import Gradebook

from lama_minimal import course, handout
from lama_minimal.grade import grade

TABLES = Path(__file__).parent / "course_wrong_answers"


def nbgrader(folder: Path, *arguments: str) -> None:
    """Run one of its commands in the course's folder, with nobody's settings but the folder's own."""
    settings = {name: str(folder / ".settings") for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")}
    began = time.monotonic()
    command = [sys.executable, "-m", "nbgrader", *arguments]
    done = subprocess.run(command, cwd=folder, env=os.environ | settings, capture_output=True, text=True)
    print(f"nbgrader {' '.join(arguments)}: exit code {done.returncode}, {time.monotonic() - began:.0f} s", flush=True)
    if done.returncode:
        sys.exit(done.stderr[-4000:])


def hand_in(folder: Path, path: Path) -> None:
    """Put a chapter's three submissions in place, made from what nbgrader released."""
    released, solution = course.read(folder / "release" / path.stem / path.name), course.read(path)
    full, wrong = course.fill(released, solution), course.fill(released, solution)
    table = runpy.run_path(str(TABLES / f"{path.stem}.py"))["WRONG"]
    name, old, new = next(
        (name, old, new) for name, rows in table.items() for _, points, _, old, new in rows if points > 0
    )
    cell = next(cell for cell in wrong.cells if course.label(cell).get("grade_id") == name)
    cell.source = cell.source.replace(old, new)
    for learner, notebook in {"full": full, "blank": released, "wrong": wrong}.items():
        target = folder / "submitted" / learner / path.stem / path.name
        target.parent.mkdir(parents=True)
        target.write_text(course.text_of(notebook))


def main(folder: Path, numbers: list[str]) -> int:
    """Run it all; returns the exit code."""
    packages = "nbgrader nbconvert nbclient ipykernel sqlalchemy torch numpy".split()
    print("Python", sys.version.split()[0], *(f"· {name} {version(name)}" for name in packages))
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # it calls alembic
    shutil.rmtree(folder, ignore_errors=True)
    handout.nbgrader_export(folder, numbers)
    paths = course.solutions(numbers)
    for path in paths:
        nbgrader(folder, "generate_assignment", path.stem)
        hand_in(folder, path)
        nbgrader(folder, "autograde", path.stem)
        nbgrader(folder, "generate_feedback", path.stem)
    nbgrader(folder, "export", "--to", "grades.csv")
    with (folder / "grades.csv").open() as file:
        totals = {(row["student_id"], row["assignment"]): float(row["score"]) for row in csv.DictReader(file)}
    differing = 0
    with Gradebook(f"sqlite:///{folder}/gradebook.db") as book:
        for record in grade([folder / "submitted"]):
            theirs = book.find_submission_notebook(record.chapter, record.chapter, record.learner)
            points = {mark.name.removesuffix("-test"): mark.score for mark in theirs.grades}
            same = points == {mark.name: mark.points for mark in record.exercises}
            same &= totals[record.learner, record.chapter] == record.points
            same &= (folder / "feedback" / record.learner / record.chapter / f"{record.chapter}.html").exists()
            differing += not same
            print(
                f"{record.chapter} {record.learner}: nbgrader {points}, sum {totals[record.learner, record.chapter]:g}"
            )
            print("  the same" if same else f"  OURS {[(mark.name, mark.points) for mark in record.exercises]}")
    print(f"{len(totals)} submissions, {differing} with other points than lama-minimal grade")
    return int(differing > 0 or len(totals) != 3 * len(paths))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:]))
