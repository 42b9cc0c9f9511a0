"""Would the tests notice? Every graded exercise's reference answer, changed in one place at a time (`make mutants`).

    python tests/mutants.py [NN …]

A *mutant* differs from the reference in one operator, number, condition, argument, slice, call or statement. It
survives if the exercise's graded tests give it all points: they would not notice a learner's mistake of that kind.
Exit code 1 if 5% or more survive. Mutants that are as right are listed in the chapter's table
``tests/course_wrong_answers/NN_name.py``, as they are printed here, and do not count: ``EQUIVALENT = {NAME: [(old line,
new line), …]}``. The entry ``(old line, ...)`` stands for all survivors of a line that holds a design, where nearby
numbers do as well.
"""

import ast
import contextlib
import os
import resource
import runpy
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from lama_minimal import course
from lama_minimal.checks import Case, score

TABLES = Path(__file__).parent / "course_wrong_answers"
MOST = 0.05
"""Share of survivors that is too much."""
SECONDS, MEMORY = 5, 4 * 2**30
"""Limits of a mutant: processor time (so that a busy machine changes nothing), bytes."""

OPERATORS: dict[type, list[type]] = {
    ast.Add: [ast.Sub],
    ast.Sub: [ast.Add],
    ast.Mult: [ast.Div],
    ast.Div: [ast.Mult],
    ast.FloorDiv: [ast.Div],
    ast.Mod: [ast.FloorDiv],
    ast.Pow: [ast.Mult],
    ast.MatMult: [ast.Mult],
    ast.BitAnd: [ast.BitOr],
    ast.BitOr: [ast.BitAnd],
    ast.BitXor: [ast.BitAnd],
    ast.And: [ast.Or],
    ast.Or: [ast.And],
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
}
PAIRS = "min max, minimum maximum, amin amax, argmin argmax, any all, sum mean, zeros ones, zeros_like ones_like, " \
    "floor ceil, sin cos, real imag, logical_and logical_or, rfft2 irfft2, erode dilate"  # fmt: skip
EXCHANGED = {a: b for pair in PAIRS.split(", ") for a, b in (pair.split(), pair.split()[::-1])}
REMOVED = ast.Assign | ast.AugAssign | ast.Expr | ast.Return | ast.If | ast.For | ast.While | ast.With | ast.Raise


# ---------------------------------------------------------------------------------------------------------- the mutator


def mutants(source: str) -> Iterator[tuple[str, str, str]]:
    """Every mutant of a solution cell, each once: its source, and the lines that differ, old and new."""
    tree, marked = ast.parse(source), _between_the_marks(source)
    reference = ast.unparse(tree)
    own = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    seen = {reference}
    for holder, key in list(_places(tree)):
        node = holder[key]
        if getattr(node, "lineno", 0) not in marked:
            continue
        for other in _others(node, own):
            holder[key] = other
            mutant = ast.unparse(tree)
            if mutant not in seen and "--" not in mutant:  # that is what dropping a sign makes, too
                seen.add(mutant)
                yield mutant, *_differing(reference, mutant)
        holder[key] = node


def _between_the_marks(source: str) -> set[int]:
    """Numbers of the lines that are a learner's to write."""
    inside, lines = False, set()
    for number, line in enumerate(source.splitlines(), 1):
        inside = (inside or "### BEGIN SOLUTION" in line) and "### END SOLUTION" not in line
        lines |= {number} if inside else set()
    return lines


def _places(tree: ast.AST) -> Iterator[tuple[list | dict, int | str]]:
    """Where a node may be replaced by another: ``holder[key]``."""
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if isinstance(value, list):
                yield from ((value, place) for place, member in enumerate(value) if isinstance(member, ast.AST))
            elif isinstance(value, ast.AST):
                yield vars(parent), name


def _with(node: ast.AST, **fields: object) -> ast.AST:
    return type(node)(**dict(ast.iter_fields(node)) | fields)


def _others(node: ast.AST, own: set[str]) -> Iterator[ast.AST]:
    """What may stand in a node's place; ``own`` are the names that the cell itself gives to values."""
    if isinstance(node, REMOVED):
        yield ast.Pass()
    match node:
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant() if isinstance(node.value, int | float | complex):
            yield from (_shifted(node, 1), _shifted(node, -1))
            yield ast.UnaryOp(ast.USub(), node) if node.value else node
        case ast.BinOp():
            yield from (_with(node, op=other()) for other in OPERATORS.get(type(node.op), []))
            yield from (node.left, node.right)
        case ast.AugAssign():
            yield from (_with(node, op=other()) for other in OPERATORS.get(type(node.op), []))
            yield ast.Assign([node.target], node.value, lineno=0)
        case ast.BoolOp():
            yield from (_with(node, op=other()) for other in OPERATORS[type(node.op)])
            yield from node.values
        case ast.UnaryOp():
            yield node.operand
        case ast.Compare():
            for place, old in enumerate(node.ops):
                for other in OPERATORS[type(old)]:
                    yield _with(node, ops=[*node.ops[:place], other(), *node.ops[place + 1 :]])
        case ast.IfExp():
            yield from (node.body, node.orelse)
        case ast.If() | ast.While():
            yield _with(node, test=ast.UnaryOp(ast.Not(), node.test))
        case ast.Break():
            yield ast.Continue()
        case ast.Continue():
            yield ast.Break()
        case ast.Slice():
            yield _with(node, lower=_shifted(node.lower or ast.Constant(0), 1))
            yield _with(node, upper=_shifted(node.upper, -1) if node.upper else ast.Constant(-1))
        case ast.Name() if node.id in EXCHANGED and node.id not in own:
            yield _with(node, id=EXCHANGED[node.id])
        case ast.Attribute() if node.attr in EXCHANGED:
            yield _with(node, attr=EXCHANGED[node.attr])
        case ast.Call():
            for name in ("args", "keywords"):
                given = getattr(node, name)
                yield from (_with(node, **{name: given[:n] + given[n + 1 :]}) for n in range(len(given)))
            yield from _uncalled(node, own)


def _shifted(node: ast.expr, by: int) -> ast.expr:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | complex):
        shifted = node.value + by
        negative = (
            not isinstance(shifted, complex) and shifted < 0
        )  # a bare Constant(-1) would unparse without brackets
        return ast.UnaryOp(ast.USub(), ast.Constant(-shifted)) if negative else ast.Constant(shifted)
    return ast.BinOp(node, ast.Add() if by > 0 else ast.Sub(), ast.Constant(abs(by)))


def _uncalled(node: ast.Call, own: set[str]) -> Iterator[ast.expr]:
    """``x.relu()`` → ``x``; ``torch.exp(x)``, ``abs(x)`` and ``self.layer(x)`` → ``x``."""
    root: ast.expr = node.func
    while isinstance(root, ast.Attribute):
        root = root.value
    if isinstance(node.func, ast.Attribute) and not (isinstance(root, ast.Name) and root.id not in own - {"self"}):
        yield node.func.value
    elif node.args:
        yield node.args[0]


def _differing(reference: str, mutant: str) -> tuple[str, str]:
    """The lines of either that are not the other's, between the first and the last that differ."""
    old, new = reference.splitlines(), mutant.splitlines()
    for end in (0, -1):
        while old and new and old[end] == new[end]:
            old.pop(end), new.pop(end)
    return tuple(" ⏎ ".join(line.strip() for line in lines) or "pass" for lines in (old, new))


# ------------------------------------------------------------------------------------------------------------ the tests


def survives(source: str, name: str, names: dict[str, object], cases: Sequence[Case]) -> bool:
    """Whether an answer earns all points; it runs in a process of its own, which its timers end."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            signal.setitimer(signal.ITIMER_REAL, 100 * SECONDS)  # asleep
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
                exec(compile(source, "<mutant>", "exec"), names)
                code = int(not all(score(names[name], [case]) == case.points for case in cases))
        except BaseException:  # a mutant may raise anything
            code = 1
        finally:
            os._exit(code)
    return os.waitpid(process, 0)[1] == 0


def cases_of(test: str, name: str) -> list[Case]:
    """The cases of a test cell, hidden ones included."""
    names: dict[str, object] = {"__name__": "__main__", name: None}
    exec(compile(ast.Module(ast.parse(test).body[:-1], []), "<test>", "exec"), names)
    return names["cases"]


def survivors(source: str, lives: Callable[[str], bool]) -> tuple[list[tuple[str, str]], int]:
    """The (old, new) of each mutant that lives, and how many mutants there are.

    Raises:
        RuntimeError: the reference itself does not live, so that nothing can be said.
    """
    if not lives(source):
        raise RuntimeError("the reference does not earn all points")
    made = list(mutants(source))
    return [(old, new) for mutant, old, new in made if lives(mutant)], len(made)


def report(title: str, source: str, lives: Callable[[str], bool], listed: Sequence[tuple]) -> tuple[int, int, int]:
    """Print what becomes of an exercise's mutants; how many count, survive, and are listed but do not survive."""
    began = time.monotonic()
    found, made = survivors(source, lives)
    left = [(old, new) for old, new in found if (old, new) not in listed and (old, ...) not in listed]
    equal = len(found) - len(left)
    seconds = time.monotonic() - began
    print(f"{title}: {len(left)} of {made - equal} survive, {equal} equivalent ({seconds:.0f} s)", flush=True)
    for old, new in left:
        print(f"    {old}\n  → {new}")
    known = {*found, *((old, ...) for old, _ in found)}
    stale = [entry for entry in listed if entry not in known]
    for entry in stale:
        print(f"  listed as equivalent, but no survivor: {entry}")
    return made - equal, len(left), len(stale)


def chapter(path: Path) -> Iterator[tuple[int, int, int]]:
    """Report each exercise of a chapter."""
    notebook, table = course.read(path), TABLES / f"{path.stem}.py"
    answers = course.namespace_of_answers(notebook)
    cells = {course.label(cell).get("grade_id"): cell.source for cell in notebook.cells}
    equivalent = runpy.run_path(str(table)).get("EQUIVALENT", {}) if table.exists() else {}
    for name in [name for name in cells if f"{name}-test" in cells]:
        cases = cases_of(cells[f"{name}-test"], name)
        lives = partial(survives, name=name, names=answers, cases=cases)
        yield report(f"{path.stem[:2]} {name}", cells[name], lives, equivalent.get(name, []))


def main(numbers: Sequence[str]) -> int:
    """The command line; returns the exit code."""
    torch.set_num_threads(1)  # a forked process has no threads
    counts = [count for path in course.solutions(numbers) for count in chapter(path)] or [(0, 0, 0)]
    total, alive, stale = (sum(column) for column in zip(*counts, strict=True))
    share = alive / max(total, 1)
    print(f"{alive} of {total} mutants survive: {share:.1%}, to be less than {MOST:.0%}")
    return int(share >= MOST or stale > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
