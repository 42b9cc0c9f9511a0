"""Runs a learner's code where it can do no harm, and judges its answers where it can reach nothing.

    grade ──► nursery ──► guard ──► learner   the learner's cells, in namespaces and limits of their own: answers
      │                     │ watches it, ends it     ▲  plain data, over a socket: never pickled, never run
      └─────► nursery ──► judge ◄─────────────────────┘  the test cell: makes the questions, compares the answers

A *nursery* has imported PyTorch once and knows no test; everything else is a copy (fork) of one, in a few milliseconds.
Each graded cell has a learner process and a judge of its own. A learner who patches NumPy or PyTorch, replaces
``allclose`` or writes to the socket by hand changes nothing but the values that come back: they are compared elsewhere.

On Linux with user namespaces (or as root) the learner's process has no network, sees no other process, reads every
file system read-only and not at all where the teacher's files lie, and writes to 256 MB of memory named ``$HOME``.
The kernel refuses it new processes, so that nothing stays behind and nothing multiplies, and sockets, devices,
namespaces, and memory that no limit counts.
Elsewhere Python's own sockets are blocked, limits hold, and the report says so: grade strangers in a container there.
"""

import ast
import builtins
import contextlib
import ctypes
import errno
import json
import os
import random
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError

from lama_minimal import checks

LARGEST_ANSWER = 256 * 2**20
"""Bytes of the answers to one cell."""
LARGEST_TREE = 16 * 2**20
"""Bytes of an answer outside its arrays and tensors."""
LARGEST_OUTPUT = 10 * 2**20
"""Bytes that a learner may print while one cell is graded."""
LARGEST_HOME = 256 * 2**20
"""Bytes that a learner may write to files."""
MOST_THREADS = 64
"""Threads of a learner, where it does not run as root; where it can start processes, those are counted too."""


class BrokenAnswerError(ValueError):
    """What came over the socket is no answer."""


@dataclass(frozen=True)
class Job:
    """What a learner's process is told; nothing of it is secret."""

    name: str
    """The function to ask."""
    imports: str
    """The notebook's own cell of imports: an error in it is the machine's fault, not the learner's."""
    cells: list[str]
    """The learner's cells."""
    home: str
    """An empty folder of its own; the grader removes it."""
    seed: int = 0
    seconds: float = 60
    """Wall-clock time for the cells and all answers."""
    memory: float = 4
    """GB on top of what PyTorch takes."""
    private: list[str] = field(default_factory=list)
    """Files and folders to hide."""
    namespaces: bool = True
    """Run in namespaces of its own (see :func:`has_namespaces`)."""


# -------------------------------------------------------------------------------------------------- plain data as bytes


def encode(value: Any) -> bytes:
    """Plain data as a safetensors file in memory: the arrays and tensors, and a tree of the rest as JSON.

    Args:
        value: None, booleans, numbers, strings, tensors, arrays, and tuples, lists, sets and dictionaries of them.

    Raises:
        TypeError: something else is in it, or too much.
    """
    tensors: dict[str, torch.Tensor] = {}
    tree = json.dumps(_plain(value, tensors)).encode()
    if sum(tensor.nbytes for tensor in tensors.values()) >= LARGEST_ANSWER:
        raise TypeError(f"it returns more than {LARGEST_ANSWER // 2**20} MB")
    tensors["tree"] = torch.frombuffer(bytearray(tree), dtype=torch.uint8)
    return safetensors.torch.save(tensors)


def _plain(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, np.ndarray | np.generic | torch.Tensor):
        kind = "tensor" if isinstance(value, torch.Tensor) else "array" if isinstance(value, np.ndarray) else "scalar"
        if kind == "tensor":
            tensor = value.detach().cpu().to_dense().resolve_conj().resolve_neg()
        elif np.asarray(value).dtype.kind in "biufc":
            tensor = torch.from_numpy(np.array(value, dtype=np.asarray(value).dtype.newbyteorder("=")))
        else:
            raise TypeError(f"it returns an array of {np.asarray(value).dtype}, not of numbers")
        is_complex = tensor.is_complex()
        number = str(len(tensors))
        tensors[number] = (torch.view_as_real(tensor) if is_complex else tensor).clone(
            memory_format=torch.contiguous_format
        )
        return {"kind": kind, "number": number, "complex": is_complex}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, complex):
        return {"kind": "complex", "parts": [value.real, value.imag]}
    if isinstance(value, Mapping):
        pairs = [[_plain(key, tensors), _plain(member, tensors)] for key, member in value.items()]
        return {"kind": "dict", "pairs": pairs}
    for kind in (tuple, list, set):
        if isinstance(value, kind):
            return {"kind": kind.__name__, "members": [_plain(member, tensors) for member in value]}
    raise TypeError(f"it returns a {type(value).__name__}, not tensors, arrays, numbers, strings or tuples of them")


def decode(data: bytes) -> Any:
    """The inverse of :func:`encode`; reads data of hostile origin and runs nothing of it.

    Raises:
        BrokenAnswerError: the data is not what :func:`encode` writes.
    """
    try:
        tensors = safetensors.torch.load(data)
        if tensors["tree"].nbytes > LARGEST_TREE:
            raise ValueError("too much outside of arrays")
        return _value(json.loads(tensors["tree"].numpy().tobytes()), tensors)
    except (SafetensorError, ValueError, TypeError, LookupError, AttributeError, RecursionError, RuntimeError) as error:
        raise BrokenAnswerError(f"the answer cannot be read ({type(error).__name__})") from None


def _value(tree: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if not isinstance(tree, dict):
        if isinstance(tree, list):
            raise ValueError("a bare list")
        return tree
    kind = tree["kind"]
    if kind in ("tensor", "array", "scalar"):
        tensor = tensors[tree["number"]]
        tensor = torch.view_as_complex(tensor) if tree["complex"] else tensor
        return tensor if kind == "tensor" else tensor.numpy() if kind == "array" else tensor.numpy()[()]
    if kind == "complex":
        return complex(*tree["parts"])
    if kind == "dict":
        return {_value(key, tensors): _value(member, tensors) for key, member in tree["pairs"]}
    return {"tuple": tuple, "list": list, "set": set}[kind](_value(member, tensors) for member in tree["members"])


def _send(channel: socket.socket, data: bytes) -> None:
    channel.sendall(struct.pack("!Q", len(data)) + data)


def _receive(channel: socket.socket, largest: int = LARGEST_ANSWER) -> bytes | None:
    """The next message; None where the other side has ended."""
    head = _receive_exactly(channel, 8)
    if head is None:
        return None
    size = struct.unpack("!Q", head)[0]
    if size > largest:
        raise BrokenAnswerError(f"the answer is larger than {largest // 2**20} MB")
    return _receive_exactly(channel, size)


def _receive_exactly(channel: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        try:
            part = channel.recv(min(size - len(data), 2**20))
        except ConnectionError:
            return None
        if not part:
            return None
        data += part
    return bytes(data)


# ------------------------------------------------------------------------------------------------ the learner's process


def _describe(error: BaseException) -> dict[str, Any]:
    """An error as plain data: its kind, its words, and the last line of a learner's cell that it passed."""
    where = ""
    frames = traceback.extract_tb(error.__traceback__)
    for frame in frames:
        if frame.filename.startswith("<cell"):
            where = f"line {frame.lineno} of the cell"
    if isinstance(error, SyntaxError) and (error.filename or "").startswith("<cell"):
        where = f"line {error.lineno} of the cell"
    words = (error.msg if isinstance(error, SyntaxError) else str(error))[:1000]
    full = isinstance(error, OSError) and error.errno == errno.ENOSPC and shutil.disk_usage("/").free < 2**24
    # A library that fails to import something of its own, as PyTorch may where it first needs it: not their fault.
    broken = isinstance(error, ImportError) and bool(frames) and not frames[-1].filename.startswith("<")
    return {"error": type(error).__name__, "words": words, "where": where, "machine": full or broken}


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _learn(job: Job, channel: socket.socket) -> None:
    """Run the cells, then answer questions until there are no more."""
    _seed(job.seed)
    namespace: dict[str, Any] = {"__name__": "__main__", "display": lambda *shown, **options: None}
    failure: dict[str, Any] | None = None
    try:
        exec(compile(job.imports, "<imports>", "exec"), namespace)
    except BaseException as error:  # whatever it is: the notebook's own cell did not run on this machine
        failure = _describe(error) | {"machine": True}
    for number, source in enumerate(job.cells):
        if failure and failure["machine"]:
            break
        try:
            exec(compile(source, f"<cell {number}>", "exec"), namespace)
        except BaseException as error:  # a learner's code may raise anything, SystemExit included
            failure = _describe(error)
    while (question := _receive(channel)) is not None:
        _send(channel, _answer(job.name, namespace, failure, decode(question)))


def _answer(name: str, namespace: dict[str, Any], failure: dict[str, Any] | None, question: dict[str, Any]) -> bytes:
    try:
        if failure and (failure["machine"] or name not in namespace):
            return encode(failure)
        if question["source"]:
            tools: dict[str, Any] = {"__name__": "__main__"}
            exec(compile(question["source"], "<ask>", "exec"), tools)
            ask = tools[question["ask"]]
        else:
            ask = getattr(checks, question["ask"])
        if name not in namespace:
            raise NameError(f"name {name!r} is not defined: keep the name that the exercise gives")
        return encode({"answer": ask(namespace[name], *question["given"])})
    except BaseException as error:  # as above
        return encode(_describe(error))


# ---------------------------------------------------------------------------------------------------------- confinement

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 1 << 17, 1 << 27, 1 << 28, 1 << 29, 1 << 30
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 1 << 12, 1 << 14, 1 << 18
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1
MS_RDONLY, MOUNT_ATTR_NODEV = 1, 4
PR_SET_SECCOMP, SECCOMP_MODE_FILTER, CLONE_THREAD = 22, 2, 1 << 16
SECCOMP_ALLOW, SECCOMP_EPERM, SECCOMP_ENOSYS = 0x7FFF0000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
REFUSED_CALLS = {
    "fork": (57, None),
    "vfork": (58, None),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "unshare": (272, 97),
    "setns": (308, 268),
    "shmget": (29, 194),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "io_uring_setup": (425, 425),
}
"""System calls that a learner's process may not make, and their numbers on x86_64 and aarch64."""
MACHINES = {"x86_64": (0xC000003E, 56, 435), "aarch64": (0xC00000B7, 220, 435)}
"""In the order of :data:`REFUSED_CALLS`: a machine's number for audits, and the numbers of clone and clone3."""


def _system(name: str, *arguments: Any) -> None:
    """Call the C library; raise what it says went wrong."""
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    if function(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    _system("mount", source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())


def _enter_namespaces() -> None:
    """New namespaces for what this process forks next."""
    flags = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET
    user, group = os.getuid(), os.getgid()
    if user == 0:
        _system("unshare", flags)
        return
    _system("prctl", PR_SET_DUMPABLE, 1, 0, 0, 0)  # else its own /proc/self is root's
    _system("unshare", flags | CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def _set_attributes(path: str, flags: int, added: int, removed: int = 0) -> None:
    attributes = struct.pack("=4Q", added, removed, 0, 0)
    _system("syscall", SYS_MOUNT_SETATTR, AT_FDCWD, path.encode(), flags, attributes, len(attributes))


def _mount_everything(home: str, private: list[str]) -> None:
    """Files: read-only, the teacher's hidden, a small home in memory, and only one's own processes in /proc."""
    _mount("none", "/", "", MS_REC | MS_PRIVATE)
    devices = [f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom") if Path("/dev", name).exists()]
    for path in devices:
        _mount(path, path, "", MS_BIND)
    _set_attributes("/", AT_RECURSIVE, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV)  # root could write to a disk's device
    for path in devices:
        _set_attributes(path, 0, 0, MOUNT_ATTR_NODEV)
    _mount("proc", "/proc", "proc", MS_RDONLY | MS_NOSUID | MS_NODEV)  # root's process could set the kernel's settings
    for path in private:
        if Path(path).is_dir():
            _mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, "size=4k,mode=755")
        elif Path(path).exists():
            _mount("/dev/null", path, "", MS_BIND)
    _mount("tmpfs", home, "tmpfs", MS_NOSUID | MS_NODEV, f"size={LARGEST_HOME},mode=1777")


def _readable_by_others() -> bool:
    """Whether another user could import what a notebook imports."""
    places = [Path(place).resolve() for place in (sys.prefix, sys.base_prefix, torch.__file__, __file__)]
    return all(parent.stat().st_mode & 1 for place in places for parent in (place.parent, *place.parent.parents))


def _give_up_rights(user: int) -> None:
    """Become another user where this is root's process; no capabilities in any case, and none to be had."""
    if sys.platform != "linux":
        return
    if os.getuid() == 0 and _readable_by_others():
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    header, none = struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", *[0] * 6)
    _system("capset", header, none)
    _system("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _system("prctl", PR_SET_DUMPABLE, 1, 0, 0, 0)  # its own files in /proc are its own again


def _forbid_calls() -> None:
    """Have the kernel refuse every new process from here on, and :data:`REFUSED_CALLS`; threads are allowed.

    A limit on processes would not do: it does not hold for root's, and 64 of them that try again and again leave the
    guard no time. Other namespaces would give back the right to mount, a socket with a path leads out of every one of
    them, and what is allocated by the other calls counts for no limit.

    Raises:
        OSError: the kernel has no system call filters, or the machine is not one of :data:`MACHINES`.
    """
    if sys.platform != "linux":
        return
    if os.uname().machine not in MACHINES:
        raise OSError(errno.ENOSYS, "the numbers of this machine's system calls are not known")
    column, (architecture, clone, clone3) = list(MACHINES).index(os.uname().machine), MACHINES[os.uname().machine]
    load, equal, at_least, any_bit, end = 0x20, 0x15, 0x35, 0x45, 0x06  # instructions of the Berkeley packet filter
    allow, refuse, unknown = (end, 0, 0, SECCOMP_ALLOW), (end, 0, 0, SECCOMP_EPERM), (end, 0, 0, SECCOMP_ENOSYS)
    # Each: instruction, instructions to skip if true and if false, operand. What is loaded: 4 = the architecture,
    # 0 = the call's number, 16 = its first argument, clone's flags. Calls for another architecture are refused, as is
    # x86's second set of numbers; clone3, whose flags lie in memory, is said not to exist: clone is taken instead.
    program = [(load, 0, 0, 4), (equal, 1, 0, architecture), refuse, (load, 0, 0, 0)]
    program += [(at_least, 0, 1, 1 << 30), refuse, (equal, 0, 1, clone3), unknown]
    for numbers in REFUSED_CALLS.values():
        program += [(equal, 0, 1, numbers[column]), refuse] if numbers[column] is not None else []
    program += [(equal, 1, 0, clone), allow, (load, 0, 0, 16), (any_bit, 0, 1, CLONE_THREAD), allow, refuse]
    instructions = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
    filters = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(instructions)))
    _system("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filters, 0, 0)


def _block_sockets() -> None:
    """Where there is no namespace: what Python itself asks of the network is refused (hooks cannot be removed)."""

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "socket.gethostbyname"):
            raise PermissionError("no network while grading")

    sys.addaudithook(refuse)


def _limit(memory: float, seconds: float) -> None:
    if sys.platform == "linux":
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + int(memory * 2**30),) * 2)
    others = 0 if os.getuid() == 0 else _threads_of(os.getuid())
    resource.setrlimit(resource.RLIMIT_NPROC, (others + MOST_THREADS,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_HOME,) * 2)
    most = 8 * int(seconds) + 5  # of all threads; where the guard, which looks at the clock, is not let run
    resource.setrlimit(resource.RLIMIT_CPU, (most, most + 5))  # SIGXCPU first: SIGKILL would be the machine's
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _threads_of(user: int) -> int:
    """Threads that a user has already: the limit counts them too, on some systems."""
    threads = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            if folder.stat().st_uid == user:
                threads += int((folder / "stat").read_text().rpartition(")")[2].split()[17])
    return threads


def _confine(job: Job, channel: socket.socket, printed: int, user: int) -> None:
    """Make this process the learner's: limits, a home, a pipe for what it prints, and nothing else open."""
    for number, target in ((os.open(os.devnull, os.O_RDONLY), 0), (printed, 1), (printed, 2)):
        os.dup2(number, target)
    kept = channel.fileno()
    os.closerange(3, kept)
    os.closerange(kept + 1, 65536)
    os.setsid()
    if job.namespaces:
        _mount_everything(job.home, job.private)
    else:
        _block_sockets()
    _give_up_rights(user)
    if sys.platform == "linux":
        _system("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.environ |= {"HOME": job.home, "TMPDIR": job.home, "LAMA_SEED": str(job.seed)}
    tempfile.tempdir = None
    os.chdir(job.home)
    os.nice(10)  # the guard comes first, however many threads the learner starts
    _limit(job.memory, job.seconds)
    with contextlib.nullcontext() if job.namespaces else contextlib.suppress(OSError):
        _forbid_calls()


# ------------------------------------------------------------------------------------------------------------ the guard


UNCONFINED = "its process could not be confined on this machine"


@dataclass
class Ending:
    """How a learner's process ended, and in what it ran."""

    reason: str = ""
    """Why it was ended early, in words; empty = by itself."""
    machine: bool = False
    """The machine's fault, not the learner's."""
    seconds: float = 0.0
    """How long it ran; time in which the whole machine stood still is not counted."""


def _guard(job: Job, channel: socket.socket, report: socket.socket) -> None:
    """Start a learner's process, watch it, end it, and report."""
    os.chmod(job.home, 0o1777)
    user = 30000 + os.getpid() % 30000
    if job.namespaces:
        try:
            _enter_namespaces()
        except OSError as error:
            _send(report, json.dumps(asdict(Ending(f"{UNCONFINED} ({error})", machine=True))).encode())
            return
    reading, writing = os.pipe()
    learner = os.fork()
    if learner == 0:
        code = 3
        try:
            _confine(job, channel, writing, user)
            code = 0
            _learn(job, channel)
        finally:
            os._exit(code)
    os.close(writing)
    channel.close()
    ending = Ending(*_watch(learner, reading, job))
    if not job.namespaces:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(learner, signal.SIGKILL)  # what it started, where no kernel forbade it
    _send(report, json.dumps(asdict(ending)).encode())


def _watch(learner: int, printed: int, job: Job) -> tuple[str, bool, float]:
    """Wait for the end or bring it about; say why, whether the machine is to blame, and how long it took."""
    last, spent, size, reason, pipes = time.monotonic(), 0.0, 0, "", [printed]
    while True:
        if select.select(pipes, [], [], 0.02)[0]:
            part = len(os.read(printed, 2**16))
            size, pipes = size + part, pipes if part else []  # closed: it would be ready all the time
        ended, status = os.waitpid(learner, os.WNOHANG)
        if ended:
            return *_judge_status(status), spent
        now = time.monotonic()
        spent, last = spent + min(now - last, 0.5), now  # a longer gap: the guard itself was not let run
        if size > LARGEST_OUTPUT:
            reason = f"it printed more than {LARGEST_OUTPUT // 2**20} MB"
        if spent > job.seconds:
            reason = f"it did not end within {job.seconds:g} seconds: an endless loop, or far too slow"
        if reason:
            os.kill(learner, signal.SIGKILL)
            os.waitpid(learner, 0)
            return reason, False, spent


def _judge_status(status: int) -> tuple[str, bool]:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == signal.SIGKILL:
            return "the machine killed the process (out of memory?)", True
        return f"its process crashed ({signal.Signals(number).name})", False
    code = os.WEXITSTATUS(status)
    return (UNCONFINED, True) if code == 3 else ("", False)


# ------------------------------------------------------------------------------------------------------------ the judge


@dataclass
class Verdict:
    """What one case came to."""

    name: str
    points: float
    earned: float
    words: str = ""
    """What is wrong, for the teacher; empty = nothing."""
    hint: str = ""
    """What is wrong, for the learner: nothing of a hidden test."""
    hidden: bool = False


class Cases:
    """The cases of an exercise, each known to be hidden or not: the check's (worth nothing), then the test's."""

    def __init__(self, name: str, check: str, test: str, extra: str, seed: int) -> None:
        """Execute the check, the test without its last line, which asks the learner, and the teacher's own file.

        Args:
            name: of the learner's function.
            check: source of the cell with the instant check, or nothing.
            test: source of the test cell, hidden tests included.
            extra: source that may add to ``cases`` or replace them; all that it brings is hidden.
            seed: of the inputs.
        """
        self.sources = {"<check>": check, "<test>": f"{test}\n{extra}"}
        self.hidden: set[int] = set()
        os.environ["LAMA_SEED"] = str(seed)
        _seed(seed)
        namespace: dict[str, Any] = {"__name__": "__main__"}
        seen: dict[int, checks.Case] = {}
        for statement, is_hidden in [*_statements(test), *((node, True) for node in ast.parse(extra).body)]:
            exec(compile(ast.Module([statement], []), "<test>", "exec"), namespace)
            for case in namespace.get("cases", []):
                if id(case) not in seen:
                    seen[id(case)] = case
                    self.hidden |= {id(case)} if is_hidden else set()
        worthless = [replace(case, points=0) for case in _checked(name, check)]
        self.list: list[checks.Case] = [*worthless, *namespace["cases"]]

    def question(self, case: checks.Case) -> bytes:
        """What is asked of the learner's process: data, and how to ask."""
        name = case.ask.__name__
        if case.ask.__module__ == checks.__name__:
            return encode({"ask": name, "source": "", "given": tuple(case.given)})
        cell = self.sources[case.ask.__code__.co_filename]  # both cells may have a function of this name
        functions = [node for node in ast.parse(cell).body if isinstance(node, ast.FunctionDef)]
        source = [ast.unparse(node) for node in functions if node.name == name][-1]
        return encode({"ask": name, "source": source, "given": tuple(case.given)})


def _checked(name: str, check: str) -> list[checks.Case]:
    """The cases that a cell gives to :func:`~lama_minimal.checks.check`."""
    found: list[checks.Case] = []
    ordinary, checks.check = checks.check, lambda learner, *cases: found.extend(cases)
    exec(compile(check, "<check>", "exec"), {"__name__": "__main__", name: None})
    checks.check = ordinary
    return found


def _statements(test: str) -> Iterator[tuple[ast.stmt, bool]]:
    """The statements of a test cell but the last, and whether each is between the marks of hidden tests."""
    hidden, marks = False, {}
    for number, line in enumerate(test.splitlines(), 1):
        hidden = line.strip().startswith("### BEGIN HIDDEN TESTS") or (hidden and "### END HIDDEN TESTS" not in line)
        marks[number] = hidden
    for statement in ast.parse(test).body[:-1]:
        yield statement, marks[statement.lineno]


def _judge(job: dict[str, Any], channel: socket.socket, report: socket.socket) -> None:
    """Make the cases, say so, ask them all, then compare; report the verdicts."""
    try:
        cases = Cases(job["name"], job["check"], job["test"], job["extra"], job["seed"])
        questions = [cases.question(case) for case in cases.list]
    except Exception as error:  # the teacher's own cell does not run here: never the learner's fault
        words = f"its tests do not run on this machine: {type(error).__name__}: {error}"
        _send(report, json.dumps({"machine": words}).encode())
        return
    _send(report, json.dumps({"ready": True}).encode())
    answers, largest = [], LARGEST_ANSWER
    for question in questions:
        answer, size = _ask(channel, question, largest)
        answers.append(answer)
        largest -= size
        if answer is None:
            break
    channel.close()
    verdicts, machine = [], ""
    for number, case in enumerate(cases.list):
        answer = answers[number] if number < len(answers) else None
        if isinstance(answer, dict) and answer.get("machine"):
            machine = f"{answer.get('error')}: {answer.get('words')}"
        verdicts.append(asdict(_verdict(case, answer, id(case) in cases.hidden)))
    stubs = ({"error": "NotImplementedError", "words": ""}.items() <= (answer or {}).items() for answer in answers)
    _send(report, json.dumps({"verdicts": verdicts, "machine": machine, "unwritten": any(stubs)}).encode())


def _ask(channel: socket.socket, question: bytes, largest: int) -> tuple[dict[str, Any] | None, int]:
    """The learner's answer or error, and its size; None after its end. Of hostile origin: a dictionary is all it is."""
    data = b""
    try:
        _send(channel, question)
        data = _receive(channel, largest)
        answer = None if data is None else decode(data)
        if not isinstance(answer, dict | None):
            raise BrokenAnswerError("the answer is not one")
    except ConnectionError:
        return None, 0
    except BrokenAnswerError as error:
        answer = {"error": "BrokenAnswerError", "words": str(error)}
    return answer, len(data or b"")


def _verdict(case: checks.Case, answer: dict[str, Any] | None, hidden: bool) -> Verdict:
    name, points = str(case.name), float(case.points)
    if answer is None:
        return Verdict(name, points, 0, "no answer: the process had ended", "no answer: the process had ended", hidden)
    if "answer" not in answer:
        error, words, where = (str(answer.get(key, ""))[:1000] for key in ("error", "words", "where"))
        full = error + f": {words}" * bool(words) + f" ({where})" * bool(where)
        known = error if hasattr(builtins, error) else "an error"  # anything else may quote a hidden test's inputs
        return Verdict(name, points, 0, full, known if hidden else full, hidden)
    try:
        fault = case.judge(answer["answer"])
    except Exception as error:  # a test that stumbles over a strange answer: the answer is wrong
        fault = f"the answer cannot be compared ({type(error).__name__})"
    hint = fault if not hidden or fault in case.mistakes else ""
    return Verdict(name, points, 0 if fault else points, fault, hint, hidden)


# ---------------------------------------------------------------------------------------------------------- the nursery


@dataclass
class Child:
    """A guard or a judge, seen from the grader."""

    process: int
    report: socket.socket

    def said(self, seconds: float) -> dict[str, Any] | None:
        """Its next report; None where it ended or took too long, and then it is ended."""
        self.report.settimeout(seconds)
        try:
            data = _receive(self.report)
        except TimeoutError:
            data = None
        if data is None and self.process:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process, signal.SIGKILL)
        return None if data is None else json.loads(data)


class Nursery:
    """A process that has imported what notebooks import, and forks a learner's guard or a judge on demand."""

    def __init__(self, modules: list[str]) -> None:
        """Start it; it knows the modules to import and nothing else."""
        ours, its = socket.socketpair()
        kept = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT")
        environment = {name: os.environ[name] for name in kept if name in os.environ} | {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "PYTHONHASHSEED": "0",
            "OMP_NUM_THREADS": "1",
            "MPLBACKEND": "Agg",
            "CUDA_VISIBLE_DEVICES": "",
        }
        run = "from lama_minimal.sandbox import nursery; nursery()"
        command = [sys.executable, "-c", run, str(its.fileno()), *modules]
        options: dict[str, Any] = {"pass_fds": [its.fileno()], "cwd": "/", "start_new_session": True}
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, **options)
        self.control = ours
        its.close()

    def fork(self, role: str, job: dict[str, Any], channel: socket.socket) -> Child:
        """Fork a child that talks over ``channel`` and reports over a socket of its own."""
        ours, its = socket.socketpair()
        data = json.dumps({"role": role, "job": job}).encode()
        socket.send_fds(self.control, [struct.pack("!Q", len(data))], [channel.fileno(), its.fileno()])
        self.control.sendall(data)
        its.close()
        channel.close()
        head = _receive_exactly(self.control, 8)
        return Child(struct.unpack("!Q", head)[0] if head else 0, ours)

    def close(self) -> None:
        """End it, and wait for its end."""
        self.control.close()
        self.process.wait()


def nursery() -> None:
    """What a nursery's process does until its grader is gone."""
    control = socket.socket(fileno=int(sys.argv[1]))
    for module in (*sys.argv[2:], "torch.fx.experimental.symbolic_shapes"):  # the last one is what autograd fetches
        with contextlib.suppress(Exception):  # the cell of imports will say what is missing
            __import__(module)
    if sys.platform == "linux":
        _system("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)  # its memory is nobody else's to read
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended children leave nothing behind
    run: dict[str, Callable[..., None]] = {"learner": _guard, "judge": _judge}
    while True:
        head, files, _, _ = socket.recv_fds(control, 8, 2)
        if len(head) < 8:
            return
        order = json.loads(_receive_exactly(control, struct.unpack("!Q", head)[0]) or b"{}")
        child = os.fork()
        if child == 0:
            try:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                control.close()
                channel, report = (socket.socket(fileno=number) for number in files)
                job = Job(**order["job"]) if order["role"] == "learner" else order["job"]
                run[order["role"]](job, channel, report)
            except BaseException:  # the grader hears of it by the silence
                traceback.print_exc()
            finally:
                os._exit(0)
        for number in files:
            os.close(number)
        control.sendall(struct.pack("!Q", child))


def has_namespaces(learners: Nursery) -> bool:
    """Whether a learner's process can be confined in namespaces here; found by trying."""
    ours, its = socket.socketpair()
    with tempfile.TemporaryDirectory(prefix="lama-minimal-") as home:
        child = learners.fork("learner", asdict(Job("", "", [], home, seconds=30)), its)
        ours.close()
        ending = child.said(60)
    return ending is not None and not ending["reason"]
