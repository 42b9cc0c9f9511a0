"""What chapters call: answers are judged by kind, shape and value, and a learner's mistake never stops a notebook."""

import sys
import warnings

import numpy as np
import pytest
import torch

from lama_minimal.checks import Case, check, difference, gradient, score, seeded, show


@pytest.mark.parametrize(
    ("answer", "want", "told"),
    [
        (None, 3, "return statement"),
        (4.0, 3.0, "off, by up to 1 "),
        (np.zeros(3), np.zeros((3, 1)), "shape is (3,), not (3, 1)"),
        (torch.zeros(2), np.zeros(2), "returns a Tensor, not a ndarray"),
        (np.zeros(2), torch.zeros(2), "returns a ndarray, not a Tensor"),
        (torch.ones(2), torch.ones(2, dtype=torch.complex64), "float32, not complex64"),
        (np.array([np.nan, 1]), np.ones(2), "infinite or not numbers"),
        ("thick", "thin", "'thick', not 'thin'"),
        (1, True, "1, not True"),
        ("3", 3, "not numbers"),
        ((1, 2), (1, 3), "at [1]: the numbers are off"),
        ((1, 2), (1, 2, 3), "2 values, not 3"),
        (5, [5], "returns a int, not a list"),
        ({"a": 1, "c": 0}, {"b": 1, "c": 0}, "as keys it lacks b, and has a too many"),
        ({"a": torch.ones(2)}, {"a": torch.zeros(2)}, "at ['a']"),
    ],
)
def test_what_differs_is_named(answer, want, told):
    assert told in difference(answer, want)


@pytest.mark.parametrize("value", [3, 2.5, "x", True, None, (1, [2.0]), {"a": np.ones(2)}, torch.ones(2), np.zeros(0)])
def test_the_same_does_not_differ(value):
    assert difference(value, value) == ""


def test_the_tolerance_is_a_share_of_the_greatest_value():
    want = np.array([1000.0, 1.0])
    assert not difference(want + 0.09, want, within=1e-4)
    assert difference(want + 0.11, want, within=1e-4)
    assert not difference(np.array([3], np.uint8), np.array([3]))
    assert "by up to 2 " in difference(np.array([1], np.uint8), np.array([3], np.uint8))  # not 254


def test_a_typical_mistake_is_named_before_the_plain_fault(capsys):
    case = Case("double", given=(3,), want=6, mistakes={"that is the square": 9, "negative": lambda x: x < 0})
    assert [case.judge(answer) for answer in (6, 9, -6)] == ["", "that is the square", "negative"]
    check(lambda x: x * x, case)
    check(lambda x: x + 1, case)
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "✗ double: that is the square" and out[1].startswith("✗ double: the numbers are off")


def test_what_is_not_written_costs_all_points_and_stops_nothing(capsys):
    def blank(x):
        raise NotImplementedError

    check(blank, Case("a", given=(1,), want=1))
    assert score(blank, [Case("a", 1, given=(1,), want=1)]) == 0
    assert capsys.readouterr().out == "blank: not written yet\n" * 2


def test_what_pytorch_has_not_implemented_is_no_blank(capsys):
    whole = torch.arange(3)
    check(lambda x: torch.hypot(x, x), Case("a", given=(whole,), want=1), Case("b", given=(whole,), want=1))
    out = capsys.readouterr().out
    assert out.count("✗") == 2 and "not implemented for" in out and "not written" not in out


def test_points_are_partial_and_an_error_costs_only_its_case(capsys):
    cases = [Case("even", 1, given=(4,), want=2), Case("zero", 2, given=(0,), want=0), Case("text", 0.5, ("x",), "")]
    assert score(lambda x: 8 // x, cases) == 1
    assert "ZeroDivisionError" in capsys.readouterr().out


def test_a_warning_on_stderr_costs_nothing(capfd):
    def loud(x):
        warnings.warn("loud", stacklevel=1)
        print("louder", file=sys.stderr)
        return x

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_rest: print(message, file=sys.stderr)
        assert score(loud, [Case("same", 1, given=(3,), want=3)]) == 1
    out, err = capfd.readouterr()
    assert "louder" in out and not err


def test_a_learner_who_changes_the_input_does_not_change_the_next_case():
    def changes(x):
        x += 1
        return x

    given = torch.zeros(2)
    assert score(changes, [Case(name, 1, given=(given,), want=torch.ones(2)) for name in "ab"]) == 2
    assert not given.any()


def test_gradients_are_asked_for_and_a_detached_answer_is_told():
    x, weight = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0])
    assert torch.equal(gradient(torch.square, x, weight), 2 * x * weight)
    with pytest.raises(ValueError, match="detached"):
        gradient(lambda x: x.detach() ** 2, x, weight)


def test_the_teacher_can_change_all_random_inputs(monkeypatch):
    first = seeded(3).standard_normal(4)
    assert np.array_equal(first, seeded(3).standard_normal(4)) and not np.array_equal(first, seeded(4).random(4))
    monkeypatch.setenv("LAMA_SEED", "1")
    assert not np.array_equal(first, seeded(3).standard_normal(4))


@pytest.mark.parametrize("photograph", [False, True])
def test_pictures_carry_their_alternative_text(monkeypatch, photograph):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw, metadata: shown.append((data, metadata)))
    show(np.zeros((8, 12, 3), np.uint8), "a dark picture", photograph)
    (data, metadata), mime = shown[0], "image/jpeg" if photograph else "image/png"
    assert data["text/plain"] == "a dark picture" and data[mime]
    assert metadata == {mime: {"alt": "a dark picture", "width": 12}}
