"""What the cells of a chapter call: instant checks, graded tests, and figures with alternative text.

A :class:`Case` asks a learner's function one question, and knows the answer, its points and the typical mistakes. The
same cases serve the learner, the grader and the package's own function: :func:`check` and :func:`score` take the
function as their argument. How the cells fit together is written down in :mod:`lama_minimal.course`.

    check(double, Case("an odd number", given=(3,), want=6, mistakes={"that is the square": 9}))
"""

from __future__ import annotations

import base64
import contextlib
import copy
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def seeded(number: int) -> np.random.Generator:
    """Random inputs of a check or a test: the cell's own number, shifted by the teacher's ``LAMA_SEED`` (default 0)."""
    return np.random.default_rng([number, int(os.environ.get("LAMA_SEED", "0"))])


# ---------------------------------------------------------------------------------------------------- ways of asking


def call(learner: Callable[..., Any], *given: Any) -> Any:
    """Ask for the function's value."""
    return learner(*given)


def gradient(learner: Callable[..., Tensor], x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    """Ask for the gradient at ``x`` of ``(learner(x, *rest) * weight).sum()``.

    Raises:
        ValueError: the function's value does not depend on ``x`` as far as autograd can see.
    """
    x = x.detach().clone().requires_grad_()
    value = learner(x, *rest)
    if not isinstance(value, Tensor) or not value.requires_grad:
        raise ValueError("no gradient reaches the input: something on the way is detached (numpy, .item(), .detach())")
    return torch.autograd.grad(value, x, weight)[0]


# --------------------------------------------------------------------------------------------------------------- cases


@dataclass(frozen=True)
class Case:
    """One question to a learner's function."""

    name: str
    """What is asked, in a few words that learners may read; it holds no number of a hidden test."""
    points: float = 0
    """What a right answer earns."""
    given: Sequence[Any] = ()
    """The arguments: plain data (tensors, arrays, numbers, strings, and tuples, lists and dictionaries of them)."""
    want: Any = None
    """The right answer, plain data again; or a function that is told the answer and says whether it is right."""
    mistakes: Mapping[str, Any] = field(default_factory=dict)
    """What went wrong, in words → the wrong answer that it leads to (or a function of the answer, as in ``want``)."""
    ask: Callable[..., Any] = call
    """``ask(learner, *given)`` is the answer; the only part that needs the learner's process."""
    within: float = 1e-6
    """Greatest error of a number, as a share of the greatest wanted magnitude."""

    def judge(self, answer: Any) -> str:
        """What is wrong with the answer, in one sentence; an empty string where nothing is."""
        fault = self._fault(answer, self.want)
        if not fault or answer is None:
            return fault
        return next((text for text, wrong in self.mistakes.items() if not self._fault(answer, wrong)), fault)

    def _fault(self, answer: Any, want: Any) -> str:
        if callable(want):
            return "" if want(answer) else "that is not right yet"
        return difference(answer, want, self.within)


def difference(answer: Any, want: Any, within: float = 1e-6) -> str:
    """How an answer differs from what is wanted, in one sentence; an empty string where it does not.

    Args:
        answer: plain data of any kind.
        want: plain data; tensors and arrays are compared by kind, shape and values, everything else by equality.
        within: greatest error of a number, as a share of the greatest wanted magnitude.
    """
    if answer is None and want is not None:
        return "it returns None: is the return statement missing?"
    if isinstance(want, Mapping | tuple | list):
        return _difference_of_many(answer, want, within)
    if isinstance(want, str | bool | None):
        return "" if type(answer) is type(want) and answer == want else f"it returns {answer!r}, not {want!r}"
    if isinstance(want, Tensor) != isinstance(answer, Tensor):
        return f"it returns a {type(answer).__name__}, not a {type(want).__name__}"
    return _difference_of_numbers(_array(answer), _array(want), within)


def _array(value: Any) -> np.ndarray:
    return value.detach().cpu().resolve_conj().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _difference_of_many(answer: Any, want: Any, within: float) -> str:
    """Of a mapping or a sequence: its keys or its length, then each member."""
    is_mapping = isinstance(want, Mapping)
    if not isinstance(answer, Mapping if is_mapping else tuple | list):
        return f"it returns a {type(answer).__name__}, not a {type(want).__name__}"
    if is_mapping and set(answer) != set(want):
        lacking, others = sorted(map(str, set(want) - set(answer))), sorted(map(str, set(answer) - set(want)))
        return f"as keys it lacks {', '.join(lacking) or 'none'}, and has {', '.join(others) or 'none'} too many"
    if len(answer) != len(want):
        return f"it returns {len(answer)} values, not {len(want)}"
    for key in want if is_mapping else range(len(want)):
        fault = difference(answer[key], want[key], within)
        if fault:
            return f"at [{key!r}]: {fault}"
    return ""


def _difference_of_numbers(answer: np.ndarray, want: np.ndarray, within: float) -> str:
    if answer.dtype.kind not in "biufc":
        return f"it returns {answer.dtype} values, not numbers"
    if answer.shape != want.shape:
        return f"the shape is {answer.shape}, not {want.shape}"
    if (answer.dtype.kind == "c") != (want.dtype.kind == "c"):
        return f"its numbers are {answer.dtype}, not {want.dtype}"
    if not np.isfinite(answer).all():
        return "some of its numbers are infinite or not numbers"
    if not want.size:
        return ""
    error = np.abs(np.subtract(answer, want, dtype=np.result_type(answer, want, np.float64))).max()
    greatest = np.abs(want).max()
    off = f"the numbers are off, by up to {error:.3g} (the greatest is {greatest:.3g})"
    return "" if error <= within * (greatest or 1) else off


# ---------------------------------------------------------------------------------------------------- check and score


def _answered(learner: Callable[..., Any], case: Case) -> str:
    """Ask and judge; what an exception says, and where in the notebook it came up, is a fault like any other."""
    try:
        return case.judge(case.ask(learner, *copy.deepcopy(case.given)))
    except Exception as error:
        if isinstance(error, NotImplementedError) and not str(error):
            raise  # the stub of an unwritten answer; PyTorch's own say what is not implemented
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
        own = [frame.line for frame in frames if frame.filename != __file__ and frame.line]
        return f"{type(error).__name__}: {error}" + (f" (at: {own[-1]})" if own else "")


def check(learner: Callable[..., Any], *cases: Case) -> None:
    """Ask each case and print what is right and what is not; nothing is raised, so that the notebook goes on.

    Args:
        learner: the function; one that raises ``NotImplementedError`` is "not written yet".
        cases: their points are ignored.
    """
    try:
        for case in cases:
            fault = _answered(learner, case)
            print(f"✗ {case.name}: {fault}" if fault else f"✓ {case.name}")
    except NotImplementedError:
        print(f"{learner.__name__}: not written yet")


def score(learner: Callable[..., Any], cases: Iterable[Case]) -> float:
    """Ask each case, print its points, and return their sum: nbgrader's partial credit.

    What the function writes to stderr goes to stdout, since nbgrader takes a warning on stderr for a failure.
    """
    cases = list(cases)
    earned = 0.0
    try:
        with contextlib.redirect_stderr(sys.stdout):
            for case in cases:
                fault = _answered(learner, case)
                earned += 0 if fault else case.points
                print(f"{0 if fault else case.points:g} of {case.points:g}  {case.name}{': ' * bool(fault)}{fault}")
    except NotImplementedError:
        print(f"{learner.__name__}: not written yet")
        return 0.0
    return round(earned, 6)


# ------------------------------------------------------------------------------------------------------------- figures


def show(picture: Figure | np.ndarray, alt: str, photograph: bool = False) -> None:
    """Display a figure or a picture with its alternative text, which is also what stands in plain text.

    Args:
        picture: a Matplotlib figure (it is closed), or (H, W, 3) uint8.
        alt: what is to be seen, for those who do not see it.
        photograph: store as JPEG instead of PNG.
    """
    from IPython.display import display

    width = picture.shape[1] if isinstance(picture, np.ndarray) else round(picture.get_size_inches()[0] * 100)
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else _drawn(picture)
    buffer, form = io.BytesIO(), "jpeg" if photograph else "png"
    if photograph:
        image.save(buffer, form, quality=88)
    else:
        image.quantize(256).save(buffer, form, optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    mime = f"image/{form}"
    display({mime: data, "text/plain": alt}, raw=True, metadata={mime: {"alt": alt, "width": width}})


def _drawn(figure: Figure) -> Image.Image:
    """The figure as a picture, finer than a hundred dots an inch for sharp screens; the figure is closed."""
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=140)
    plt.close(figure)
    return Image.open(buffer).convert("RGB")
