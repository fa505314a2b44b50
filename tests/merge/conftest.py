"""Three pico models of one architecture, made once: fine-tunes are base plus noise."""

import shutil
from pathlib import Path

import pytest
import torch

from smelt.checkpoint.reader import SINGLE, Checkpoint
from tests.pico import pico_llama
from tests.weights import write_checkpoint


def rewrite(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Replace the weights of a folder."""
    (folder / SINGLE).unlink()
    write_checkpoint(folder, tensors)


def load(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder."""
    checkpoint = Checkpoint.open(folder)
    return {name: checkpoint.read(name) for name in checkpoint.names()}


def finetune(base: Path, folder: Path, seed: int) -> Path:
    """A copy of a base whose every tensor moved a little."""
    shutil.copytree(base, folder)
    generator = torch.Generator().manual_seed(seed)
    moved = {
        name: one + 0.01 * torch.randn(one.shape, generator=generator)
        for name, one in load(base).items()
    }
    rewrite(folder, moved)
    return folder


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("models")
    base = pico_llama(home / "base", layers=3)
    finetune(base, home / "math", 1)
    finetune(base, home / "code", 2)
    return home


@pytest.fixture
def models(originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with base, math and code in it, which a test may damage."""
    shutil.copytree(originals, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path
