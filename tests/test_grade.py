"""The grader: points as intended, and every attack earns nothing and stops nobody."""

import csv
import json
import platform
import re
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lama_minimal import handout
from lama_minimal.cli import main
from lama_minimal.config import UserError
from lama_minimal.grade import Grader, find_forbidden, find_submissions, read_chapters
from lama_minimal.sandbox import BrokenAnswerError, Cases, decode, encode

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="grading needs processes that fork")

IMPORTS = "import numpy as np\nimport torch\n\nfrom lama_minimal import fourier\n"
DOUBLE = "def double(x):\n    ### BEGIN SOLUTION\n    return 2 * x\n    ### END SOLUTION\n"
CHECK = """\
from lama_minimal.checks import Case, check

check(double, Case("three", given=(3,), want=6, mistakes={"that is the square": 9}))
"""
TEST = """\
import torch

from lama_minimal.checks import Case, gradient, score, seeded

cases = [Case("a number", 1, given=(4,), want=8)]
### BEGIN HIDDEN TESTS
x = torch.from_numpy(seeded(1).standard_normal(5))


def twice(learner, x):
    return learner(learner(x))


cases += [
    Case("a tensor SECRETLY", 2, given=(x,), want=x * 2),
    Case("a gradient", 1, given=(x, x), want=2 * x, ask=gradient),
    Case("twice", 1, given=(x,), want=4 * x, ask=twice),
]
### END HIDDEN TESTS
score(double, cases)
"""
TRIPLE = "def triple(x):\n    ### BEGIN SOLUTION\n    return double(x) + x\n    ### END SOLUTION\n"
TRIPLE_TEST = """\
from lama_minimal.checks import Case, score

cases = [Case("three", 2, given=(3,), want=9)]
score(triple, cases)
"""


def cell(source, name=None, grade=False, solution=False, points=None, **metadata):
    label = dict(grade=grade, grade_id=name, locked=not solution, schema_version=3, solution=solution, task=False)
    label |= {"points": points} if grade else {}
    metadata |= {"nbgrader": label} if name else {}
    kept = dict(cell_type="code", execution_count=None, metadata=metadata, outputs=[], source=source)
    return kept | {"id": f"c{abs(hash((source, name)))}"}


def notebook(double=DOUBLE, triple=TRIPLE, before=(), after=(), test=TEST):
    cells = [cell(IMPORTS, "imports"), *before]
    if double is not None:
        cells.append(cell(double, "double", solution=True, lama={"forbidden": ["lama_minimal.fourier.FourierUnit"]}))
    cells += [cell(CHECK, "double-check"), cell(test, "double-test", grade=True, points=5), cell("picture = 1")]
    cells += [cell(triple, "triple", solution=True), cell(TRIPLE_TEST, "triple-test", grade=True, points=2), *after]
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("solutions")
    (folder / "04_double.ipynb").write_text(json.dumps(notebook()))
    return folder


@pytest.fixture(scope="module")
def grader(originals):
    with Grader(read_chapters(originals), seconds=20, memory=1, private=[originals]) as grader:
        yield grader


@pytest.fixture
def grade(grader, tmp_path):
    def run(content=None, name="04_double.ipynb", seconds=None, **parts):
        path = tmp_path / name
        path.write_text(json.dumps(content or notebook(**parts)))
        before, grader.seconds = grader.seconds, seconds or grader.seconds
        record = grader.grade(path, "learner")
        grader.seconds = before
        return record

    return run


def points(record):
    return [mark.points for mark in record.exercises]


# --------------------------------------------------------------------------------------------------------------- points


def test_the_reference_earns_all_and_a_blank_none(grade):
    assert points(grade()) == [5, 2]
    blank = grade(double="def double(x):\n    # YOUR CODE HERE\n    raise NotImplementedError()\n", triple="")
    assert points(blank) == [0, 0] and blank.exercises[0].reason == "not written yet" and blank.status == "graded"
    assert blank.max_points == 7
    other = grade(double="def double(x):\n    raise NotImplementedError('hypot for whole numbers')\n")
    assert points(other)[0] == 0 and "hypot" in other.exercises[0].hints[0]


@pytest.mark.parametrize(
    ("wrong", "earned", "hint"),
    [
        ("def double(x): return x * x", [0, 0], "that is the square"),
        ("def double(x): return 2 * x if isinstance(x, int) else x", [1, 2], ""),
        ("def double(x): return 2 * x if isinstance(x, int) else 2 * x.detach()", [4, 2], ""),
        ("def double(x): return torch.as_tensor(2 * x)", [4, 0], "it returns a Tensor, not a int"),
        ("def double(x): return x + y", [0, 0], "NameError: name 'y' is not defined (line 1 of the cell)"),
        ("def double(x) return x", [0, 0], "SyntaxError: expected ':' (line 1 of the cell)"),
        ("def twofold(x): return 2 * x", [0, 0], "NameError: name 'double' is not defined"),
        ("def double(x): return lambda: 0", [0, 0], "it returns a function, not"),
    ],
)
def test_wrong_answers_earn_their_part(grade, wrong, earned, hint):
    record = grade(double=wrong)
    assert points(record) == earned and record.status == "graded"
    assert hint in "".join(record.exercises[0].hints)


def test_what_a_learner_adds_is_used(grade):
    helper = [cell("%matplotlib inline\nimport operator"), cell("import operator\nTWO = 2\nraise SystemExit")]
    assert points(grade(double="def double(x): return operator.mul(TWO, x)", after=helper)) == [5, 2]
    assert points(grade(double="%time 1\ndef double(x): return 2 * x")) == [5, 2]
    warns = "import sys, warnings\ndef double(x):\n    warnings.warn('careful')\n    return 2 * x"
    assert points(grade(double=warns)) == [5, 2]  # a warning costs nothing


def test_the_seed_draws_the_inputs_and_the_same_seed_gives_the_same_grade(grader, tmp_path, monkeypatch):
    path = tmp_path / "04_double.ipynb"
    lucky = "def double(x): return 2 * x if isinstance(x, int) or float(x[0]) > 0 else x"
    path.write_text(json.dumps(notebook(double=lucky)))
    first = [float(np.random.default_rng([1, seed]).standard_normal(5)[0]) > 0 for seed in range(4)]
    assert len(set(first)) == 2
    for seed in (first.index(True), first.index(False)):
        monkeypatch.setattr(grader, "seed", seed)
        once, again = grader.grade(path, "a"), grader.grade(path, "a")
        assert points(once) == points(again) == [5 if first[seed] else 1, 2]


# -------------------------------------------------------------------------------------------------------------- attacks

ALWAYS = """\
import builtins, operator, numpy, torch, lama_minimal.checks, lama_minimal.sandbox, safetensors.torch
class Same(float):
    __eq__ = __le__ = __lt__ = __ge__ = lambda *_: True
    __hash__ = float.__hash__
numpy.allclose = torch.allclose = torch.equal = torch.isclose = operator.eq = lambda *a, **k: True
torch.Tensor.__eq__ = torch.Tensor.allclose = lambda *a, **k: torch.tensor(True)
lama_minimal.checks.difference = lama_minimal.checks.Case.judge = lambda *a, **k: ""
lama_minimal.checks.score = lambda learner, cases: 100
builtins.abs = builtins.max = lambda *a, **k: 0
def double(x): return Same(0)
"""
BY_HAND = """\
import os, json, struct
from lama_minimal.sandbox import encode
def double(x):
    for number in range(3, 64):
        try:
            for words in ({"earned": 5, "points": 5}, {"verdicts": [], "machine": ""}, {"answer": True}):
                data = encode(words)
                os.write(number, struct.pack("!Q", len(data)) + data)
            os.write(number, b"\\xff" * 64)
        except OSError:
            pass
    return 0
"""
FORKS = """\
import os, time
end = time.monotonic() + 2
def double(x):
    while time.monotonic() < end:
        try:
            os.fork()
        except OSError:
            pass
"""
LEAVES = """\
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "98765"])
    os._exit(0)
def double(x): return 3
"""

ATTACKS = {
    "comparison": (ALWAYS, ""),
    "patched torch": (
        "torch.from_numpy = torch.tensor = None\ntorch.Tensor.__mul__ = lambda a, b: b\ndouble = max",
        "",
    ),
    "exit": ("import os\ndef double(x): os._exit(0)", ""),
    "exit while defining": ("raise SystemExit", ""),
    "kill": ("import os\ndef double(x): os.kill(os.getppid(), 9); os.killpg(0, 15); return 0", ""),
    "memory": ("def double(x): return np.ones(20 * 2**27)", "MemoryError"),
    "output": ("def double(x):\n    while True: print('x' * 10**6)", "printed more than"),
    "by hand": (BY_HAND, ""),
    "forks": (FORKS, ""),
    "background": (LEAVES, ""),
    "recursion": ("def double(x): return double(x)", "RecursionError"),
    "deep answer": ("def double(x):\n    y = []\n    for _ in range(900): y = [y]\n    return y", ""),
    "large answer": ("def double(x): return torch.zeros(2**25, dtype=torch.float64)", "MB"),
    "hostile object": ("class X(int):\n    def __reduce__(self): return (print, (1,))\ndef double(x): return X(0)", ""),
    "infinite answer": ("def double(x):\n    y = []\n    y.append(y)\n    return y", "RecursionError"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_earn_nothing_and_the_next_exercise_goes_on(grade, attack):
    source, said = ATTACKS[attack]
    began = time.monotonic()
    record = grade(double=source, triple="def triple(x): return 3 * x")
    assert points(record) == [0, 2], record
    assert said in json.dumps(record.exercises[0].tests) + record.exercises[0].reason
    assert time.monotonic() - began < 60
    assert not running("98765")


LIBRARY = "library = ctypes.CDLL(None, use_errno=True)\ndef failed(): raise OSError(ctypes.get_errno(), 'the call')\n"
CALLS = {
    "os.fork()": "Errno 1]",
    "os.posix_spawn('/bin/true', ['true'], {})": "Errno 1]",
    "subprocess.run(['true'])": "Errno 1]",
    "multiprocessing.get_context('spawn').Process().start()": "Errno 1]",
    "library.syscall(57) < 0 and failed()": "Errno 1]",
    "library.syscall(58) < 0 and failed()": "Errno 1]",
    "library.syscall((1 << 30) + 57) < 0 and failed()": "Errno 1]",
    "library.syscall(435, bytes(88), 88) < 0 and failed()": "Errno 38]",
    "socket.socket(socket.AF_UNIX)": "Errno 1]",
    "socket.socketpair()": "Errno 1]",
    "os.memfd_create('more')": "Errno 1]",
    "library.shmget(0, 2**20, 0o1600) < 0 and failed()": "Errno 1]",
    "library.syscall(425, 8, bytes(120)) < 0 and failed()": "Errno 1]",
}


@pytest.mark.skipif((sys.platform, platform.machine()) != ("linux", "x86_64"), reason="numbers of system calls")
@pytest.mark.parametrize("call", CALLS)
def test_the_kernel_refuses_what_leads_out(grade, call):
    record = grade(double=f"import ctypes, multiprocessing, os, socket, subprocess\n{LIBRARY}def double(x): {call}")
    assert points(record)[0] == 0 and CALLS[call] in json.dumps(record.exercises[0].tests), record


def test_root_s_own_files_are_not_to_be_written(grade, grader):
    """A learner's process that stays root's, where others cannot read its Python, could own the machine by these."""
    if not grader.namespaces:
        pytest.skip("no namespaces here")
    paths = ["/proc/sys/kernel/core_pattern", "/proc/sys/vm/overcommit_memory", "/etc/passwd", *map(str, devices())]
    for path in paths:
        record = grade(double=f"import os\ndef double(x): os.open({path!r}, os.O_WRONLY)")
        words = json.dumps(record.exercises[0].tests)
        assert points(record)[0] == 0 and re.search(r"(Permission|FileNotFound|OS)Error", words), (path, words)
    harmless = "import os\ndef double(x): os.close(os.open(os.devnull, os.O_RDWR)); os.urandom(1); return 2 * x"
    assert points(grade(double=harmless)) == [5, 2]


def devices():
    """Some devices of this machine: of disks, and one of memory or a console."""
    found = [path for path in Path("/dev").iterdir() if path.is_block_device()][:2]
    return found + [path for path in map(Path, ("/dev/kvm", "/dev/fuse", "/dev/console")) if path.exists()]


def test_threads_are_no_processes(grade):
    source = "from concurrent.futures import ThreadPoolExecutor\n"
    double = f"{source}def double(x): return ThreadPoolExecutor(8).submit(lambda: x + x).result()"
    assert points(grade(double=double)) == [5, 2]


def running(words):
    """Command lines of all processes that hold these words, but for the shell's own search."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return [line for line in lines if words in line]


def test_an_endless_loop_ends(grade):
    record = grade(double="def double(x):\n    while True: pass", triple="def triple(x): return 3 * x", seconds=1)
    assert points(record) == [0, 2] and "did not end within 1 seconds" in record.exercises[0].reason


def read_what(expression):
    """A learner who hands out in an error message what an expression finds."""
    return f"import os, gc, glob\ndef double(x): raise ValueError(str({expression}))"


def words_of(record):
    return record.exercises[0].tests[0]["words"]


needs_namespaces = pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")


@needs_namespaces
def test_hidden_tests_cannot_be_read(grade, grader, originals, tmp_path, monkeypatch):
    if not grader.namespaces:
        pytest.skip("no namespaces on this machine")
    chapter = grader.chapters["04_double"]
    allowed = tuple(replace(exercise, forbidden=()) for exercise in chapter.exercises)  # else the attempts are found
    monkeypatch.setitem(grader.chapters, "04_double", replace(chapter, exercises=allowed))
    assert (originals / "04_double.ipynb").exists()
    assert "ValueError: []" in words_of(grade(double=read_what(f"os.listdir({str(originals)!r})")))
    everything = (
        "[text for text in gc.get_objects() if isinstance(text, (str, bytes, list, tuple, dict)) and 'SECRET' "
        "'LY' in repr(text)[:10**5]] and 'found'"
    )
    assert "ValueError: []" in words_of(grade(double=read_what(everything)))
    assert "SECRETLY" not in words_of(grade(double=read_what("dict(os.environ), open('/proc/self/cmdline').read()")))
    others = words_of(grade(double=read_what("[n for n in os.listdir('/proc') if n.isdigit()]")))
    assert others.startswith("ValueError: ['1']")
    memory = "open(f'/proc/{os.getppid()}/mem', 'rb')"
    assert re.match(r"(FileNotFound|Permission)Error", words_of(grade(double=read_what(memory))))
    target = tmp_path / "planted"
    assert "Error" in words_of(grade(double=read_what(f"open({str(target)!r}, 'w')"))) and not target.exists()


@pytest.mark.parametrize("namespaces", [True, False])
def test_there_is_no_network(grade, grader, namespaces, monkeypatch):
    import socket

    if namespaces and not grader.namespaces:
        pytest.skip("no namespaces on this machine")
    with socket.create_server(("127.0.0.1", 0)) as server:
        call = (
            f"import socket\ndef double(x):\n    socket.create_connection({server.getsockname()}, 5)\n    return 2 * x"
        )
        monkeypatch.setattr(grader, "namespaces", namespaces)
        record = grade(double=call)
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()
    assert points(record) == [0, 0]


@pytest.mark.parametrize("attack", ["exit", "memory", "output", "background", "by hand"])
def test_limits_hold_without_namespaces(grade, grader, attack, monkeypatch):
    monkeypatch.setattr(grader, "namespaces", False)
    record = grade(double=ATTACKS[attack][0], triple="def triple(x): return 3 * x")
    assert points(record) == [0, 2] and not running("98765")


def test_the_machines_fault_is_not_a_zero(grade, grader, monkeypatch, tmp_path):
    monkeypatch.setattr(grader, "namespaces", False)
    killed = grade(double="import os\ndef double(x): os.kill(os.getpid(), 9)")
    assert killed.exercises[0].points is None and killed.status == "not graded" and "killed" in killed.reason
    (tmp_path / "fourier_lazy.py").write_text("def use(): import not_installed_here")
    lazy = f"import sys\nsys.path.append({str(tmp_path)!r})\nimport fourier_lazy\ndef double(x): fourier_lazy.use()"
    assert grade(double=lazy).exercises[0].points is None
    assert grade(double="import not_installed_here").exercises[0].points == 0
    chapter = grader.chapters["04_double"]
    broken = replace(chapter, imports="import torch_is_broken_here")
    monkeypatch.setitem(grader.chapters, "04_double", broken)
    record = grade()
    assert points(record) == [None, None] and "torch_is_broken_here" in record.reason


def test_edited_deleted_and_doubled_cells(grade):
    easy = TEST.replace("want=8", "want=0").replace("score(double, cases)", "100")
    assert points(grade(double="def double(x): return 0", test=easy)) == [0, 0]
    assert points(grade(double=None)) == [0, 0]
    twice = [cell("def double(x): return 2 * x", "double", solution=True)]
    assert points(grade(double="def double(x): return 0", after=twice)) == [5, 2]
    planted = [cell("cases = []", "double-test", grade=True, points=100), cell("import os; os._exit(0)", "imports")]
    assert points(grade(double="def double(x): return 0", after=planted)) == [0, 0]
    odd = notebook()
    odd["cells"] += [7, None, {"cell_type": "code"}, {"metadata": 3}, {"metadata": {"nbgrader": []}, "source": 1}]
    odd["cells"] += [{"cell_type": "code", "metadata": {"nbgrader": {"grade_id": []}}, "source": ["a", 3]}]
    assert points(grade(odd)) == [5, 2]


# ---------------------------------------------------------------------------------------------------- what is forbidden


@pytest.mark.parametrize(
    "answer",
    [
        "from lama_minimal.fourier import FourierUnit as F\n",
        "def double(x): return fourier.FourierUnit(x)",
        "import lama_minimal.fourier as f\ndef double(x): return f.FourierUnit(x)",
        "import lama_minimal.fourier\ndef double(x): return lama_minimal.fourier.FourierUnit(x)",
        "from lama_minimal.models import FourierUnit as F",
        "from lama_minimal.fourier import *",
        "def double(x): return getattr(fourier, 'FourierUnit')(x)",
        "def double(x): return getattr(fourier, 'Fourier' + 'Unit')(x)",
        "def double(x): return vars(fourier)['FourierUnit'](x)",
        "def double(x): return fourier.__dict__['FourierUnit'](x)",
        "import importlib\ndouble = importlib.import_module('lama_minimal.fourier')",
        "from importlib import import_module as i\ndouble = i('lama_minimal.fourier')",
        "double = __import__('lama_minimal.fourier')",
        "exec('from lama_minimal.fourier import FourierUnit as double')",
        "import sys\ndef double(x): return sys.modules['lama_minimal.fourier']",
        "g = fourier\ndef double(x): return g.FourierUnit(x)",
        "def double(x): return helper(x)",
        "def double(x): return unit(x)",
    ],
)
def test_the_packages_answer_is_found(answer):
    around = [IMPORTS, "def helper(x): return fourier.FourierUnit(x)", "unit = fourier.FourierUnit"]
    assert find_forbidden(answer, around, ["lama_minimal.fourier.FourierUnit"])


@pytest.mark.parametrize(
    "answer",
    [
        "class FourierUnit:\n    def __init__(self): super(FourierUnit, self).__init__()",
        "def double(x):\n    model.eval()\n    return fourier.other(getattr(x, 'real'))",
        "import re\npattern = re.compile('x')",
        "from lama_minimal.fourier import FFC\nx = torch.fft.rfft2",
        "def double(x) return",
    ],
)
def test_honest_code_is_left_alone(answer):
    around = [IMPORTS, "from lama_minimal.fourier import FourierUnit"]
    assert not find_forbidden(answer, around, ["lama_minimal.fourier.FourierUnit"])


def test_a_forbidden_answer_earns_nothing_and_says_why(grade):
    record = grade(
        double="def double(x):\n    fourier.FourierUnit\n    return 2 * x", triple="def triple(x): return 3 * x"
    )
    assert points(record) == [0, 2]
    assert "lama_minimal.fourier.FourierUnit (line 2 of the cell)" in record.exercises[0].reason
    assert find_forbidden("y = torch.fft.rfft2(x)", [IMPORTS], ["torch.fft"])


# ----------------------------------------------------------------------------------------------------------- plain data


def test_data_arrives_as_it_left():
    half = torch.arange(3, dtype=torch.bfloat16)
    for value in (None, True, 3, 2.5, float("inf"), "ü\ud800", 1 + 2j, (1, [2, {"a": (), 3: {4}}]), np.float32(2)):
        there = decode(encode(value))
        assert there == value and type(there) is type(value)
    for tensor in (half, torch.tensor(3), torch.zeros(0, 2), torch.randn(3, 2).T, torch.randn(2).to(torch.complex128)):
        there = decode(encode({"x": tensor}))["x"]
        assert there.dtype == tensor.dtype and there.shape == tensor.shape and torch.equal(there, tensor)
    for array in (
        np.arange(6).reshape(2, 3).T[::-1],
        np.array(2.5),
        np.ones(2, ">f4"),
        np.ones(2, complex),
        np.ones(2) > 0,
    ):
        there = decode(encode([array]))[0]
        assert isinstance(there, np.ndarray) and there.shape == array.shape and (there == array).all()
        assert there.dtype == array.dtype.newbyteorder("=")
    with pytest.raises(TypeError, match="not of numbers"):
        encode(np.array([object()]))
    with pytest.raises(TypeError, match="a function"):
        encode([lambda: 0])


def test_check_and_test_may_have_a_function_of_one_name():
    check = """
from lama_minimal.checks import Case, check
def ask(learner, x):
    return "in the check"
check(double, Case("a case", 0, (1,), "", ask=ask))
"""
    test = """
from lama_minimal.checks import Case, score
def ask(learner, x):
    return "in the test"
cases = [Case("a case", 1, (1,), "", ask=ask)]
score(double, cases)
"""
    cases = Cases("double", check, test, "", seed=0)
    sent = [decode(cases.question(case))["source"] for case in cases.list]
    assert ["in the check" in source for source in sent] == [True, False]
    assert ["in the test" in source for source in sent] == [False, True]


def test_what_is_no_answer_is_refused():
    import pickle

    good = encode({"answer": torch.ones(3)})
    for data in (b"", b"\0" * 8, pickle.dumps(3), good[:-1], good.replace(b"number", b"numbex"), b"\xff" * 100):
        with pytest.raises(BrokenAnswerError):
            decode(data)
    rng = np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(good)
        broken[rng.integers(len(good))] = rng.integers(256)
        try:
            decode(bytes(broken))
        except BrokenAnswerError:
            continue


# ---------------------------------------------------------------------------------------------- files and whole classes


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"not json", "not JSON"),
        (b"[" * 10**5, "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[]", "no notebook of format 4"),
        (b'{"nbformat": 3, "worksheets": []}', "no notebook of format 4"),
        (b'{"nbformat": 4, "cells": [], "metadata": {}}', "no exercise"),
        (b" " * (21 * 2**20), "larger than 20 MB"),
    ],
)
def test_what_is_no_notebook_is_said_and_not_graded(grader, tmp_path, content, said):
    path = tmp_path / "x.ipynb"
    path.write_bytes(content)
    record = grader.grade(path, "x")
    assert record.status == "not graded" and said in record.reason and not record.exercises


def test_links_are_not_followed(grader, tmp_path, originals):
    (tmp_path / "04_double.ipynb").symlink_to(originals / "04_double.ipynb")
    assert "is a link" in grader.grade(tmp_path / "04_double.ipynb", "x").reason


def test_who_handed_in(tmp_path):
    for name in ("a/ann/04_double.ipynb", "b/ann/04_double.ipynb", "a/.ipynb_checkpoints/x.ipynb", "a/eve.ipynb"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    found = find_submissions([tmp_path / "a", tmp_path / "b"], ["04_double"])
    assert [(path.relative_to(tmp_path).as_posix(), learner) for path, learner in found] == [
        ("a/ann/04_double.ipynb", "ann"),
        ("a/eve.ipynb", "eve"),
        ("b/ann/04_double.ipynb", "ann"),
    ]
    assert find_submissions([tmp_path / "a" / "ann"], ["04_double"])[0][1] == "ann"
    with pytest.raises(UserError, match="does not exist"):
        find_submissions([tmp_path / "c"], [])


def test_a_class(originals, tmp_path, capsys):
    hostile = '<img src=x onerror="alert(1)"><script>alert(1)</script>'
    exfiltrates = "class E(Exception): pass\ndef double(x): raise E(repr(x) + '<b>SPILLED</b>')"
    class_ = {
        f"class/{'<b>eve'}/04_double.ipynb": notebook(double=f"def double(x): raise ValueError({hostile!r})"),
        "class/ann/04_double.ipynb": notebook(),
        "other/ann/04_double.ipynb": notebook(double=exfiltrates),
        "class/=cmd()/04_double.ipynb": notebook(double="def double(x): return x * x"),
        "class/broken/04_double.ipynb": {"nbformat": 3},
    }
    for name, content in class_.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(json.dumps(content))
    private = tmp_path / "private" / "04_double"
    private.mkdir(parents=True)
    (private / "triple.py").write_text("cases += [Case('PRIVATE', 2, given=(5,), want=16)]")
    out = tmp_path / "out"
    main(["grade", str(tmp_path / "class"), str(tmp_path / "other"), "--out", str(out), "--solutions", str(originals),
          "--hidden", str(tmp_path / "private")])  # fmt: skip
    assert "ann  04_double  6 of 7" in capsys.readouterr().out  # nobody's triple(5) is 16: half of its 2 points
    report = json.loads((out / "report.json").read_text())
    assert len(report) == 5 and {"notebook", "points", "max_points", "exercises"} <= report[0].keys()
    rows = list(csv.DictReader((out / "grades.csv").open()))
    assert {row["learner"]: (row["status"], row["points"]) for row in rows if row["learner"] != "ann"} == {
        "<b>eve": ("graded", "0"),
        "'=cmd()": ("graded", "0"),
        "broken": ("not graded", ""),
    }
    pages = {path.name: path.read_text() for path in [*out.glob("*.html"), *out.glob("learners/*.html")]}
    assert pages.keys() == {"class.html", "ann.html", "ann-2.html", "b_eve.html", "cmd.html", "broken.html"}
    for text in pages.values():
        assert "<script" not in text and "<img" not in text and "<b>eve" not in text and "<b>SPILLED" not in text
        assert "http" not in text.replace("http-equiv", "") and "x = torch" not in text and "seeded" not in text
    assert "&lt;script&gt;" in pages["b_eve.html"] and "that is the square" in pages["class.html"]
    hidden = pages["ann-2.html"].split("SECRETLY")[1].split("</li>")[0]
    assert "SPILLED" not in hidden and "tensor(" not in hidden  # no input of a hidden test leaves


def test_mistakes_of_the_teacher_are_one_line(originals, tmp_path, capsys):
    (tmp_path / "h" / "04_double").mkdir(parents=True)
    (tmp_path / "h" / "04_double" / "doubel.py").write_text("")
    paths = [str(originals), "--out", str(tmp_path / "out")]
    for arguments, said in (
        ([*paths, "--solutions", str(tmp_path)], "--solutions FOLDER"),
        ([*paths, "--solutions", str(originals), "--hidden", str(tmp_path / "h")], "04_double/double"),
        ([*paths, "--solutions", str(originals), "--hidden", str(tmp_path / "none")], "is no folder"),
        ([str(tmp_path / "none"), "--out", "x", "--solutions", str(originals)], "does not exist"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["grade", *arguments])
        assert stop.value.code == 2
        text = capsys.readouterr().err
        assert said in text and text.count("\n") == 1


def test_nothing_is_left_running(originals):
    with Grader(read_chapters(originals)) as grader:
        processes = [grader.judges.process.pid, grader.learners.process.pid]
    assert not [process for process in processes if Path(f"/proc/{process}").exists()]


# --------------------------------------------------------------------------------------------------- what is given away


def test_handout_holds_no_answers(tmp_path, originals, monkeypatch):
    monkeypatch.setattr(handout, "_repository", lambda: "https://example.org/course")
    chapters = tmp_path / "chapters"
    chapters.mkdir()
    (chapters / "04_double.ipynb").write_text(json.dumps(notebook(double="def double(x): ...", triple="", test="0")))
    (chapters / "05_more.ipynb").write_text(json.dumps(notebook()))
    path = handout.handout(["04"], tmp_path / "out", chapters)
    first = path.read_bytes()
    with zipfile.ZipFile(path) as packed:
        assert packed.namelist() == ["README.txt", "04_double.ipynb"]
        assert "example.org" in packed.read("README.txt").decode()
    assert handout.handout(["04_double"], tmp_path / "out", chapters).read_bytes() == first
    with pytest.raises(UserError, match="holds answers"):
        handout.handout(["05"], tmp_path / "out", chapters)
    with pytest.raises(UserError, match="no chapter 06"):
        handout.handout(["06"], tmp_path / "out", chapters)


def test_nbgrader_export_lays_out_a_course(tmp_path, originals):
    written = handout.nbgrader_export(tmp_path / "course", [], originals)
    assert written == [tmp_path / "course/source/04_double/04_double.ipynb"]
    assert written[0].read_bytes() == (originals / "04_double.ipynb").read_bytes()
    compile((tmp_path / "course/nbgrader_config.py").read_text(), "nbgrader_config.py", "exec")
    with pytest.raises(UserError, match="not empty"):
        handout.nbgrader_export(tmp_path / "course", [], originals)
