"""Third-party weights end to end: two experts from a real model on two real texts, then merged.

Needs `../shared` (a trained model of 260,032 parameters and two free texts). Run
`pytest -s tests/test_real_weights.py` to see the tables; docs/real-weights.md keeps them.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from smelt.core.run import read_record
from smelt.data.document import Document, read_jsonl, write_jsonl
from smelt.models.backend import Request
from smelt.models.backends.transformers import transformers
from smelt.verbs import data, eval, merge, train
from tests.models.asking import ask

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
MODEL = SHARED / "models" / "stories260k"
TEXTS = {
    name: SHARED / "data" / f"text_{name}" / "train.jsonl.gz"
    for name in ("shakespeare", "rust_book")
}
PROMPTS = ("KING HENRY VI:\nMy lord, ", "The program ")
STEPS = 50

pytestmark = pytest.mark.skipif(
    not all(path.exists() for path in (MODEL, *TEXTS.values())),
    reason="needs ../shared/models/stories260k and ../shared/data/text_*",
)


def _split(folder: Path) -> dict[str, list[Document]]:
    """`smelt data` on both texts; returns the rows by split."""
    sources = [{"name": "jsonl", "path": str(p), "domain": name} for name, p in TEXTS.items()]
    splits = {"fitness": 0.05, "test": 0.1, "max_per_domain": 6}
    data.execute({"sources": sources, "splits": splits}, folder, where="split")
    return {
        name: list(read_jsonl(folder / f"{name}.jsonl")) for name in ("train", "fitness", "test")
    }


def _expert(rows: Path, domain: str, out: Path) -> None:
    mixture = [{"path": str(rows), "where": {"domain": domain}}]
    recipe = {
        "stage": "pretrain",
        "model": str(MODEL),
        "context": 128,
        "batch_rows": 12,
        "optimizer": {"lr": 0.001, "warmup_steps": 10},
        "phases": [{"steps": STEPS, "schedule": "linear", "final": 0.0, "mixture": mixture}],
    }
    train.execute(recipe, out, where=domain)


def _merge(home: Path, method: str, weight: float) -> None:
    models = [{"model": str(home / name)} for name in TEXTS]
    recipe: dict[str, Any] = {"merge_method": method, "models": models}
    recipe |= {"parameters": {"weight": weight}, "base_model": str(MODEL)}
    merge.execute(recipe, home / method, where=method)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything trained, merged and measured once."""
    home = tmp_path_factory.mktemp("real")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine two threads wait for each other at every step
    rows = _split(home / "data")
    for name in TEXTS:
        write_jsonl(home / f"{name}.jsonl", [row for row in rows["test"] if row.domain == name])
        _expert(home / "data" / "train.jsonl", name, home / name)
    _merge(home, "linear", 0.5)
    _merge(home, "task_arithmetic", 0.7)
    names = [*TEXTS, "linear", "task_arithmetic"]
    models = {"original": str(MODEL)} | {name: str(home / name) for name in names}
    texts = {name: str(home / f"{name}.jsonl") for name in TEXTS}
    eval.execute({"models": models, "text": texts}, home / "scores", where="scores")
    torch.set_num_threads(threads)
    return home


def test_rows_are_disjoint(home: Path) -> None:
    """No text, and no paragraph of 200 characters or more, is both trained on and measured."""
    train_rows = list(read_jsonl(home / "data" / "train.jsonl"))
    paragraphs = {part for row in train_rows for part in row.text.split("\n\n") if len(part) >= 200}
    for name in TEXTS:
        held_out = list(read_jsonl(home / f"{name}.jsonl"))
        assert len(held_out) == 6
        assert not {row.id for row in held_out} & {row.id for row in train_rows}
        assert not [p for row in held_out for p in row.text.split("\n\n") if p in paragraphs]


def test_experts_learn_and_merges_keep_both(home: Path) -> None:
    """Each expert beats the original on its text; each merge beats the original on both, and on
    each text the parent that did not learn it."""
    found = read_record(home / "scores")["likelihood"]
    print(f"\n{'perplexity':16}" + "".join(f"{name:>16}" for name in TEXTS))
    for model in ("original", *TEXTS, "linear", "task_arithmetic"):
        print(f"{model:16}" + "".join(f"{found[model][t]['perplexity']:16.2f}" for t in TEXTS))
    bits = {
        m: {t: cell["bits_per_byte"] for t, cell in texts.items()} for m, texts in found.items()
    }
    for own, other in (("shakespeare", "rust_book"), ("rust_book", "shakespeare")):
        assert bits[own][own] < bits["original"][own] - 1.0
        for merged in ("linear", "task_arithmetic"):
            assert bits[own][own] < bits[merged][own] < bits[other][own]
            assert bits[merged][own] < bits["original"][own] - 0.5


def _greedy(folder: Path) -> list[str]:
    """What a model writes after each prompt."""
    requests = [Request(prompt, 60) for prompt in PROMPTS]
    return [one.text for one in ask(transformers(str(folder)), requests)]


def test_sample_of_the_merge(home: Path) -> None:
    """The merge writes text of its own, the same each time, and not what the original writes."""
    written = {}
    for name, folder in (("original", MODEL), ("linear", home / "linear")):
        written[name] = _greedy(folder)
        for prompt, answer in zip(PROMPTS, written[name], strict=True):
            print(f"\n[{name}] {prompt}{answer}")
        assert _greedy(folder) == written[name]
    assert all(len(answer) > 20 for answer in written["linear"])
    assert all(a != b for a, b in zip(written["original"], written["linear"], strict=True))
