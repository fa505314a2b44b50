from pathlib import Path

import pytest

from tests.report.fake import pipeline


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder with two seeds and every kind of stage. Read it, do not change it."""
    return pipeline(tmp_path_factory.mktemp("report") / "demo")
