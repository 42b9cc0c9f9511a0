"""Grades learners' notebooks: one file, or the folder of a whole class.

    lama-minimal grade class/ --out grades/ --seed 7 --hidden ~/private/

What counts of a submission is the code of its solution cells (nbgrader's ``grade_id``), and what they need. Everything
else, the tests above all, comes from the originals in ``solutions/``. Each exercise runs in processes of its own
(:mod:`lama_minimal.sandbox`), and its answers are compared in another. An exercise whose process the machine could not
run or ended is *not graded*; it is never a zero.

**A public repository keeps no secret.** The hidden tests of ``solutions/`` can be read by every learner, and so can the
package's own answers. What is secret is the seed (``--seed``), which draws the tests' inputs, and a teacher's folder
(``--hidden``): ``FOLDER/04_fourier/dft2.py`` runs after the graded cell of ``dft2`` and may add to its list ``cases``
or replace it; the exercise's points are then shared out by the cases' points.
"""

import ast
import json
import re
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lama_minimal.config import UserError, suggest

SOLUTIONS = Path(__file__).parent.parent / "solutions"
LARGEST_NOTEBOOK = 20 * 2**20
"""Bytes; pictures included, a chapter has less than one million."""


@dataclass(frozen=True)
class Exercise:
    """One graded function of a chapter."""

    name: str
    points: float
    check: str
    """The instant check; its cases name typical mistakes and earn nothing."""
    test: str
    """The graded cell, hidden tests included."""
    forbidden: tuple[str, ...]
    """Dotted names that answer the exercise: ``lama: {forbidden: […]}`` in the solution cell's metadata."""
    extra: str = ""
    """The teacher's own file."""


@dataclass(frozen=True)
class Chapter:
    """An original notebook, as far as grading needs it."""

    stem: str
    imports: str
    exercises: tuple[Exercise, ...]
    plain: frozenset[str]
    """Sources of all code cells that are no solutions."""


@dataclass
class Mark:
    """What an exercise earned."""

    name: str
    max_points: float
    points: float | None = 0.0
    """None = not graded."""
    reason: str = ""
    """Why it earned nothing at all, or was not graded."""
    hints: list[str] = field(default_factory=list)
    """What the instant check says."""
    tests: list[dict[str, Any]] = field(default_factory=list)
    """name, points, earned, words (for the teacher), hint (for the learner), hidden."""


@dataclass
class Record:
    """What became of a submission; a row of ``report.json``."""

    notebook: str
    learner: str
    chapter: str = ""
    status: str = "graded"
    """graded, or not graded: the whole of it, or some exercise."""
    reason: str = ""
    points: float = 0.0
    max_points: float = 0.0
    exercises: list[Mark] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was put right before grading."""
    seed: int = 0
    isolation: str = ""
    seconds: float = 0.0


# ------------------------------------------------------------------------------------------------- reading notebooks


def cells_of(path: Path) -> list[dict[str, Any]]:
    """The cells of a notebook (nbformat 4) with ``source`` as one string; of hostile origin, so nothing is assumed.

    Raises:
        UserError: it is no such notebook; the line says what it is instead.
    """
    if path.is_symlink() or not path.is_file():
        raise UserError(f"{path.name} is a link or no file: hand in the notebook itself")
    if path.stat().st_size > LARGEST_NOTEBOOK:
        raise UserError(f"{path.name} is larger than {LARGEST_NOTEBOOK // 2**20} MB: clear its outputs")
    try:
        notebook = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise UserError(f"{path.name} is no notebook: its text is not JSON") from None
    if not isinstance(notebook, dict) or notebook.get("nbformat") != 4 or not isinstance(notebook.get("cells"), list):
        raise UserError(f"{path.name} is no notebook of format 4: open it in JupyterLab and save it")
    cells = []
    for cell in notebook["cells"]:
        if isinstance(cell, dict) and isinstance(cell.get("metadata", {}), dict):
            source = cell.get("source", "")
            source = "".join(map(str, source)) if isinstance(source, list) else str(source)
            cells.append(cell | {"source": source.replace("\r\n", "\n"), "metadata": cell.get("metadata", {})})
    return cells


def _label(cell: dict[str, Any]) -> dict[str, Any]:
    label = cell["metadata"].get("nbgrader")
    return label if isinstance(label, dict) and isinstance(label.get("grade_id"), str) else {}


def read_chapters(solutions: Path | None = None, hidden: Path | None = None) -> dict[str, Chapter]:
    """The original notebooks by their stems.

    Args:
        solutions: their folder; None = the one beside the package.
        hidden: the teacher's folder of additional tests.

    Raises:
        UserError: there are none, or a file of ``hidden`` belongs to no exercise.
    """
    folder = SOLUTIONS if solutions is None else solutions
    chapters = {path.stem: _chapter(path) for path in sorted(folder.glob("*.ipynb"))}
    if not chapters:
        raise UserError(f"no notebooks in {folder}: say where a checkout of the course has them, --solutions FOLDER")
    if hidden is None:
        return chapters
    if not hidden.is_dir():
        raise UserError(f"--hidden {hidden} is no folder")
    for path in sorted(hidden.rglob("*.py")):
        stem, name = path.parent.name, path.stem
        known = [f"{chapter.stem}/{exercise.name}" for chapter in chapters.values() for exercise in chapter.exercises]
        if f"{stem}/{name}" not in known:
            raise UserError(f"{path} belongs to no exercise; {suggest(f'{stem}/{name}', known)}")
        exercises = (
            replace(exercise, extra=path.read_text()) if exercise.name == name else exercise
            for exercise in chapters[stem].exercises
        )
        chapters[stem] = replace(chapters[stem], exercises=tuple(exercises))
    return chapters


def _chapter(path: Path) -> Chapter:
    cells = [cell for cell in cells_of(path) if cell.get("cell_type") == "code"]
    sources = {_label(cell).get("grade_id"): cell for cell in cells}
    exercises = []
    for cell in cells:
        label = _label(cell)
        if label.get("grade") and not label.get("solution"):
            name = label["grade_id"].removesuffix("-test")
            lama = sources[name]["metadata"].get("lama", {})
            check = sources[f"{name}-check"]["source"] if f"{name}-check" in sources else ""
            forbidden = tuple(lama.get("forbidden", ()))
            exercises.append(Exercise(name, float(label["points"]), check, cell["source"], forbidden))
    plain = frozenset(cell["source"] for cell in cells if not _label(cell).get("solution"))
    return Chapter(path.stem, sources["imports"]["source"] if "imports" in sources else "", tuple(exercises), plain)


def find_submissions(paths: Sequence[Path], stems: Sequence[str]) -> list[tuple[Path, str]]:
    """Notebooks and their learners' names.

    In a folder, the learner is the first folder below it; a notebook that lies in it directly and has a chapter's own
    name belongs to the learner whose folder it is; any other one is named by its file.

    Raises:
        UserError: nothing is there.
    """
    found: list[tuple[Path, str]] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist")
        folder = path if path.is_dir() else path.parent
        for file in sorted(path.rglob("*.ipynb")) if path.is_dir() else [path]:
            steps = file.relative_to(folder).parts
            if any(step.startswith(".") for step in steps):
                continue  # .ipynb_checkpoints
            own = folder.resolve().name if file.stem in stems and path.is_dir() else file.stem
            found.append((file, steps[0] if len(steps) > 1 else own))
    if not found:
        raise UserError(f"no notebooks in {', '.join(map(str, paths))}")
    return found


# -------------------------------------------------------------------------------------------------- what is forbidden

TRICKS = {"exec", "eval", "compile", "globals", "__import__", "importlib", "runpy", "gc"}
"""Names with which one gets at a definition without naming it."""
TRICK_ATTRIBUTES = {"__dict__", "__globals__", "__loader__", "__spec__", "__file__", "__subclasses__", "__builtins__"}


def find_forbidden(source: str, around: Sequence[str], forbidden: Sequence[str]) -> str:
    """Where a solution uses what answers the exercise, or hides what it uses; an empty string where it does not.

    Reads the syntax tree alone, so that it is a hurdle and no proof; what it finds, it names.

    Args:
        source: the solution cell.
        around: other code whose imports and definitions it may use.
        forbidden: dotted names, such as ``lama_minimal.fourier.FourierUnit`` or ``torch.fft``; what is inside of them
            is forbidden too, and a name of the package wherever it is imported from.
    """
    try:
        trees = [ast.parse(text) for text in (*around, source)] if forbidden else []
    except SyntaxError:
        return ""  # it cannot run either
    if not trees:
        return ""
    aliases: dict[str, str] = {}
    for tree in trees:
        aliases |= dict(_imported(tree))
    own = {node.name for node in trees[-1].body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    aliases = {name: path for name, path in aliases.items() if name not in own}
    for tree in trees[:-1]:  # what a helper of theirs hides
        for node in tree.body:
            names = [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
            names += [target.id for target in getattr(node, "targets", []) if isinstance(target, ast.Name)]
            if names and not isinstance(node, ast.Import | ast.ImportFrom):
                hit = next(_hits(node, aliases, forbidden), "")
                aliases |= {name: f"!{hit}" for name in names if hit}
    return next(_hits(trees[-1], aliases, forbidden), "")


def _imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Name in the cell → what it stands for, of every import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name if alias.asname else alias.name.partition(".")[0]
                yield alias.asname or top, top
        if isinstance(node, ast.ImportFrom):
            yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)


def _is_answer(path: str, forbidden: Sequence[str]) -> bool:
    top, leaf = path.partition(".")[0], path.rpartition(".")[2]
    inside = any(path == name or path.startswith(f"{name}.") for name in forbidden)
    return inside or (top == "lama_minimal" and leaf in {name.rpartition(".")[2] for name in forbidden})


def _hits(tree: ast.AST, aliases: dict[str, str], forbidden: Sequence[str]) -> Iterator[str]:
    """What is used of the forbidden, with its line."""

    def path_of(node: ast.AST) -> str:
        if isinstance(node, ast.Name):
            return aliases.get(node.id, "")
        if isinstance(node, ast.Attribute):
            base = path_of(node.value)
            return f"{base}.{node.attr}" if base else ""
        return ""

    bases = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        line = f" (line {getattr(node, 'lineno', 0)} of the cell)"
        paths = [path for _, path in _imported(node)] if isinstance(node, ast.Import | ast.ImportFrom) else []
        paths += [path_of(node)]
        for path in paths:
            if path.startswith("!"):
                yield path[1:]
            if path and _is_answer(path, forbidden):
                yield f"{path}{line}"
            if path.endswith(".*") and any(name.startswith(path[:-1]) for name in forbidden):
                yield f"an import of everything in {path[:-2]}{line}: import by name"
        path = paths[-1]
        handed = path.startswith("lama_minimal") and any(name.startswith(f"{path}.") for name in forbidden)
        if handed and id(node) not in bases and isinstance(getattr(node, "ctx", None), ast.Load):
            yield f"the module {path} as a value{line}: use what is in it by name"
        if isinstance(node, ast.Name) and (node.id in TRICKS or aliases.get(node.id, "").partition(".")[0] in TRICKS):
            yield f"{node.id}{line}, which hides what is used"
        if isinstance(node, ast.Attribute) and (node.attr in TRICK_ATTRIBUTES or path == "sys.modules"):
            yield f"{node.attr}{line}, which hides what is used"
        yield from (f"{hit}{line}" for hit in _hidden_attribute(node, path_of, forbidden))


def _hidden_attribute(node: ast.AST, path_of: Any, forbidden: Sequence[str]) -> Iterator[str]:
    """``getattr(module, "name")``: the same as an attribute, where the name is plain; else it hides something."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr" and node.args[1:]:
        base, name = path_of(node.args[0]), node.args[1]
        if isinstance(name, ast.Constant):
            if base and _is_answer(f"{base}.{name.value}", forbidden):
                yield f"{base}.{name.value}"
        elif base:
            yield f"getattr of {base} with a name that is made up at run time"


# ------------------------------------------------------------------------------------------------- a submission's code


def _definitions(source: str, names: set[str]) -> str:
    """The definitions, imports and plain constants among a learner's own lines; imports of ``names`` are left out."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return ""
    kept = []
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            node.names = [alias for alias in node.names if (alias.asname or alias.name) not in names]
            kept += [node] if node.names else []
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            kept.append(node)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            kept.append(node)
    return ast.unparse(ast.Module(kept, []))


@dataclass(frozen=True)
class Work:
    """A submission's code: its solution cells by name, in its own order, and what else the learner defined."""

    solutions: dict[str, str]
    helpers: list[str]
    notes: list[str]


def plain_python(source: str) -> str:
    """A cell without the lines that only Jupyter understands (``%matplotlib``, ``!pip``), where it has any."""
    try:
        ast.parse(source)
    except SyntaxError:
        return re.sub(r"(?m)^([ \t]*)[%!?].*$", r"\1pass", source)
    except (ValueError, RecursionError, MemoryError):
        return "raise SyntaxError('this cell cannot be read')"  # too deep, or with characters that no file may hold
    return source


def read_work(cells: Sequence[dict[str, Any]], chapter: Chapter) -> Work:
    """Sort a submission's cells; locked ones are dropped, since the originals are used."""
    names = {exercise.name for exercise in chapter.exercises}
    solutions: dict[str, str] = {}
    helpers, notes = [], []
    locked = {f"{name}{end}" for name in names for end in ("-check", "-test")} | {"imports"}
    for cell in cells:
        name = _label(cell).get("grade_id")
        if cell.get("cell_type") != "code" or name in locked:
            continue
        source = plain_python(cell["source"])
        if name in names:
            if name in solutions:
                notes.append(f"there is more than one cell {name}: they were run one after the other")
            solutions[name] = f"{solutions[name]}\n{source}" if name in solutions else source
        elif cell["source"] not in chapter.plain:
            helpers += [text for text in [_definitions(source, names)] if text]
    notes += [f"the cell {name} is missing" for name in sorted(names - solutions.keys())]
    return Work(solutions, helpers, notes)


def _names(source: str) -> tuple[set[str], set[str]]:
    """What a piece of code defines at its top level, and what it reads anywhere."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return set(), set()
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assigned = ast.Module([node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)], [])
    stored, read = (
        {node.id for node in ast.walk(part) if isinstance(node, ast.Name) and isinstance(node.ctx, context)}
        for part, context in ((assigned, ast.Store), (tree, ast.Load))
    )
    return defined | stored, read


def needed_cells(work: Work, name: str) -> list[str]:
    """The learner's helpers, the solution cells that the exercise uses (directly or not), and its own, in order."""
    needed, missing = {name}, {name}
    helpers = set().union(*(_names(source)[1] for source in work.helpers), set())
    while missing:
        read = helpers.union(*(_names(work.solutions.get(other, ""))[1] for other in needed))
        missing = {other for other, source in work.solutions.items() if _names(source)[0] & read} - needed
        needed |= missing
    return [*work.helpers, *(source for other, source in work.solutions.items() if other in needed)]


# ------------------------------------------------------------------------------------------------------------- grading


class Grader:
    """Grades submissions one after the other; a context, since it keeps two processes at hand."""

    def __init__(
        self,
        chapters: dict[str, Chapter],
        seed: int = 0,
        seconds: float = 60,
        memory: float = 4,
        private: Sequence[Path] = (),
    ) -> None:
        """Start them.

        Args:
            chapters: the originals, by stem.
            seed: of the tests' inputs.
            seconds: wall-clock limit of an exercise; a submission has ten times as much.
            memory: limit of a learner's process, GB on top of PyTorch's.
            private: files and folders that no learner's process may read, where the system can hide them.

        Raises:
            UserError: the system cannot fork processes (Windows).
        """
        try:
            from lama_minimal import sandbox
        except ImportError as error:
            if error.name not in ("resource", "fcntl"):
                raise
            raise UserError("grading needs Linux or macOS; on Windows, run it in WSL") from None
        self.sandbox, self.chapters = sandbox, chapters
        self.seed, self.seconds, self.memory = seed, seconds, memory
        self.private = [str(path.resolve()) for path in private if not _holds_the_package(path.resolve())]
        modules = sorted({path for chapter in chapters.values() for _, path in _imported(ast.parse(chapter.imports))})
        self.judges, self.learners = sandbox.Nursery(["lama_minimal.checks"]), sandbox.Nursery(modules)
        self.namespaces = sandbox.has_namespaces(self.learners)

    def __enter__(self) -> "Grader":
        return self

    def __exit__(self, *_: object) -> None:
        self.judges.close()
        self.learners.close()

    @property
    def isolation(self) -> str:
        """What holds a learner's process, in words."""
        if self.namespaces:
            return "Linux namespaces: no network, no other processes, files read-only, the teacher's hidden"
        return "limits only: Python's sockets are blocked, files of this account can be read"

    def grade(self, path: Path, learner: str) -> Record:
        """Grade one notebook; whatever is in it, a record comes back."""
        began = time.monotonic()
        record = Record(str(path), learner, seed=self.seed, isolation=self.isolation)
        try:
            cells = cells_of(path)
            chapter = self._chapter_of(cells, path)
        except UserError as error:
            record.status, record.reason = "not graded", str(error)
            return record
        work = read_work(cells, chapter)
        record.chapter, record.notes = chapter.stem, work.notes
        left = 10 * self.seconds
        for exercise in chapter.exercises:
            mark, spent = self._mark(chapter, exercise, work, min(self.seconds, left))
            record.exercises.append(mark)
            left -= spent
        record.points = round(sum(mark.points or 0 for mark in record.exercises), 6)
        record.max_points = sum(mark.max_points for mark in record.exercises)
        if any(mark.points is None for mark in record.exercises):
            record.status = "not graded"
            record.reason = next(mark.reason for mark in record.exercises if mark.points is None)
        record.seconds = round(time.monotonic() - began, 2)
        return record

    def _chapter_of(self, cells: Sequence[dict[str, Any]], path: Path) -> Chapter:
        """The original with the most exercises in common; else the one that the file is named after."""
        found = {_label(cell).get("grade_id") for cell in cells}

        def common(chapter: Chapter) -> int:
            return len(found & {exercise.name for exercise in chapter.exercises})

        best = max(self.chapters.values(), key=lambda chapter: (common(chapter), chapter.stem in path.stem))
        if common(best) or best.stem in path.stem:
            return best
        raise UserError(f"{path.name} has no exercise of a chapter, and no chapter's name ({', '.join(self.chapters)})")

    def _mark(self, chapter: Chapter, exercise: Exercise, work: Work, seconds: float) -> tuple[Mark, float]:
        """What an exercise earned, and the seconds that the learner's code took."""
        mark = Mark(exercise.name, exercise.points)
        cells = needed_cells(work, exercise.name)
        around = [chapter.imports, *work.helpers]
        hit = find_forbidden(work.solutions.get(exercise.name, ""), around, exercise.forbidden)
        if hit:
            mark.reason = f"the exercise is to be solved without {hit}"
        elif seconds <= 0:
            mark.reason = "the submission's time was used up by the exercises before"
        elif not cells:
            mark.reason = "there is no cell for it"
        else:
            return mark, self._run(chapter, exercise, cells, seconds, mark)
        return mark, 0

    def _run(self, chapter: Chapter, exercise: Exercise, cells: list[str], seconds: float, mark: Mark) -> float:
        """Have the judge make its questions, the learner answer them, and fill the mark; the learner's seconds."""
        ours, its = socket.socketpair()
        order = {"check": exercise.check, "test": exercise.test, "extra": exercise.extra, "seed": self.seed}
        judge = self.judges.fork("judge", order | {"name": exercise.name}, ours)
        made = judge.said(10 * self.seconds) or {"machine": "its tests did not come to an end on this machine"}
        if "machine" in made:
            its.close()
            mark.points, mark.reason = None, made["machine"]
            return 0
        with tempfile.TemporaryDirectory(prefix="lama-minimal-", ignore_cleanup_errors=True) as home:
            limits = dict(seconds=seconds, memory=self.memory, private=self.private, namespaces=self.namespaces)
            job = self.sandbox.Job(exercise.name, chapter.imports, cells, home, self.seed, **limits)
            guard = self.learners.fork("learner", asdict(job), its)
            verdicts = judge.said(seconds + 10 * self.seconds)
            ending = guard.said(seconds + 60)
        _fill(mark, verdicts, ending)
        return ending["seconds"] if ending else 0


def _holds_the_package(path: Path) -> bool:
    """Whether hiding a folder would hide Python or the package itself."""
    needed = [Path(place).resolve() for place in (__file__, sys.prefix, sys.base_prefix, *sys.path) if place]
    return any(place.is_relative_to(path) for place in needed)


def _fill(mark: Mark, verdicts: dict[str, Any] | None, ending: dict[str, Any] | None) -> None:
    """Points and reasons from what the two processes reported."""
    if verdicts is None or ending is None:
        mark.points, mark.reason = None, "a process of the grader's was ended by the machine"
    elif ending["machine"] or verdicts["machine"]:
        mark.points, mark.reason = None, verdicts["machine"] or ending["reason"]
    else:
        mark.tests = [test for test in verdicts["verdicts"] if test["points"] > 0]
        mark.reason = "not written yet" if verdicts["unwritten"] else ending["reason"]
        checked = [test["hint"] for test in verdicts["verdicts"] if test["points"] == 0 and test["hint"]]
        mark.hints = [] if mark.reason else list(dict.fromkeys(checked))
        total = sum(test["points"] for test in mark.tests)
        earned = 0 if verdicts["unwritten"] else sum(test["earned"] for test in mark.tests)
        mark.points = round(mark.max_points * earned / total, 6) if total else 0.0


def grade(
    paths: Sequence[Path],
    solutions: Path | None = None,
    hidden: Path | None = None,
    seed: int = 0,
    seconds: float = 60,
    memory: float = 4,
    private: Sequence[Path] = (),
) -> Iterator[Record]:
    """Grade notebooks and folders of them, and yield each one's record; the arguments are those of the command.

    Raises:
        UserError: nothing to grade, or no originals to grade by.
    """
    chapters = read_chapters(solutions, hidden)
    submissions = find_submissions(paths, list(chapters))
    secret = [SOLUTIONS if solutions is None else solutions, *([hidden] if hidden else []), *paths, *private]
    with Grader(chapters, seed, seconds, memory, secret) as grader:
        for path, learner in submissions:
            yield grader.grade(path, learner)
