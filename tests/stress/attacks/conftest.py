"""What the attacks need."""

from __future__ import annotations

from pathlib import Path

import pytest

from .servers import Certificate


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """The files of a certificate for servers."""
    return Certificate.issue(Path(tmp_path_factory.mktemp("certificate")))
