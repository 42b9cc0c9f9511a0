"""Training, from top to bottom: one loop that yields the record of each step, so that a notebook can plot midway.

    for record in train(settings, "runs/mine"):
        print(record.step, record.terms["l1"])

Under ``torchrun`` every process runs the same loop on its own data; the first one writes. When torchrun starts its
processes again after a failure (``--max-restarts``), they go on from the ``last`` checkpoint by themselves.
"""

import csv
import json
import math
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from lama_minimal.checkpoint import TrainingState, check_same_parts, find, pick_device
from lama_minimal.config import OptimizerSettings, Settings, UserError, check, read_settings
from lama_minimal.data import Batch, EvaluationSample, batches_of, collate, training_loader, validation_set
from lama_minimal.memory import freed_memory_kept
from lama_minimal.metrics import gradient_energy, hole_error
from lama_minimal.models import Generator, composite, generator_input
from lama_minimal.steps import average_over_processes, discriminator_step, generator_step
from lama_minimal.viz import overlay_mask, save_sheet

WARM_UP = 50
"""Steps over which a cosine schedule starts, so that Adam has seen a few gradients before it strides."""


@dataclass(frozen=True)
class Record:
    """What happened in one step."""

    step: int
    """Updates made so far, this one included."""
    terms: dict[str, float]
    """Weighted loss terms and the norms of the gradients before clipping."""
    learning_rate: float
    """Of the generator."""
    images_per_second: float
    """Training images of all processes, in this step."""
    evaluation: dict[str, float] = field(default_factory=dict)
    """Now and then: mean error in the holes of the fixed held-out images, and gradient energy (1 = as in originals)."""


def train(
    settings: Settings, out: str | Path | None = None, *, resume: bool = False, device: str | None = None
) -> Iterator[Record]:
    """Train a generator (and its discriminator) and yield a record after each step.

    Leaving the loop early, or Ctrl+C, finishes the step at hand and writes the ``last`` checkpoint.

    Args:
        settings: the run; see :mod:`lama_minimal.config`.
        out: folder for settings, log, sample pictures and checkpoints; ``None`` writes nothing.
        resume: go on from ``out/last`` if it is there; implied where torchrun has restarted a process of this run.
        device: where to compute; ``None`` = a GPU if there is one.

    Raises:
        UserError: ``out`` already holds a run and ``resume`` is not given, a checkpoint is damaged or cannot be
            written, or a loss is no longer a number.
    """
    check(settings)
    rank, world, place = join_processes(device)
    run = settings.run
    resume = resume or any_process(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0", place)
    folder = None if out is None else RunFolder(Path(out), settings, resume, writes=rank == 0)
    state = TrainingState.create(settings, place)
    if folder is not None:
        folder.restore(state)
    if rank == 0 and state.step < (alone := state.warm_up):
        warnings.warn(f"{run.start} has no discriminator: a fresh one learns alone for {alone} steps", stacklevel=2)
    generator = torch.compile(state.generator) if run.compile else state.generator
    batches = batches_of(training_loader(
        settings.data, run.batch_size, run.seed, state.position, rank, world, place.type == "cuda"
    ))  # fmt: skip
    held_out = validation_set(settings.data)
    options = dict(clip=settings.optimizer.clip, precision=run.precision)

    with finish_step_when_interrupted(place) as interrupted, freed_memory_kept(), folder or nullcontext():
        while state.step < run.steps and not interrupted():
            began = time.perf_counter()
            learning_rate = set_learning_rates(state, settings.optimizer)
            micro = [batch.to(place, run.channels_last) for batch in islice(batches, run.accumulate)]
            terms, predictions = generator_step(
                generator, state.discriminator, state.perceptual, state.generator_optimizer, micro, settings.loss,
                scaler=state.scaler, **options,
            )  # fmt: skip
            if state.discriminator is not None:
                terms |= discriminator_step(
                    generator, state.discriminator, state.discriminator_optimizer, micro, settings.loss,
                    predictions=predictions if run.reuse_prediction else None, **options,
                )  # fmt: skip
            average_statistics(state)
            if state.average is not None:
                state.average.update_parameters(state.generator)
            state.step += 1
            state.position += world * run.accumulate * run.batch_size

            values = read_terms(terms, state, folder)
            speed = world * run.accumulate * run.batch_size / (time.perf_counter() - began)
            due = rank == 0 and (state.step % run.evaluate_every == 0 or state.step == run.steps)
            evaluation = evaluate_now(state.best_generator, held_out, place) if due else {}
            record = Record(state.step, values, learning_rate, speed, evaluation)
            if folder is not None:
                folder.write(record, state, held_out)
            try:
                yield record
            except GeneratorExit:  # the caller has seen enough
                break
        if folder is not None:
            folder.save_last(state)


def average_statistics(state: TrainingState) -> None:
    """Make BatchNorm's running statistics the mean of those of all processes; each normalises by its own batch."""
    networks = [network for network in (state.generator, state.discriminator) if network is not None]
    average_over_processes(b for network in networks for b in network.buffers() if b.is_floating_point())


def join_processes(device: str | None) -> tuple[int, int, torch.device]:
    """Rank, number of processes and device of this process; joins the group that ``torchrun`` has prepared, if any.

    Raises:
        UserError: torchrun is asked to restart processes, but set up so that they would not find one another.
    """
    place = pick_device(device)
    if "WORLD_SIZE" not in os.environ:
        return 0, 1, place
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if shared and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
        raise UserError(
            "torchrun --max-restarts needs --standalone or --rdzv-backend c10d, and in its environment "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1: else restarted processes find the addresses of their predecessors "
            "(issue 135712 of PyTorch)"
        )
    cuda = place.type == "cuda"
    if cuda:  # each process of a machine has a GPU of its own
        place = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(place)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo")
    return dist.get_rank(), dist.get_world_size(), place


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether ``flag`` is set in any process; every process has to ask."""
    value = torch.tensor(float(flag), device=device)
    if dist.is_initialized():
        dist.all_reduce(value, dist.ReduceOp.MAX)
    return bool(value)


def leave_processes() -> None:
    """Leave the group that :func:`join_processes` joined, at the end of a program."""
    if dist.is_initialized():
        dist.barrier()  # the first process may be writing still, and would lose the others
        dist.destroy_process_group()


@contextmanager
def finish_step_when_interrupted(device: torch.device) -> Iterator[Callable[[], bool]]:
    """Ctrl+C and a polite kill ask for an end after the step at hand; a second Ctrl+C ends at once.

    Yields a function that says whether an end was asked for, of any process. Outside the main thread signals stay as
    they are.
    """
    asked: list[int] = []

    def ask(number: int, frame: object) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, ask)
    except ValueError:  # not the main thread
        pass

    try:
        yield lambda: any_process(bool(asked), device)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def set_learning_rates(state: TrainingState, optimizer: OptimizerSettings) -> float:
    """Set both networks' learning rates for this step; return the generator's.

    While a fresh discriminator is warmed up, the generator's is 0: its weights stay, and Adam comes to know its
    gradients.
    """
    factor = 1.0
    if optimizer.schedule == "cosine":
        progress = state.step / state.settings.run.steps
        factor = (0.02 + 0.98 * (1 + math.cos(math.pi * progress)) / 2) * min(1, (state.step + 1) / WARM_UP)
    generator_lr = optimizer.generator_lr * factor if state.step >= state.warm_up else 0.0
    pairs = [(state.generator_optimizer, generator_lr)]
    if state.discriminator_optimizer is not None:
        pairs.append((state.discriminator_optimizer, optimizer.discriminator_lr * factor))
    for adam, rate in pairs:
        for group in adam.param_groups:
            group["lr"] = rate
    return generator_lr


def read_terms(terms: dict[str, torch.Tensor], state: TrainingState, folder: "RunFolder | None") -> dict[str, float]:
    """Bring a step's terms to the CPU in one transfer.

    Raises:
        UserError: one is not a finite number. (A gradient that overflows in float16 is no error: the scaler skips
            that step and lowers its scale.)
    """
    values = dict(zip(terms, torch.stack([term.float() for term in terms.values()]).tolist(), strict=True))
    for name, value in values.items():
        if not math.isfinite(value) and not (name == "grad_norm_generator" and state.scaler is not None):
            kept = folder.checkpoints() if folder is not None else "none, since nothing is written"
            raise UserError(f"step {state.step}: {name} is {value}; last good checkpoint: {kept}")
    return values


@torch.no_grad()
def evaluate_now(generator: Generator, samples: list[EvaluationSample], device: torch.device) -> dict[str, float]:
    """Mean error in the holes and gradient energy (generated over original), in evaluation mode."""
    errors, energies = [], []
    for batch, filled in _fill(generator, samples, device):
        errors.append(hole_error(filled, batch.image, batch.mask))
        energies.append(torch.stack([gradient_energy(x, batch.mask).sum() for x in (filled, batch.image)]))
    generated, original = torch.stack(energies).sum(0).tolist()
    return {"hole_error": torch.cat(errors).mean().item(), "gradient_energy": generated / max(original, 1e-9)}


@torch.no_grad()
def _fill(
    generator: Generator, samples: list[EvaluationSample], device: torch.device
) -> Iterator[tuple[Batch, torch.Tensor]]:
    """Batches of held-out samples and their composites, in evaluation mode."""
    generator.eval()
    try:
        for start in range(0, len(samples), 8):
            batch = collate([(s.image, s.mask) for s in samples[start : start + 8]]).to(device)
            prediction = generator(generator_input(*batch))
            yield batch, composite(prediction, *batch)
    finally:
        generator.train()


class RunFolder:
    """The folder of a run: ``settings.json``, ``log.csv``, ``samples/``, and the checkpoints ``last`` and ``best``."""

    def __init__(self, path: Path, settings: Settings, resume: bool, writes: bool) -> None:
        """Name a folder and check that nothing in it would be lost.

        Args:
            path: the folder.
            settings: of the run.
            resume: whether the folder may hold a run already.
            writes: whether this process writes (of several, the first one does).

        Raises:
            UserError: it holds a run and ``resume`` is false, or a run with another generator.
        """
        self.path, self.settings, self.writes = path, settings, writes
        self.saved_step = 0
        self.tensorboard: Any = None
        if (path / "settings.json").exists():
            if not resume:
                raise UserError(f"{path} already holds a run: add --resume to go on with it, or choose another --out")
            check_same_parts(read_settings(path / "settings.json"), settings)
        with self._writing():
            (path / "samples").mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> "RunFolder":
        """Write to the folder for a while."""
        return self

    def __exit__(self, *error: object) -> None:
        """Bring what is still in memory to the disk."""
        if self.tensorboard is not None:
            self.tensorboard.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn what the disk refuses into one line."""
        try:
            yield
        except OSError as error:
            kept = self.checkpoints()
            raise UserError(f"cannot write to {self.path} ({error.strerror}); checkpoints there: {kept}") from error

    def restore(self, state: TrainingState) -> None:
        """Take over the ``last`` checkpoint if there is one, and make the folder ready for what follows it."""
        if find(self.path / "last").exists():
            state.load(self.path / "last")
        self.saved_step = state.step
        self._check_all_have_read(state.step, next(state.generator.parameters()).device)
        if not self.writes:
            return
        with self._writing():
            _replace(self.path / "settings.json", json.dumps(asdict(self.settings), indent=2) + "\n")
            self._forget_rows_after(state.step)
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.tensorboard = SummaryWriter(self.path / "tensorboard", purge_step=state.step + 1)
        except ImportError:
            pass

    def _check_all_have_read(self, step: int, device: torch.device) -> None:
        """Wait until every process has read the checkpoint, since the first one then writes.

        Raises:
            UserError: not all have read the same.
        """
        if any_process(step == 0, device) and any_process(step > 0, device):
            raise UserError(f"not every process sees {self.path / 'last'}: put --out where all machines share it")

    def write(self, record: Record, state: TrainingState, held_out: list[EvaluationSample]) -> None:
        """Log a step, and write checkpoints and sample pictures when they are due."""
        if not self.writes:
            return
        run = self.settings.run
        last = state.step == run.steps
        with self._writing():
            self._log(record)
            if state.step % run.sample_every == 0 or last:
                self._save_samples(state, held_out)
        if record.evaluation and record.evaluation["hole_error"] < state.best_error:
            state.best_error = record.evaluation["hole_error"]
            state.save(self.path / "best")
        if state.step % run.save_every == 0 or last:
            self.save_last(state)

    def save_last(self, state: TrainingState) -> None:
        """Write the ``last`` checkpoint unless it is there already."""
        if self.writes and self.saved_step != state.step:
            state.save(self.path / "last")
            self.saved_step = state.step

    def checkpoints(self) -> str:
        """What can be gone back to, for messages."""
        kept = [str(self.path / name) for name in ("last", "best") if (self.path / name).exists()]
        return " and ".join(kept) or "none yet"

    def _forget_rows_after(self, step: int) -> None:
        """Drop log rows of work that was lost and is done again; a row cut off by a kill goes too."""
        log = self.path / "log.csv"
        if not log.exists():
            return
        header, *rows = log.read_text().splitlines() or [""]
        whole = [row for row in rows if row.count(",") == header.count(",")]
        kept = [row for row in whole if row.split(",")[0].isdigit() and int(row.split(",")[0]) <= step]
        _replace(log, "".join(f"{row}\n" for row in [header, *kept] if header))

    def _log(self, record: Record) -> None:
        """Add a row to ``log.csv``, and to TensorBoard where it is installed."""
        values: dict[str, Any] = {"learning_rate": record.learning_rate, "images_per_second": record.images_per_second}
        values |= record.terms | {"hole_error": "", "gradient_energy": ""} | record.evaluation
        path, row = self.path / "log.csv", {"step": record.step} | values
        with path.open("a+", newline="") as file:
            file.seek(0)
            columns = file.readline().strip().split(",")
            writer = csv.DictWriter(
                file, columns if columns != [""] else row, extrasaction="ignore", lineterminator="\n"
            )
            if columns == [""]:
                writer.writeheader()
            writer.writerow(row)
        if self.tensorboard is not None:
            for name, value in values.items():
                if value != "":
                    self.tensorboard.add_scalar(name, value, record.step)

    def _save_samples(self, state: TrainingState, samples: list[EvaluationSample]) -> None:
        """Write a sheet of held-out pictures: with their hole, filled, original."""
        device = next(state.generator.parameters()).device
        shown = samples[:8]
        side = max(128, self.settings.data.size)
        pictures: list[np.ndarray] = []
        for _, filled in _fill(state.best_generator, shown, device):
            for sample, picture in zip(shown, filled, strict=True):
                array = (picture.permute(1, 2, 0).clamp(0, 1) * 255).round().byte().cpu().numpy()
                pictures += [overlay_mask(sample.image, sample.mask), array, sample.image]
        save_sheet(
            self.path / "samples" / f"{state.step:07d}.jpg", pictures, 6, ["hole", "filled", "original"] * 2, side
        )


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text)
    os.replace(new, path)
