"""One resumable training run of a team of processes: optimizer, moving average, clock, checkpoint every two minutes."""

import math
import random
import signal
import sys
import time

import torch

from .team import Team

SAVE_EVERY = 120  # seconds
MEET_EVERY = 5  # steps between two meetings of the team
WARM_UP = 100  # steps at the start of a run; a fifth of it after a stop


def log(*words):
    """A line with the time of day."""
    sys.stdout.write(" ".join(map(str, (time.strftime("%H:%M:%S"), *words))) + "\n")
    sys.stdout.flush()


class Run:
    """Trains `parameters` until `minutes` have gone in this call.

    The learning rate stays at its peak, which the moving average makes up for, and falls to zero over the last
    `settle` of the call; a run that will go on later is given `settle=0`. The state file holds parameters, average,
    optimizer of the first process, step and counts.

    Args:
        groups: optimizer groups with "params" and "lr".
        decay: of the moving average, for one step.
        batch: pictures that a process sees in a step, for the counts.
    """

    def __init__(self, path, groups, minutes, decay=0.998, settle=0.0, batch=0):
        self.path, self.team, self.minutes, self.decay, self.settle = path, Team(), minutes, decay, settle
        self.parameters = [p for group in groups for p in group["params"]]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.values = [p.detach().clone() for p in self.parameters]
        self.batch, self.step, self.seen, self.seconds, self.loss = batch, 0, 0, 0.0, None
        if path.is_file():
            self.restore()
        self.first = self.step
        seed = 7919 * self.step + self.team.rank
        random.seed(seed)
        torch.manual_seed(seed)

    def restore(self):
        state = torch.load(self.path, weights_only=True)
        with torch.no_grad():
            for own, kept in ((self.parameters, state["parameters"]), (self.values, state["average"])):
                for target, value in zip(own, kept, strict=True):
                    target.copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak
        self.step, self.seen, self.seconds = state["step"], state["seen"], state["seconds"]

    def save(self):
        state = {
            "parameters": [p.detach() for p in self.parameters],
            "average": self.values,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seen": self.seen,
            "seconds": self.seconds,
        }
        part = self.path.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.path)

    def rate(self, gone):
        """Learning rate as a share of its peak."""
        warm = (self.step - self.first + 1) / (WARM_UP if self.first == 0 else WARM_UP / 5)
        left = (1 - gone) / self.settle if self.settle else 1.0
        return min(1.0, warm) * (1 - math.cos(math.pi * min(1.0, left))) / 2

    @torch.no_grad()
    def meet(self, steps):
        self.team.average(self.parameters)
        keep = min(self.decay, (self.step + 1) / (self.step + 10)) ** steps
        torch._foreach_mul_(self.values, keep)
        torch._foreach_add_(self.values, [p.detach() for p in self.parameters], alpha=1 - keep)

    def train(self, loss_of, on_save=None, log_every=50):
        """`loss_of()` is the loss of one step; `on_save()` is called in the first process after each checkpoint."""
        stop = []
        signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
        begin = saved = time.time()
        before, gone = self.seconds, 0.0
        while gone < 1:
            for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
                group["lr"] = peak * self.rate(gone)
            loss = loss_of()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.step += 1
            self.seen += self.batch * self.team.size
            value = float(loss.detach())
            self.loss = value if self.loss is None else 0.98 * self.loss + 0.02 * value
            if self.step % MEET_EVERY == 0:
                self.meet(MEET_EVERY)
                gone = self.team.most(1.0 if stop else (time.time() - begin) / 60 / self.minutes)
            if self.team.rank:
                continue
            now = time.time()
            self.seconds = before + now - begin
            if self.step % log_every == 0:
                log(f"{self.path.stem} step {self.step} seen {self.seen} {self.seconds:.0f} s loss {self.loss:.4f}")
            if now - saved > SAVE_EVERY or gone >= 1:
                self.save()
                saved = now
                if on_save:
                    on_save()
        return self.team.rank == 0


def average_of(path):
    """The averaged parameters of a state file, and the counts of what made them."""
    state = torch.load(path, weights_only=True)
    return state["average"], {k: state[k] for k in ("step", "seen", "seconds")}
