"""The training loop: `python -m sherry_torch.train CONFIG.toml --run RUN [key=value ...]`, alone or under `torchrun`.

The run folder comes from `sherry train CONFIG.toml --run RUN --prepare`: tokens and initial weights.
"""

import argparse
import math
import os
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Optional

import torch

from . import checkpoint, metrics, optim
from .checkpoint import CheckpointError, RunFolder, State
from .config import F32, Config, ConfigError
from .data import DataError, Dataset, Order
from .events import Events
from .losses import Mix, Side
from .methods import Quantizer
from .model import Arch, Decoder, ModelError
from .parallel import World, share
from .schedule import rate, strength

INTERRUPTED = 130
DTYPES = {"f32": None, "bf16": torch.bfloat16}


class TrainingError(Exception):
    """A run that cannot go on."""


class Stop:
    """The first SIGINT or SIGTERM lets the current step finish and saves; a later SIGINT stops at once."""

    def __init__(self) -> None:
        self.asked = False
        self._since = math.inf
        signal.signal(signal.SIGINT, self._handle)
        signal.signal(signal.SIGTERM, self._handle)

    def _handle(self, number: int, _frame: Any) -> None:
        # A terminal and torchrun may both pass on the same Ctrl-C.
        if number == signal.SIGINT and time.monotonic() > self._since + 1.0:
            os._exit(INTERRUPTED)
        if not self.asked:
            self.asked, self._since = True, time.monotonic()


class Trainer:
    """A run in progress, on one of its processes."""

    def __init__(self, config: Config, run: Path, world: World, precision: str = "f32"):
        self.config, self.world = config, world
        self.first = world.rank == 0
        batch = config.batch
        if batch.size * batch.accumulate % world.size:
            raise ConfigError(
                f"field 'batch.size': {world.size} processes do not share {batch.size} x {batch.accumulate} sequences evenly"
            )
        # The first process looks, sweeps and verifies; what it finds goes for all.
        problem = self.folder = path = None
        if self.first:
            try:
                self.folder = RunFolder(run)
                path = checkpoint.newest(run, self.note)
                Dataset.open(run, config.data.cache, "train", batch.length, verify=True)
            except (CheckpointError, DataError) as error:
                problem = str(error)
        if problem := world.agree(problem):
            raise CheckpointError(problem)
        path = Path(world.agree(str(path)))
        self.state = State.read(path)
        if found := config.difference(self.state.config):
            field, was, now = found
            raise CheckpointError(f"{path}: field '{field}' was {was}, is now {now}: another run")
        self.state.config = config.to_json()
        self.train = Dataset.open(run, config.data.cache, "train", batch.length, verify=False)
        self.valid = Dataset.open(run, config.data.cache, "valid", batch.length, verify=False)
        if self.train.hash != self.state.data:
            raise CheckpointError(f"{path}: field 'data.train (contents)' was {self.state.data}, is now {self.train.hash}")
        self.files = checkpoint.companions(path)
        arch, dtype = Arch.of_folder(path), DTYPES[precision]
        self.model = Decoder.empty(arch, Quantizer.of(config.quantizer), batch.length, dtype, batch.recompute)
        world.shard(self.model)
        self.model.materialize(world.device)
        self.optimizer = optim.adamw(self.model, config.optimizer)
        checkpoint.load(path, self.model, self.optimizer, self.state.step)
        self.callable = world.wrap(self.model)
        self.saved: Path = path
        self.run_path = run
        self.teacher = self._teacher(dtype)
        if batch.document_mask:
            if self.train.separator is None:
                again = f"sherry train CONFIG --run {run} --prepare"
                raise CheckpointError(f"{run}: tokens of an earlier version; make them again: {again}")
            for model in filter(None, (self.model, self.teacher)):
                model.separator = self.train.separator
        self.note(
            f"step {self.state.step} of {path}: {len(self.train.tokens)} training tokens, {arch.layers} layers of {arch.hidden}, "
            f"{world.size} x {world.device.type}, {world.mode}, {precision}"
        )

    def _teacher(self, dtype: Optional[torch.dtype]) -> Optional[Decoder]:
        """The full-precision model to learn from, whole on every process."""
        loss = self.config.loss
        if loss.distillation == 0:
            return None
        folder = Path(loss.teacher)
        if not folder.is_dir():
            raise ConfigError(f"field 'loss.teacher': {folder} is no Hugging Face folder; make one with: sherry convert")
        arch = Arch.of_folder(folder)
        if arch.vocab != self.model.arch.vocab:
            raise ConfigError(f"field 'loss.teacher': has {arch.vocab} tokens, the student {self.model.arch.vocab}")
        teacher = Decoder.empty(arch, length=self.config.batch.length, dtype=dtype).requires_grad_(False)
        teacher.to(dtype or torch.float32).materialize(self.world.device)
        checkpoint.read_weights(folder, teacher)
        return teacher

    def note(self, line: str) -> None:
        if self.first:
            print(line, file=sys.stderr, flush=True)

    def run(self, stop: Stop) -> bool:
        """Trains to the end (true) or until asked to stop (false)."""
        config, state, world, every = self.config, self.state, self.world, self.config.metrics
        batch, mix = config.batch, Mix.of(config.loss)
        log = metrics.MetricsFile(self.run_path / "metrics.jsonl", state.step) if self.first else None
        events = Events(self.run_path, state.step) if self.first and every.tensorboard else None
        order = Order(config.seed, self.train.windows, state.cursor)
        since, tokens_since, stopped = time.monotonic(), 0, False
        parameters = list(self.model.parameters())
        while state.step < config.steps and not stopped:
            lr, lam = rate(config.optimizer, state.step, config.steps), strength(config, state.step)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            probing = every.probe_every > 0 and (state.step + 1) % every.probe_every == 0
            before = metrics.codes(self.model, self.first)[0] if probing else []
            windows = order.take(batch.size * batch.accumulate)
            live = sum(map(self.train.live, windows))
            probe = metrics.RankProbe(self.model)
            sums = self._passes(windows, live, lam, mix, probe if probing and self.first else None)
            # One exchange: loss, divergence, and whether any process was asked to stop.
            ce, kd, asked = world.sum(torch.cat([sums, torch.tensor([float(stop.asked)]).to(sums)]))
            grad_norms = metrics.gradient_norms(self.model) if probing else {}
            norm = optim.clip(parameters, float(config.optimizer.clip)).item()
            for what, value in (("loss", ce + kd), ("gradient norm", norm)):
                if not math.isfinite(value):
                    raise TrainingError(f"{what} of step {state.step + 1} is {value}; the last good checkpoint is {self.saved}")
            self.optimizer.step()
            stopped = asked > 0
            state.step, state.cursor, state.tokens, state.lam = state.step + 1, order.cursor, state.tokens + live, lam
            tokens_since += live
            last = state.step == config.steps

            line: dict[str, Any] = {"step": state.step}
            if state.step % every.every == 0 or last or probing:
                speed = tokens_since / max(time.monotonic() - since, 1e-9)
                line |= {
                    "loss": ce / live, "divergence": kd / live if self.teacher else None, "lr": lr, "lambda": lam,
                    "grad_norm": norm, "tokens_per_second": speed, "tokens": state.tokens,
                }  # fmt: skip
                since, tokens_since = time.monotonic(), 0
            validating = self.valid is not None and (last or every.valid_every > 0 and state.step % every.valid_every == 0)
            if validating:
                began = time.monotonic()
                line["valid_loss"] = self.validate(0.0)
                line["valid_loss_with_lambda"] = self.validate(lam) if lam > 0 else None
                state.validated = state.step
                since += time.monotonic() - began  # speed is that of steps
            if probing:
                after, valley, histogram = metrics.codes(self.model, self.first)
                flips = sum(int((a != b).sum()) for a, b in zip(before, after, strict=True))
                line |= {"effective_rank": probe.means(), "valley_share": valley, "histogram": histogram}
                line["flip_rate"] = flips / sum(a.numel() for a in after) if after else None
                line["grad_norms"] = grad_norms
            self.optimizer.zero_grad(set_to_none=True)
            if len(line) > 1 and log:
                log.write(line)
                if events:
                    events.write(line)
                self.note(metrics.describe(line, config.steps, batch.length * batch.size * batch.accumulate))
            better = validating and math.isfinite(line["valid_loss"])
            better = better and (state.best is None or line["valid_loss"] < state.best[0])
            if better:
                state.best = (line["valid_loss"], state.step)
            if last or stopped or better or state.step % config.checkpoint.every == 0:
                self.save()
        if state.step >= config.steps and state.lam != 0.0:
            self.note("warning: lambda is not zero at the end; the quantized weights were never trained alone")
        return state.step >= config.steps

    def _passes(
        self, windows: list[int], live: int, lam: float, mix: Mix, probe: Optional[metrics.RankProbe]
    ) -> torch.Tensor:
        """Forward and backward of this process's windows; the sums of cross entropy and divergence over them."""
        sums = torch.zeros(2, dtype=torch.float64, device=self.world.device)
        passes = list(share(windows, self.config.batch.size, self.world))
        for number, part in enumerate(passes):
            tokens, targets = self.train.batch(part, self.world.device)
            with torch.no_grad():
                teacher: Optional[Side] = self.teacher.side(tokens, 0.0) if self.teacher else None
            # With ddp gradients travel once per step; with fsdp after every pass, since they are kept divided.
            wait = self.world.mode == "ddp" and number + 1 < len(passes)
            with self.callable.no_sync() if wait else nullcontext(), probe if probe and number == 0 else nullcontext():
                loss, part_sums = self.callable(tokens, targets, F32(lam), mix, teacher)
                # Both modes average over processes, but a token weighs the same wherever it is.
                (loss * (self.world.size / max(live, 1))).backward()
            sums += part_sums
        return sums

    @torch.no_grad()
    def validate(self, lam: float) -> float:
        """Mean cross entropy over the validation windows at strength `lam`."""
        limit = min(self.config.metrics.valid_sequences or self.valid.windows, self.valid.windows)
        world, size = self.world, max(self.config.batch.size // self.world.size, 1)
        sums = torch.zeros(2, dtype=torch.float64, device=world.device)
        for start in range(0, limit, size * world.size):
            mine = range(start + world.rank * size, start + (world.rank + 1) * size)
            windows = [window if window < limit else None for window in mine]
            _, part = self.model(*self.valid.batch(windows, world.device), F32(lam))
            sums[0] += part[0]
            sums[1] += sum(self.valid.live(window) for window in windows if window is not None)
        world.settle(self.model)
        ce, count = world.sum(sums)
        return ce / count

    def save(self) -> None:
        """Writes a checkpoint and removes old ones."""
        checkpoint.save(self.folder, self.model, self.optimizer, self.state, self.files, self.world)
        self.saved = self.run_path / f"{checkpoint.PREFIX}{self.state.step:08}"
        if self.folder:
            self.folder.prune(self.config.checkpoint.keep, self.state.best and self.state.best[1])


def main(arguments: Optional[list[str]] = None) -> int:
    parser = argparse.ArgumentParser(prog="sherry_torch.train", description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, help="configuration (TOML)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="fields that replace those of the file")
    parser.add_argument(
        "--folder", "--run", type=Path, help="made by sherry train --run FOLDER --prepare [runs/NAME of the configuration]"
    )
    parser.add_argument("--parallel", choices=["auto", "none", "ddp", "fsdp"], default="auto", help="auto: ddp under torchrun")
    parser.add_argument("--precision", choices=list(DTYPES), default="f32", help="of matrix products; masters are always f32")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    args = parser.parse_intermixed_args(arguments)
    stop = Stop()
    world = None
    try:
        config = Config.load(args.config, args.overrides)
        world = World.start(args.parallel, args.device)
        torch.set_float32_matmul_precision(config.matmul_precision)
        if world.device.type == "cpu" and config.threads:
            torch.set_num_threads(config.threads)
        trainer = Trainer(config, args.folder or Path("runs") / args.config.stem, world, args.precision)
        finished = trainer.run(stop)
        if trainer.first:
            print(trainer.saved)
    except (ConfigError, CheckpointError, DataError, ModelError, TrainingError, ValueError) as error:
        if world is None or world.rank == 0:
            print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        if world:
            world.stop()
    # torchrun would call a process that ends with another code a failure, and might start it again.
    return 0 if finished or "RANK" in os.environ else INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
