"""The mutants of a planted answer are the ones known, and a weak test is found out."""

import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="mutants run in processes that fork")
if sys.platform != "win32":
    from mutants import cases_of, mutants, report, survives, survivors

HALVES = """\
def halves(x, keep=True):
    given = 3
    ### BEGIN SOLUTION
    if x < 2 and keep:
        return min(x, -1)
    return x[1:].abs() // 2
    ### END SOLUTION
"""
KNOWN = {
    ("if x < 2 and keep:", "if not (x < 2 and keep):"),
    ("if x < 2 and keep:", "if x < 2 or keep:"),
    ("if x < 2 and keep:", "if x < 2:"),
    ("if x < 2 and keep:", "if keep:"),
    ("if x < 2 and keep:", "if x <= 2 and keep:"),
    ("if x < 2 and keep:", "if x >= 2 and keep:"),
    ("if x < 2 and keep:", "if x < 3 and keep:"),
    ("if x < 2 and keep:", "if x < 1 and keep:"),
    ("if x < 2 and keep:", "if x < -2 and keep:"),
    ("if x < 2 and keep: ⏎ return min(x, -1)", "pass"),
    ("return min(x, -1)", "pass"),
    ("return min(x, -1)", "return max(x, -1)"),
    ("return min(x, -1)", "return min(-1)"),
    ("return min(x, -1)", "return min(x)"),
    ("return min(x, -1)", "return x"),
    ("return min(x, -1)", "return min(x, 1)"),
    ("return min(x, -1)", "return min(x, -2)"),
    ("return min(x, -1)", "return min(x, -0)"),
    ("return x[1:].abs() // 2", "pass"),
    ("return x[1:].abs() // 2", "return x[1:].abs() / 2"),
    ("return x[1:].abs() // 2", "return x[1:].abs()"),
    ("return x[1:].abs() // 2", "return 2"),
    ("return x[1:].abs() // 2", "return x[1:].abs() // 3"),
    ("return x[1:].abs() // 2", "return x[1:].abs() // 1"),
    ("return x[1:].abs() // 2", "return x[1:].abs() // -2"),
    ("return x[1:].abs() // 2", "return x[1:] // 2"),
    ("return x[1:].abs() // 2", "return x[2:].abs() // 2"),
    ("return x[1:].abs() // 2", "return x[0:].abs() // 2"),
    ("return x[1:].abs() // 2", "return x[-1:].abs() // 2"),
    ("return x[1:].abs() // 2", "return x[1:-1].abs() // 2"),
}
COUNT = """\
def count(n):
    ### BEGIN SOLUTION
    total = 0
    while n > 0:
        total += n
        n -= 1
    return total
    ### END SOLUTION
"""
CASE = "from lama_minimal.checks import Case, score\ncases = [Case('a', 1, given=({},), want={})]\n"
WEAK, STRONG = CASE.format(0, 0), CASE.format(3, 6)
SCORE = "score(count, cases)"


def test_mutants_of_a_planted_answer_are_the_known_ones():
    made = list(mutants(HALVES))
    assert {(old, new) for _, old, new in made} == KNOWN
    assert len({source for source, *_ in made}) == len(made) == len(KNOWN)
    for source, *_ in made:
        compile(source, "<mutant>", "exec")
        assert "keep=True" in source and "given = 3" in source  # not a learner's to write


def test_a_sign_keeps_its_brackets_and_loops_and_modules_are_changed():
    source = "def f(x):\n    for i in x:\n        ### BEGIN SOLUTION\n        x += torch.exp(0 ** i)\n        break\n"
    made = {new for _, _, new in mutants(source)}
    assert {"x += torch.exp((-1) ** i)", "x += 0 ** i", "x -= torch.exp(0 ** i)", "continue"} <= made


def lives(test):
    return lambda source: survives(source, "count", {}, cases_of(test + SCORE, "count"))


def test_a_weak_test_is_found_out_and_loops_without_end_are_ended(monkeypatch):
    monkeypatch.setattr("mutants.SECONDS", 0.1)
    weak, made = survivors(COUNT, lives(WEAK))
    assert made > 15
    assert ("n -= 1", "n += 1") in weak and ("total += n", "total -= n") in weak and len(weak) > made / 3
    strong, _ = survivors(COUNT, lives(STRONG))
    assert strong == [("while n > 0:", "while n >= 0:"), ("while n > 0:", "while n > -1:")]  # 0 adds nothing


def test_listed_mutants_do_not_count_and_must_survive(capsys):
    alive = {"while n >= 0:", "while n > -1:"}
    made = [mutant for mutant, *_ in mutants(COUNT)]

    def lives(source):
        return source == COUNT or any(line in source for line in alive)

    one = [("while n > 0:", "while n >= 0:")]
    for listed, expected in (
        ([], (len(made), 2, 0)),
        (one, (len(made) - 1, 1, 0)),
        ([("while n > 0:", ...)], (len(made) - 2, 0, 0)),
        ([*one, ("n -= 1", "pass")], (len(made) - 1, 1, 1)),
    ):
        assert report("count", COUNT, lives, listed) == expected
    assert "no survivor: ('n -= 1', 'pass')" in capsys.readouterr().out


def test_what_the_reference_does_not_earn_no_mutant_is_judged_by():
    with pytest.raises(RuntimeError, match="reference"):
        survivors(COUNT, lives(CASE.format(3, 7)))
