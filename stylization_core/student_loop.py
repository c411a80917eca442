"""The training of a student: one AdamW step per iteration, guards, and a state from which it goes on bit for bit.

Nothing here knows ComfyUI: targets need the student alone, and the score is asked of a function that a host gives.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from .errors import StylizationError
from .randomness import stream
from .student import Student
from .student_training import (
    OUT_OF_RANGE,
    TARGETS,
    Objective,
    RunningScale,
    collapse,
    crops,
    range_loss,
    score_loss,
    shift_loss,
    target_loss,
)

LARGEST = 1.0
"""Norm to which gradients are shortened."""

EMA = 0.999
"""Decay of the running mean of the weights, which is what is saved."""

BROKEN = 20
"""So many steps in a row without finite gradients end a training."""

GOOD = 25
"""Steps between copies of weights to step back to."""

RETREATS = 3
"""The training stops the third time it would have to step back."""

CHECKS = 20
"""Validations over a whole training."""

STALE = 5
"""A fifth of the training without a better validation ends the search for one: the best stays."""


class Asked(NamedTuple):
    """What the score says of a batch.

    Attributes:
        z: latents of the student's results, with autograd.
        source: latents of its inputs.
        gradient: of the score at ``z``, without autograd.
    """

    z: Tensor
    source: Tensor
    gradient: Tensor


class Score(Protocol):
    """Asks a model's style score about the student's results.

    ``ask(found, photo, relevance, step, steps, draws)``: pictures (B, 3, h, w), the second without autograd; the map
    (B, 1, h, w) of pixels or None. All randomness comes from ``draws``.
    """

    def __call__(
        self, found: Tensor, photo: Tensor, relevance: Tensor | None, step: int, steps: int, draws: torch.Generator
    ) -> Asked: ...


@dataclass(frozen=True)
class Plan:
    """How to train.

    Attributes:
        steps: in all, those of a resumed file included.
        learning_rate: peak of AdamW's, without decay.
        batch_size, side: of the parts that are cut from the pictures, in pixels.
        objective: what leads.
        shift_weight: of the shift term.
        seed: of all draws.
    """

    steps: int
    learning_rate: float = 1e-3
    batch_size: int = 4
    side: int = 512
    objective: Objective = TARGETS
    shift_weight: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Sample:
    """One picture to learn from, all parts of one size.

    Attributes:
        photo: (3, H, W) in [0, 1].
        target: (3, H, W), or None where only the score leads.
        relevance: (1, H, W) in [0, 1], or None.
    """

    photo: Tensor
    target: Tensor | None = None
    relevance: Tensor | None = None

    def stacked(self) -> Tensor:
        """All parts as channels, so that they are cut along."""
        return torch.cat([one for one in (self.photo, self.target, self.relevance) if one is not None])


class StudentTraining:
    """A training of one student, to be run, stopped, and continued.

    Args:
        student: in training; on the device where it is trained.
        samples: to learn from; all with or all without target and map.
        held_out: to validate by, with targets; empty for none.
        plan: how.
        score: of the model, needed where the objective uses it.
        say: gets one line about what a guard did.
    """

    def __init__(
        self,
        student: Student,
        samples: Sequence[Sample],
        plan: Plan,
        held_out: Sequence[Sample] = (),
        score: Score | None = None,
        say: Callable[[str], None] = lambda line: None,
    ):
        if plan.objective.score and score is None:
            raise ValueError(f"StudentTraining: the objective '{plan.objective.name}' needs a score")
        self.student, self.plan, self.score, self.say = student, plan, score, say
        self.pictures = [sample.stacked() for sample in samples]
        self.parts = [3] + [3] * (samples[0].target is not None) + [1] * (samples[0].relevance is not None)
        self.has_target, self.has_map = samples[0].target is not None, samples[0].relevance is not None
        self.held_out = [sample for sample in held_out if sample.target is not None]
        self.optimizer = torch.optim.AdamW(student.parameters(), lr=plan.learning_rate, weight_decay=0.0)
        self.mean = copy.deepcopy(student).requires_grad_(False)
        self.best = copy.deepcopy(self.mean.state_dict())
        self.good = self._snapshot()
        self.scale = RunningScale()
        self.step = self.broken = self.retreats = 0
        self.factor, self.best_step, self.best_loss = 1.0, 0, float("inf")
        self.losses: list[float] = []
        self.validation: list[tuple[int, float]] = []

    # one step

    def run(self, on_step: Callable[[int], None] = lambda step: None) -> Student:
        """Train to the end of the plan; returns the student to keep: the best by validation, else the running mean.

        Raises:
            StylizationError: gradients that stay broken, or a student that runs away three times.
        """
        while self.step < self.plan.steps:
            self._advance()
            if self.held_out and self.step % max(1, self.plan.steps // CHECKS) == 0:
                self._validate()
            on_step(self.step)
        return self.kept()

    def kept(self) -> Student:
        """The student to save now."""
        made = copy.deepcopy(self.mean)
        if self.validation:
            made.load_state_dict(self.best)
        return made

    def _advance(self) -> None:
        plan, step = self.plan, self.step
        draws = stream(plan.seed, f"student.{step}")
        photo, target, relevance = self._batch(draws)
        found = self.student(photo)
        share = plan.objective.share(step, plan.steps)
        total = OUT_OF_RANGE * range_loss(found)
        if plan.shift_weight:
            total = total + plan.shift_weight * shift_loss(self.student.residual, photo, draws)
        if share and target is not None:
            total = total + share * target_loss(found, target)
        asked = None
        if share < 1:
            asked = self.score(found, photo, relevance, step, plan.steps, draws)
            scale = self.scale.update(asked.gradient)
            total = total + (1 - share) * score_loss(asked.gradient, asked.z, scale)
        reason = collapse(found, photo, *(() if asked is None else (asked.z, asked.source)))
        self.step += 1
        if reason is not None:
            self._retreat(reason)
            return
        self._descend(total, step)
        self.losses.append(float(total.detach()))
        if self.step % GOOD == 0:
            self.good = self._snapshot()

    def _batch(self, draws: torch.Generator) -> tuple[Tensor, Tensor | None, Tensor | None]:
        device = next(self.student.parameters()).device
        found = crops(self.pictures, self.plan.side, self.plan.batch_size, draws).to(device, torch.float32)
        photo, *others = found.split(self.parts, 1)
        target = others.pop(0) if self.has_target else None
        return photo, target, others.pop(0) if self.has_map else None

    def _descend(self, total: Tensor, step: int) -> None:
        """One step of the optimiser, unless a gradient is not finite."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.factor * self.plan.objective.learning_rate(
                step, self.plan.steps, self.plan.learning_rate
            )
        self.optimizer.zero_grad()
        total.backward()
        norm = nn.utils.clip_grad_norm_(self.student.parameters(), LARGEST)
        if not bool(norm.isfinite()):
            self.broken += 1
            if self.broken >= BROKEN:
                raise StylizationError(
                    "model",
                    f"gradients of {BROKEN} steps in a row were not finite",
                    "Lower learning_rate, or load model and VAE in bf16 or fp32",
                )
            return
        self.broken = 0
        self.optimizer.step()
        # the mean of few weights would still hold the start, which is the identity
        decay = min(EMA, self.step / (self.step + 10))
        with torch.no_grad():
            for mean, weight in zip(self.mean.parameters(), self.student.parameters(), strict=True):
                mean.lerp_(weight, 1 - decay)

    def _snapshot(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.student.state_dict().items()}

    def _retreat(self, reason: str) -> None:
        """Back to weights that were good, at half the rate.

        Raises:
            StylizationError: it was the third time.
        """
        self.retreats += 1
        if self.retreats >= RETREATS:
            raise StylizationError(
                "learning_rate",
                f"the student ran away {RETREATS} times ({reason}), last at step {self.step}",
                "Lower learning_rate, or take the objective 'targets', which is steady",
            )
        self.factor /= 2
        self.student.load_state_dict(self.good)
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=self.plan.learning_rate, weight_decay=0.0)
        self.say(f"step {self.step}: {reason}; went back to good weights, learning rate halved")

    # validation

    @torch.no_grad()
    def _validate(self) -> None:
        """Loss of the running mean on held-out pictures, each once from its centre; the best weights are kept."""
        device = next(self.student.parameters()).device
        losses = []
        for sample in self.held_out:
            photo, target = (one[None].to(device, torch.float32) for one in self._centre(sample))
            losses.append(float(target_loss(self.mean(photo), target)))
        loss = sum(losses) / len(losses)
        self.validation.append((self.step, loss))
        if loss < self.best_loss:
            self.best_loss, self.best_step = loss, self.step
            self.best = copy.deepcopy(self.mean.state_dict())
        elif self.step - self.best_step == max(1, self.plan.steps // STALE):
            self.say(
                f"step {self.step}: held-out loss has not fallen since step {self.best_step}; its weights are kept"
            )

    def _centre(self, sample: Sample) -> tuple[Tensor, Tensor]:
        side = self.plan.side
        height, width = sample.photo.shape[-2:]
        top, left = max(0, (height - side) // 2), max(0, (width - side) // 2)
        return tuple(one[:, top : top + side, left : left + side] for one in (sample.photo, sample.target))

    # going on later

    def state(self) -> tuple[dict[str, Tensor], dict[str, object]]:
        """Tensors and plain values from which :meth:`restore` goes on as if nothing had been between."""
        tensors: dict[str, Tensor] = {}
        for kind, given in (
            ("weight", self.student.state_dict()),
            ("mean", self.mean.state_dict()),
            ("best", self.best),
            ("good", self.good),
        ):
            tensors |= {f"{kind}.{name}": value.detach().cpu().clone() for name, value in given.items()}
        for name, parameter in self.student.named_parameters():
            for part, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"adam.{part}.{name}"] = value.detach().cpu().clone()
        plain = {
            "step": self.step,
            "broken": self.broken,
            "retreats": self.retreats,
            "factor": self.factor,
            "best_step": self.best_step,
            "best_loss": self.best_loss,
            "scale": [self.scale.value, self.scale.floor, self.scale.count],
            "losses": list(self.losses),
            "validation": [list(pair) for pair in self.validation],
        }
        return tensors, plain

    def restore(self, tensors: Mapping[str, Tensor], plain: Mapping[str, object]) -> None:
        """Go on from a state of the same student and plan; a plan may have more steps."""
        parts: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            kind, name = key.split(".", 1)
            parts.setdefault(kind, {})[name] = value
        device = next(self.student.parameters()).device
        self.student.load_state_dict(parts["weight"])
        self.mean.load_state_dict(parts["mean"])
        self.best, self.good = ({n: v.to(device) for n, v in parts[kind].items()} for kind in ("best", "good"))
        for name, parameter in self.student.named_parameters():
            kept = {part: parts["adam"].get(f"{part}.{name}") for part in ("step", "exp_avg", "exp_avg_sq")}
            if all(value is not None for value in kept.values()):
                # AdamW keeps its count on the CPU
                moved = {part: v.clone() if part == "step" else v.to(parameter).clone() for part, v in kept.items()}
                self.optimizer.state[parameter] = moved
        self.step, self.broken, self.retreats = (int(plain[name]) for name in ("step", "broken", "retreats"))
        self.factor, self.best_loss = float(plain["factor"]), float(plain["best_loss"])
        self.best_step = int(plain["best_step"])
        value, floor, count = plain["scale"]
        self.scale = RunningScale(value=float(value), floor=float(floor), count=int(count))
        self.losses = [float(one) for one in plain["losses"]]
        self.validation = [(int(step), float(loss)) for step, loss in plain["validation"]]
