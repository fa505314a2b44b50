"""Pico models that tests of this folder only read."""

from pathlib import Path

import pytest

from tests.pico import pico_llama


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pico_llama(tmp_path_factory.mktemp("untied") / "m", seed=3, tied=False)


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pico_llama(tmp_path_factory.mktemp("tied") / "m", seed=4)
