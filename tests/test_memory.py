"""What the C library does with freed memory, each asked in a process of its own; the system says what it has left."""

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an allocator of glibc's")

RESIDENT = """
import resource, torch
from lama_minimal.memory import freed_memory_kept, return_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20
"""

KEPT = """
def touched(MiB):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(MiB, 2**18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

touched(40)
before = resident()
with freed_memory_kept():
    touched(40)
    again, kept = touched(20), resident()
print(again, kept - before, resident() - before)
"""

RETURNED = """
before = resident()
blocks = [torch.ones(2**14) for _ in range(2000)]  # 64 KiB each, small enough to lie side by side
full = resident()
del blocks[::2]
holes = resident()
return_freed_memory()
print(full - before, holes - full, resident() - full, all(block.sum() == 2**14 for block in blocks))
"""


def run(program):
    command = [sys.executable, "-c", RESIDENT + program]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_freed_memory_is_kept_while_training_and_not_longer():
    """A tensor in the place of a larger one needs no new pages, and in the end the system has them back."""
    new_pages, kept, left = map(float, run(KEPT))
    assert new_pages < 100 and kept > 35 and left < 5


def test_what_lies_unused_between_tensors_goes_back():
    """125 MiB of small tensors, every second one freed: nothing goes back by itself, but half of it when asked."""
    *sizes, unharmed = run(RETURNED)
    full, freed, returned = map(float, sizes)
    assert full > 120 and freed > -10 and returned < -50 and unharmed == "True"
