"""The course: chapters are what the solutions give, exercises earn what they should, and every notebook runs."""

import builtins
import contextlib
import dis
import io
import os
import re
import runpy
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import nbformat
import pytest

from lama_minimal import course
from lama_minimal.config import UserError
from lama_minimal.grade import read_chapters

TABLES = Path(__file__).parent / "course_wrong_answers"
"""One file a chapter: WRONG = {NAME: [(what is wrong, points, what the instant check says, old, new), …]}.

``old`` is replaced by ``new`` in the solution cell; the check's words are None where it need not see the mistake.
"""
NOTEBOOKS = course.solutions()
WITHOUT_EXERCISES = {"00_start_here"}
"""The one chapter that grades nothing: fewer cells, fewer of them compared; every other rule is the same."""


def named(path):
    return path.stem


def exercises(notebook):
    """(NAME, solution cell, check cell, test cell) of each exercise."""
    cells = {course.label(cell).get("grade_id"): cell for cell in notebook.cells}
    return [
        (name, cell, cells[f"{name}-check"], cells[f"{name}-test"])
        for name, cell in cells.items()
        if name and course.label(cell).get("solution")
    ]


def output_of(source, names):
    """The value of a cell's last expression, and what it prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        value = course.value_of(source, names)
    return value, out.getvalue()


every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=named)


# -------------------------------------------------------------------------------------------------- one source, in step


@every_notebook
def test_solutions_are_tidy_and_chapters_are_what_they_give(path):
    solution = course.read(path)
    assert path.read_text() == course.text_of(course.tidy(solution, path.stem)), "run: make chapters"
    chapter = course.CHAPTERS / path.name
    assert chapter.read_text() == course.text_of(course.student_version(solution)), "run: make chapters"


def test_no_chapter_is_without_a_solution():
    assert {path.name for path in course.CHAPTERS.glob("*.ipynb")} == {path.name for path in NOTEBOOKS}


@every_notebook
def test_learners_get_no_answers_no_hidden_tests_no_outputs(path):
    from nbgrader.utils import compute_checksum

    chapter = course.read(course.CHAPTERS / path.name)
    text = course.text_of(chapter)
    assert "BEGIN SOLUTION" not in text and "HIDDEN TESTS" not in text
    for cell in chapter.cells:
        label = course.label(cell)
        assert not cell.get("outputs") and cell.get("execution_count") is None
        if label.get("solution"):
            assert "raise NotImplementedError" in cell.source
        if label:
            assert label["schema_version"] == 3 and label["checksum"] == compute_checksum(cell)
            assert cell.metadata.get("editable", True) is bool(label["solution"])


# ---------------------------------------------------------------------------------------------------------- their style


@every_notebook
def test_a_notebook_keeps_the_habits(path):
    notebook = course.read(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    lengths = [len(cell.source.splitlines()) for cell in code]
    plain = [
        n for cell, n in zip(code, lengths, strict=True) if not course.label(cell) and "setup" not in course.tags(cell)
    ]
    least, most = (8, 20) if path.stem in WITHOUT_EXERCISES else (25, 40)
    assert least <= len(code) <= most and max(lengths) <= 40
    assert sum(n <= 8 for n in plain) >= len(plain) / 2
    assert path.stat().st_size < 1_000_000
    assert course.tags(notebook.cells[0]) == ["header"] and course.tags(notebook.cells[1]) == ["setup"]
    assert course.label(notebook.cells[2])["grade_id"] == "imports"
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for part in ("**Predict.**", "## Summary", "## Check yourself", "## Exercises", "## What to read next"):
        assert part in text, part
    for part in text.split("\n### Exercise ")[1:]:
        assert re.match(rf"{int(path.stem[:2])}\.\d+ · .+\n\n\*About \d+ minutes, \d+ points?\.\*", part), part[:80]
        assert "<summary>Hint 1" in part and "<summary>Hint 2" in part


@every_notebook
def test_every_figure_has_alternative_text_and_a_takeaway(path):
    figures = course.pictures(course.read(path))
    assert figures and not [figure["cell"] for figure in figures if not figure["alt"] or not figure["takeaway"]]


@every_notebook
def test_numbers_in_the_text_are_computed_and_package_names_mean_the_package(path):
    notebook = course.read(path)
    assert course.unsupported_numbers(notebook) == []
    assert course.strays(notebook) == []


def notebook_of(*cells):
    """A notebook of code cells, each (source, printed text), after Markdown given as a plain string."""
    made = []
    for cell in cells:
        if isinstance(cell, str):
            made.append(nbformat.v4.new_markdown_cell(cell))
        else:
            outputs = [nbformat.v4.new_output("stream", name="stdout", text=cell[1])]
            made.append(nbformat.v4.new_code_cell(cell[0], outputs=outputs, execution_count=1))
    return nbformat.v4.new_notebook(cells=made)


def test_an_invented_number_is_found():
    text = "It is 3.14 or 27% of 1,024, in 2021, `0.5`, $0.7$, at Section 2.1 of 12 pages, 300 times."
    assert course.unsupported_numbers(notebook_of(text)) == ["3.14", "27%", "1024", "300"]
    assert course.unsupported_numbers(notebook_of(text, ("size = 1024", "3.14 and 27% 300\n"))) == []
    assert course.unsupported_numbers(notebook_of("3.1", ("", "3.14 13.1\n"))) == ["3.1"]


def test_a_definition_that_only_looks_like_the_package_s_is_found():
    own = "def project_hermitian(half_spectrum, width):\n    return half_spectrum"
    assert course.strays(notebook_of((own, ""))) == ["project_hermitian"]
    marked = f"# teaching version of lama_minimal.fourier.project_hermitian\n{own}"
    assert course.strays(notebook_of((marked, ""), ("def of_its_own():\n    pass", ""))) == []


def test_the_map_of_the_course_leads_through_every_prerequisite():
    """What a chapter's header says it builds on comes before it along the map's arrows."""
    cells = course.read(course.SOLUTIONS / "00_start_here.ipynb").cells
    (cell,) = (cell for cell in cells if "course-map" in course.tags(cell))
    names = {}
    exec(cell.source, names)
    arrows = {number: needs for number, (*_, needs) in names["COURSE"].items()}

    def before(number):
        return {*arrows[number]}.union(*(before(need) for need in arrows[number]))

    for stem, about in tomllib.loads((course.SOLUTIONS / "chapters.toml").read_text()).items():
        assert {need[:2] for need in about["needs"]} <= before(stem[:2]), stem


# ------------------------------------------------------------------------------------------------------------ exercises


@pytest.mark.parametrize("seed", ["0", "7"])
@every_notebook
def test_the_reference_earns_all_points_and_a_blank_none(path, seed, monkeypatch):
    monkeypatch.setenv("LAMA_SEED", seed)
    solution, chapter = course.read(path), course.read(course.CHAPTERS / path.name)
    answers, blanks = course.namespace_of_answers(solution), course.namespace_of_answers(chapter)
    for name, _, check, test in exercises(solution):
        names = {name: answers[name]}  # the cells are self-contained: nothing else is there
        assert output_of(test.source, names)[0] == course.label(test)["points"]
        assert sum(case.points for case in names["cases"]) == course.label(test)["points"]
        assert "✗" not in output_of(check.source, {name: answers[name]})[1]
    for name, _, check, test in exercises(chapter):
        assert output_of(test.source, {name: blanks[name]}) == (0, f"{name}: not written yet\n")
        assert output_of(check.source, {name: blanks[name]}) == (None, f"{name}: not written yet\n")
        visible = output_of(test.source, {name: answers[name]})[0]
        assert 0 < visible < course.label(test)["points"]


def global_names(code):
    """What a function and those within it take from outside."""
    own = {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return own.union(*map(global_names, inner))


@every_notebook
def test_what_runs_beside_a_learner_s_answer_can_be_sent_alone(path):
    """Grading sends each ``ask`` to the learner's process, without the cell around it (rule 8 of the course)."""
    solution = course.read(path)
    answers = course.namespace_of_answers(solution)
    for name, _, check, test in exercises(solution):
        for cell in (check, test):
            names = {name: answers[name]}
            with contextlib.redirect_stdout(io.StringIO()):
                exec(cell.source, names)
            mine = {v for v in names.values() if isinstance(v, types.FunctionType) and v.__globals__ is names}
            asked = {function for function in mine if function.__code__.co_varnames[:1] == ("learner",)}
            asked |= mine & {case.ask for case in names.get("cases", ())}
            for function in asked:
                used = global_names(function.__code__) - set(dir(builtins))
                assert not used, f"{name}: {function.__name__} uses {', '.join(sorted(used))} of its cell"


def wrong_answers():
    for path in NOTEBOOKS:
        table = runpy.run_path(TABLES / f"{path.stem}.py")["WRONG"] if (TABLES / f"{path.stem}.py").exists() else {}
        for name, wrong in table.items():
            for what, *rest in wrong:
                yield pytest.param(path, name, *rest, id=f"{path.stem[:2]} {name}: {what}")


@pytest.mark.parametrize(("path", "name", "points", "says", "old", "new"), [*wrong_answers()])
def test_a_wrong_answer_earns_exactly_its_points(path, name, points, says, old, new):
    solution = course.read(path)
    _, cell, check, test = next(exercise for exercise in exercises(solution) if exercise[0] == name)
    assert old in cell.source
    learner = course.namespace_of_answers(solution, {name: cell.source.replace(old, new)})[name]
    assert output_of(test.source, {name: learner})[0] == points
    told = output_of(check.source, {name: learner})[1]
    assert says is None or ("✗" in told and says in told), told


@every_notebook
def test_every_exercise_has_four_wrong_answers_and_one_that_earns_something(path):
    names = [name for name, *_ in exercises(course.read(path))]
    assert (not names) is (path.stem in WITHOUT_EXERCISES)
    table = runpy.run_path(TABLES / f"{path.stem}.py")["WRONG"] if names else {}
    assert [*table] == names
    for wrong in table.values():
        assert len(wrong) >= 4 and any(points > 0 for _, points, *_ in wrong)


# -------------------------------------------------------------------------------------------------------------- running


def nbval(path, folder):
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "-c", os.devnull, "--rootdir", str(folder), "-q"]
    command += ["-p", "no:cacheprovider", "-p", "no:xdist", "--nbval-kernel-name", "python3", str(path)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=500)


@every_notebook
def test_solutions_give_their_stored_outputs(path, tmp_path):
    cells = course.read(path).cells
    compared = [cell for cell in cells if course.COMPARED in course.tags(cell)]
    least = 3 if path.stem in WITHOUT_EXERCISES else 5
    assert len(compared) >= least and all(course.printed(cell).strip() for cell in compared)  # else nothing is compared
    done = nbval(path, tmp_path)
    assert done.returncode == 0, done.stdout[-4000:]
    assert f"{sum(cell.cell_type == 'code' for cell in cells)} passed" in done.stdout


def test_another_output_than_the_stored_one_is_found(tmp_path):
    for stored, code in (("2\n", 0), ("3\n", 1)):
        notebook = notebook_of(("print(1 + 1)", stored), ("print(2)", "not compared\n"))
        notebook.cells[0].metadata["tags"] = [course.COMPARED]
        (tmp_path / "sum.ipynb").write_text(course.text_of(notebook))
        assert nbval(tmp_path / "sum.ipynb", tmp_path).returncode == code


@every_notebook
def test_a_blank_chapter_runs_to_its_end(path, tmp_path):
    chapter = course.read(course.CHAPTERS / path.name)
    course.execute(chapter, tmp_path)
    for name, _, check, test in exercises(chapter):
        assert f"{name}: not written yet" in course.printed(check)
        assert course.printed(test).split("\n")[-1] == "0.0"


@every_notebook
def test_a_completed_chapter_runs_to_its_end(path, tmp_path):
    chapter = course.fill(course.read(course.CHAPTERS / path.name), course.read(path))
    course.execute(chapter, tmp_path)
    for cell in chapter.cells:
        assert cell.cell_type != "code" or not re.search("✗|not written yet", course.printed(cell))


# -------------------------------------------------------------------------------------------------- set-up and commands


def test_the_syllabus_says_what_the_chapters_say():
    text = course.SYLLABUS.read_text()
    assert course.syllabus(text, course.solutions()) == text, "run `python -m lama_minimal.course syllabus`"
    stated = {
        found[0]: int(found[2]) for found in re.findall(r"^\| (\d+\.\d+) \| (.+) \| \d+ \| (\d+) \|$", text, re.M)
    }
    for stem, chapter in read_chapters().items():
        points = [exercise.points for exercise in chapter.exercises]  # as they are graded, not as a heading says
        assert [stated.get(f"{int(stem[:2])}.{i}") for i in range(1, len(points) + 1)] == points, stem
    assert len(stated) == sum(len(chapter.exercises) for chapter in read_chapters().values())


def test_what_colab_may_lack_is_what_the_package_needs():
    project = tomllib.loads((course.ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.match(r"[\w-]+", requirement).group() for requirement in project["dependencies"]} - {"torch", "numpy"}
    assert needed <= {*course.COLAB_MAY_LACK.values()}
    assert not {"torch", "numpy"} & {*course.COLAB_MAY_LACK, *course.COLAB_MAY_LACK.values()}


@pytest.mark.parametrize("there", [{"lama_minimal"}, {"PIL", "tqdm", "cv2"}], ids=["installed", "colab"])
def test_the_set_up_cell_fetches_only_what_is_missing(monkeypatch, there):
    ran = []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name in there or None)
    monkeypatch.setattr("subprocess.run", lambda command, check: ran.append(command))
    exec(course.setup(), {})
    if "lama_minimal" in there:
        assert not ran
    else:
        (command,) = ran
        assert command[3:6] == ["install", "--quiet", "--no-deps"] and command[6] == f"git+{course.repository()}"
        assert "einops" in command and not {"pillow", "tqdm", "torch", "numpy"} & {*command}


def test_commands_tell_what_there_is(capsys):
    assert course.main(["tidy", "99"]) == 2
    assert "no chapter '99'" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"chapters\.toml"):
        course.header("99_nowhere")


def test_all_figures_stand_on_one_page():
    page = course.figures_page(NOTEBOOKS)
    assert page.count("<img ") == sum(len(course.pictures(course.read(path))) for path in NOTEBOOKS) > 0
    assert "<mark>" not in page
