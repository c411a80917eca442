"""The training of a student: it learns, it stops and goes on bit for bit, and each guard acts."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from stylization.stylization_core import student_loop as loop
from stylization.stylization_core.student import Student
from stylization.stylization_core.student_training import BOTH, SCORE, TARGETS


def photo(seed: int, height: int = 40, width: int = 48) -> torch.Tensor:
    """Soft patches of colour."""
    coarse = torch.rand(1, 3, height // 8, width // 8, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, (height, width), mode="bilinear")[0]


def samples(count: int = 3, first: int = 0) -> list[loop.Sample]:
    """Photographs whose target is darker."""
    made = []
    for seed in range(first, first + count):
        picture = photo(seed)
        made.append(loop.Sample(picture, 0.4 * picture))
    return made


def plan(steps: int = 30, **given) -> loop.Plan:
    return loop.Plan(**{"steps": steps, "batch_size": 2, "side": 24, "shift_weight": 0.1, **given})


def student() -> Student:
    return Student(48, 1, seed=2)


def quadratic(found, photo, relevance, step, steps, draws) -> loop.Asked:
    """A score that pulls the pictures themselves, as latents, towards half of what they were."""
    return loop.Asked(found, photo, (found - 0.5 * photo).detach())


def weights(made: Student) -> list[torch.Tensor]:
    return [one.detach().clone() for one in made.parameters()]


def test_it_learns_its_targets():
    training = loop.StudentTraining(
        student(), samples(), plan(150, learning_rate=3e-3, shift_weight=0.0), samples(1, first=9)
    )
    found = training.run()
    assert sum(training.losses[-10:]) < 0.5 * sum(training.losses[:10])
    before, after = training.validation[0][1], min(loss for _, loss in training.validation)
    assert after < 0.8 * before
    held = samples(1, first=9)[0]
    assert (found(held.photo[None]) - held.target).abs().mean() < 0.5 * (held.photo - held.target).abs().mean()


@pytest.mark.parametrize("objective", [TARGETS, BOTH, SCORE], ids=lambda one: one.name)
def test_stopped_and_continued_is_undisturbed_bit_for_bit(objective):
    given = {"plan": plan(30, objective=objective), "score": quadratic, "held_out": samples(1, first=9)}
    whole = loop.StudentTraining(student(), samples(), **given)
    whole.run()

    class Stop(Exception):
        pass

    def stop(step):
        if step == 13:
            raise Stop

    first = loop.StudentTraining(student(), samples(), **given)
    with pytest.raises(Stop):
        first.run(stop)
    tensors, plain = first.state()
    plain = json.loads(json.dumps(plain))
    second = loop.StudentTraining(Student(48, 1, seed=77), samples(), **given)
    second.restore(tensors, plain)
    second.run()
    for one, other in zip(weights(whole.kept()), weights(second.kept()), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(weights(whole.student), weights(second.student), strict=True):
        assert torch.equal(one, other)
    assert whole.losses == second.losses and whole.validation == second.validation


def test_a_score_leads_where_it_is_asked():
    training = loop.StudentTraining(
        student(), [loop.Sample(photo(0))], plan(80, objective=SCORE, learning_rate=0.03), score=quadratic
    )
    found = training.run()
    x = photo(0)[None]
    assert (found(x) - 0.5 * x).abs().mean() < 0.6 * (0.5 * x).abs().mean()


def test_a_score_is_needed_where_it_is_used():
    with pytest.raises(ValueError, match="'targets then score' needs a score"):
        loop.StudentTraining(student(), samples(), plan(objective=BOTH))


def test_broken_gradients_are_skipped_and_twenty_end_the_training():
    calls = []

    def score(found, photo, relevance, step, steps, draws):
        calls.append(step)
        bad = float("nan") if len(calls) != 3 else 1.0
        return loop.Asked(found, photo, torch.full_like(found, bad))

    training = loop.StudentTraining(student(), [loop.Sample(photo(0))], plan(100, objective=SCORE), score=score)
    before = weights(training.student)
    with pytest.raises(ValueError, match=r"^model: gradients of 20 steps in a row were not finite\."):
        training.run()
    assert len(calls) == 3 + loop.BROKEN  # the third was finite and began the count anew
    assert all(one.isfinite().all() for one in training.student.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, weights(training.student), strict=True))


def test_a_student_that_runs_away_goes_back_and_the_third_time_stops():
    lines: list[str] = []

    def to_one_colour(found, photo, relevance, step, steps, draws):
        return loop.Asked(found, photo, (found - 0.5).detach() * 1e3)

    training = loop.StudentTraining(
        student(),
        [loop.Sample(photo(0))],
        plan(4000, objective=SCORE, learning_rate=2.0),
        score=to_one_colour,
        say=lines.append,
    )
    with pytest.raises(
        ValueError, match=r"^learning_rate: the student ran away 3 times \(.*\), last at step \d+\. Lower"
    ):
        training.run()
    assert len(lines) == 2 and all("learning rate halved" in line for line in lines)
    assert training.factor == 0.25


def test_the_best_by_validation_is_kept():
    """Held-out pictures whose target is the picture itself: every step away from the identity is a loss."""
    lines: list[str] = []
    held = [loop.Sample(photo(5), photo(5))]
    training = loop.StudentTraining(
        student(), samples(), plan(100, learning_rate=3e-3), held_out=held, say=lines.append
    )
    found = training.run()
    assert training.best_step == 5
    later = training.mean
    x = photo(5)[None]
    assert (found(x) - x).abs().mean() < (later(x) - x).abs().mean()
    assert len(lines) == 1 and "has not fallen since step 5" in lines[0]


def test_maps_are_cut_along_with_their_picture():
    seen = []

    def score(found, photo, relevance, step, steps, draws):
        seen.append((photo.detach().clone(), relevance.clone()))
        return loop.Asked(found, photo, torch.zeros_like(found))

    ramp = torch.linspace(0, 1, 48).expand(3, 40, 48)
    sample = loop.Sample(ramp, relevance=ramp[:1])
    loop.StudentTraining(student(), [sample], plan(3, objective=SCORE), score=score).run()
    for picture, relevance in seen:
        torch.testing.assert_close(picture[:, :1], relevance)
