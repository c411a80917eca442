"""The adapter for diffusers."""

from __future__ import annotations

import pytest


@pytest.fixture
def adapter(core):
    from stylization.stylization_core.hosts.diffusers import shared_attention

    return shared_attention
