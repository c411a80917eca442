"""What all training stages share: moving averages, the learning-rate curve, state files that survive a stop."""

import math
import os
import random
import signal
import time

import numpy as np
import torch
from logs import log


def seed_everything(seed):
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


SAVE_EVERY = 180  # seconds between state files
FAST_FACTOR = 4  # learning rate of the parameters named `fast`, relative to the others


class Average:
    """Exponential moving average of parameters, with a quick start."""

    def __init__(self, parameters, decay):
        self.parameters, self.decay = list(parameters), decay
        self.values = [p.detach().clone().float() for p in self.parameters]

    @torch.no_grad()
    def update(self, step):
        d = min(self.decay, (step + 1) / (step + 10))
        torch._foreach_mul_(self.values, d)
        torch._foreach_add_(self.values, [p.detach().float() for p in self.parameters], alpha=1 - d)


class ThreadChoice:
    """Uses one CPU thread or all of them, whichever trains faster just now: beside other load one is often faster."""

    PROBE, HOLD = 3, 300  # steps of one measurement, steps until the next

    def __init__(self, device):
        self.most, self.count, self.times = torch.get_num_threads(), 0, {}
        self.active = device.type == "cpu" and self.most > 1
        if self.active:
            torch.set_num_threads(1)

    def after_step(self, seconds):
        if not self.active:
            return
        threads = torch.get_num_threads()
        self.times.setdefault(threads, []).append(seconds)
        self.count += 1
        if self.count == self.PROBE:
            torch.set_num_threads(self.most if threads == 1 else 1)
        elif self.count == 2 * self.PROBE:
            mean = {n: sorted(t[-self.PROBE :])[self.PROBE // 2] for n, t in self.times.items()}
            torch.set_num_threads(min(mean, key=mean.get))
        elif self.count >= self.HOLD:
            self.count, self.times = 0, {}


class Run:
    """One resumable training run: optimizer, average, step count, clock, random state.

    `loss_of(step)` returns the loss of one step. The run ends after `steps` steps or `minutes` of training time,
    whichever comes first; the learning rate follows a cosine over that progress. The state file is written every
    SAVE_EVERY seconds, at the end, and when the process is asked to terminate; a finished run returns at once.
    """

    def __init__(self, name, parameters, work, steps, lr, minutes=None, decay=0.999, betas=(0.9, 0.98), fast=()):
        self.name, self.path = name, work / f"{name}.state"
        self.parameters = [p for p in parameters if p.requires_grad]
        self.steps, self.minutes = steps, minutes
        fast = {id(p) for p in fast}
        groups = [
            {"params": [p for p in self.parameters if id(p) not in fast], "peak": lr},
            {"params": [p for p in self.parameters if id(p) in fast], "peak": FAST_FACTOR * lr},
        ]
        groups = [group for group in groups if group["params"]]
        self.optimizer = torch.optim.AdamW(groups, lr=lr, betas=betas, weight_decay=0.01, fused=True)
        self.average = Average(self.parameters, decay)
        self.step, self.elapsed, self.loss = 0, 0.0, None
        if self.path.is_file():
            self.restore()

    def restore(self):
        state = torch.load(self.path, weights_only=True, map_location="cpu")
        with torch.no_grad():
            for group, values in ((self.parameters, state["parameters"]), (self.average.values, state["average"])):
                for target, value in zip(group, values, strict=True):
                    target.copy_(value)
        for k, p in enumerate(self.parameters):
            self.optimizer.state[p] = {
                n: v.to(v.device if n == "step" else p.device) for n, v in state["adam"][k].items()
            }
        self.step, self.elapsed, self.loss = state["step"], state["elapsed"], state["loss"]
        torch.set_rng_state(state["torch_rng"])
        random.seed(state["seed"])
        np.random.seed(state["seed"])

    def save(self):
        seed = random.getrandbits(31)
        random.seed(seed)
        np.random.seed(seed)
        state = {
            "parameters": [p.detach() for p in self.parameters],
            "average": self.average.values,
            "adam": [dict(self.optimizer.state[p]) for p in self.parameters],
            "step": self.step,
            "elapsed": self.elapsed,
            "loss": self.loss,
            "torch_rng": torch.get_rng_state(),
            "seed": seed,
        }
        part = self.path.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, self.path)

    @property
    def progress(self):
        by_time = self.elapsed / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(self.step / self.steps, by_time))

    def train(self, loss_of, on_save=None, log_every=100):
        saved = last = time.time()
        stop = []
        signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
        choice = ThreadChoice(self.parameters[0].device)
        while self.progress < 1:
            loss = loss_of(self.step)
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            warm = min(1.0, (self.step + 1) / 100)
            for group in self.optimizer.param_groups:
                group["lr"] = group["peak"] * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.progress)))
            self.optimizer.step()
            self.average.update(self.step)
            self.step += 1
            now = time.time()
            self.elapsed, previous, last = self.elapsed + now - last, last, now
            choice.after_step(now - previous)
            value = float(loss.detach())
            self.loss = value if self.loss is None else 0.98 * self.loss + 0.02 * value
            if self.step % log_every == 0 or self.step == 5:
                threads = torch.get_num_threads()
                log(f"{self.name} {self.step} {self.elapsed:.0f}s loss {self.loss:.4f} threads {threads}")
            if now - saved > SAVE_EVERY or self.progress >= 1:
                self.save()
                saved = now
                if on_save:
                    on_save()
            if stop:
                self.save()
                raise SystemExit(f"{self.name} stopped at step {self.step}; the same command goes on from here")
