"""Pico models shared by the export tests, made once."""

from pathlib import Path

import pytest

from tests.pico import pico_llama

KINDS = ["byte_bpe", "sentencepiece_bpe"]


@pytest.fixture(scope="session")
def picos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model for each kind of tokenizer. Read only."""
    root = tmp_path_factory.mktemp("picos")
    return {kind: pico_llama(root / kind, hidden=64, vocab=400, kind=kind) for kind in KINDS}


@pytest.fixture
def pico(picos: dict[str, Path]) -> Path:
    return picos["byte_bpe"]
