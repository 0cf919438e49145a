"""An authority for the tests here."""

from __future__ import annotations

from pathlib import Path

import pytest

from .authority import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)
