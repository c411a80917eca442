"""A photo, results, pictures of a style and a region, and the reports of them."""

from __future__ import annotations

import numpy as np
import pytest
from skimage import data
from skimage.transform import resize
from stylization.stylization_core.report import measure
from stylization.stylization_core.report.material import checked
from stylization.stylization_core.report.scores import Report

SIZE = 64, 80


def small(image, size=SIZE) -> np.ndarray:
    return resize(image, size, anti_aliasing=True).astype(np.float32)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return small(data.astronaut())[None]


@pytest.fixture(scope="module")
def results(photo) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, 0.1, photo.shape)
    return np.concatenate([photo[..., ::-1] ** 1.5, np.clip(photo + noise, 0, 1)]).astype(np.float32)


@pytest.fixture(scope="module")
def exemplars() -> np.ndarray:
    image = data.immunohistochemistry()
    return np.stack([small(image[:300, i * 100 : i * 100 + 300], (72, 72)) for i in range(3)])


@pytest.fixture(scope="module")
def mask() -> np.ndarray:
    found = np.zeros((1, *SIZE))
    found[:, 8:48, 16:60] = 1.0
    return found


@pytest.fixture(scope="module")
def styled(photo, results, exemplars) -> Report:
    return measure.report(checked(photo, results, exemplars))


@pytest.fixture(scope="module")
def regional(photo, results, exemplars, mask) -> Report:
    return measure.report(checked(photo, results, exemplars, mask))


@pytest.fixture(scope="module")
def plain(photo, results) -> Report:
    return measure.report(checked(photo, results))
