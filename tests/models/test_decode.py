"""Batched decoding: token for token what transformers writes, whatever stands beside a row."""

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, TopPLogitsWarper

from smelt.core.errors import UserError
from smelt.models import reader
from smelt.models.backend import Request, Written
from smelt.models.network import NetworkBackend
from smelt.models.prefix import ALIKE, Row, batches, common, ordered
from smelt.models.prompts import Prompts
from smelt.models.sample import draw, generator
from tests.models.architectures import KINDS, network
from tests.pico import pico_tokenizer

SHOTS = (
    "def add(a, b):\n    return a + b\nThe quick brown fox jumps over the lazy dog, then max[352]."
)
_rng = random.Random(0)
PROMPTS = [
    *(SHOTS + "".join(_rng.choices("abc123 +-=", k=_rng.randint(1, 25))) for _ in range(6)),
    "x", "The", "", "rev[123]=",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pico_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def llama(folder: Path) -> NetworkBackend:
    return backend("llama", folder)


def backend(kind: str, folder: Path, **more: Any) -> NetworkBackend:
    tokenizer = Prompts(folder).tokenizer
    return NetworkBackend(network(kind, tokenizer), folder, identity="x", **more)


def ask(model: Any, requests: list[Request]) -> tuple[list[Written], list[list[int]]]:
    """Answers in order, and the batches in which they came."""
    found: dict[int, Written] = {}
    sizes: list[list[int]] = []

    def done(indices: list[int], answers: list[Written]) -> None:
        sizes.append(indices)
        found.update(zip(indices, answers, strict=True))

    model.write(requests, done, "")
    return [found[index] for index in range(len(requests))], sizes


def by_transformers(model: NetworkBackend, prompt: str, budget: int) -> list[int]:
    """Tokens that transformers' own greedy decoding of one unpadded row gives."""
    ids = model.prompts.encode([prompt])[0]
    network: Any = model.model
    network.generation_config = GenerationConfig(
        max_new_tokens=budget, do_sample=False, eos_token_id=sorted(model._ends), pad_token_id=0
    )
    with torch.no_grad():
        made = network.generate(
            input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long)
        )
    return [int(token) for token in made[0, len(ids) :]]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_equals_transformers_generate(kind: str, folder: Path) -> None:
    model = backend(kind, folder)
    expected = [by_transformers(model, prompt, 20) for prompt in PROMPTS]
    found, _ = ask(model, [Request(prompt, 20) for prompt in PROMPTS])
    for one, ids in zip(found, expected, strict=True):
        plain = [token for token in ids if token not in model._ends]
        assert one == Written(model.prompts.decode(plain), len(plain), plain != ids)
    assert len({one.text for one in found}) > 4
    # Plain caches pad and share; a recurrent state or ALiBi gets rows of one length only.
    assert model._reader.plain == (kind not in ("bloom", "qwen3_next"))


def ended_by(llama: NetworkBackend, tokens: list[int]) -> frozenset[int]:
    return llama._ends | set(tokens)


def test_rows_end_on_their_own(llama: NetworkBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = [by_transformers(llama, prompt, 20) for prompt in PROMPTS]
    ends = ended_by(llama, [plain[0][3], plain[1][7]])  # a list of end tokens, in the middle of two
    monkeypatch.setattr(llama, "_ends", ends)
    requests = [Request(prompt, 20 - index) for index, prompt in enumerate(PROMPTS)]
    found, _ = ask(llama, requests)
    for ids, request, one in zip(plain, requests, found, strict=True):
        ids = ids[: request.max_new_tokens]
        stop = next((place for place, token in enumerate(ids) if token in ends), None)
        assert one == Written(llama.prompts.decode(ids[:stop]), len(ids[:stop]), stop is not None)
    assert 2 <= sum(one.finished for one in found) < len(found)
    assert ask(llama, [Request("x", 0)])[0] == [Written("", 0, False)]
    with pytest.raises(UserError, match=r"need 2[0-9][0-9] tokens. Expected at most 256"):
        ask(llama, [Request("a" * 90, 200)])


def test_stop_texts_across_tokens(llama: NetworkBackend) -> None:
    """Any piece of an answer as a stop text gives the answer up to it, by the fewest tokens."""
    requests, expected = [], []
    for prompt in PROMPTS:
        ids = [token for token in by_transformers(llama, prompt, 20) if token not in llama._ends]
        text = llama.prompts.decode(ids)
        for begin, length in itertools.product(range(len(text)), (1, 2, 4)):
            stop = text[begin : begin + length]
            if "\ufffd" in stop:
                continue  # half a character, of which the rest may still come
            size = next(n for n in range(len(ids) + 1) if stop in llama.prompts.decode(ids[:n]))
            requests.append(Request(prompt, 20, stop=("never there", stop)))
            whole = llama.prompts.decode(ids[:size])
            expected.append(Written(whole[: whole.find(stop)], size, True))
    assert len({request.stop for request in requests if len(request.stop[1]) == 4}) > 10
    assert ask(llama, requests)[0] == expected


def test_a_control_token_as_stop_text(llama: NetworkBackend) -> None:
    plain = by_transformers(llama, "The", 20)
    special = dict(llama.prompts.special)
    llama.prompts.special["<ctrl>"] = plain[4]
    try:
        found, _ = ask(llama, [Request("The", 20, stop=("<ctrl>",)), Request("The", 20)])
    finally:
        llama.prompts.special = special
    assert found[0] == Written(llama.prompts.decode(plain[:4]), 4, True)
    assert found[1].num_tokens > 4


def test_drawn_answers_do_not_depend_on_the_batch(folder: Path) -> None:
    model = backend("llama", folder)
    requests = [
        Request(prompt, 12, temperature=0.9, top_p=0.9, seed=seed)
        for prompt in PROMPTS[:5]
        for seed in (1, 2, 2**62)
    ] + [Request(PROMPTS[0], 12)]
    together, sizes = ask(model, requests)
    assert len(sizes) == 1
    alone = [ask(model, [request])[0][0] for request in requests]
    assert together == alone
    assert len({one.text for one in alone[:3]}) == 3
    assert together[-1] == ask(model, [Request(PROMPTS[0], 12)])[0][0]


def test_draws_are_from_the_distribution_of_transformers() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 12) * 2
    for temperature, top_p in ((1.0, 1.0), (0.7, 0.8), (1.5, 0.5), (1.0, 1e-6)):
        kept = TopPLogitsWarper(top_p)(None, logits / temperature) if top_p < 1 else logits
        wanted = kept.softmax(-1)[0]
        rows = 4000
        tokens = draw(
            logits.expand(rows, -1), torch.full((rows,), temperature), torch.full((rows,), top_p),
            [generator(seed) for seed in range(rows)],
        )  # fmt: skip
        shares = torch.bincount(tokens, minlength=12) / rows
        assert (shares - wanted).abs().max() < 0.03
        assert not shares[wanted == 0].any()


@pytest.mark.parametrize("width", [999, 130])  # that of a window lies between those of the rows
def test_a_broken_off_run_is_cut_the_same(width: int) -> None:
    rng = random.Random(3)
    heads = [[rng.randrange(50) for _ in range(size)] for size in (100, 130, 90, 3)]
    rows = [
        Row(index, rng.choice(heads) + [rng.randrange(50) for _ in range(rng.randint(1, 60))], 9)
        for index in range(200)
    ]
    limits: Any = {"most_rows": 7, "fits": lambda n, t: n * t < 2500, "share": lambda t: t <= width,
                   "pad": True}  # fmt: skip
    whole = [([row.index for row in part], shared) for part, shared in batches(rows, **limits)]
    assert sorted(index for part, _ in whole for index in part) == list(range(200))
    for after in range(1, len(whole), 5):
        gone = {index for part, _ in whole[:after] for index in part}
        left = [row for row in rows if row.index not in gone]
        rest = [([row.index for row in part], n) for part, n in batches(left, **limits)]
        assert rest == whole[after:]
    for part, shared in whole:
        ids = [rows[index].ids for index in part]
        assert all(row[:shared] == ids[0][:shared] and len(row) > shared for row in ids)
        assert len(part) * max(len(row) + 9 for row in ids) < 2500 or len(part) == 1
        assert not shared or all(len(row) + 9 <= width for row in ids)
    assert sum(shared >= ALIKE for _, shared in whole) > (len(whole) / 2 if width == 999 else 0)
    lengths = [len(row.ids) for row in ordered(rows)]
    assert lengths[0] > lengths[-1]


def test_groups_of_other_examples_are_not_mixed() -> None:
    heads = [[number] * 100 for number in range(4)]
    rows = [Row(4 * i + n, [*heads[n], i, i], 5) for i in range(10) for n in range(4)]
    found = list(
        batches(rows, most_rows=99, fits=lambda n, t: True, share=lambda t: True, pad=True)
    )
    assert [(len(part), shared) for part, shared in found] == [(10, 100)] * 4
    mixed = [Row(i, [i] * 100, 5) for i in range(40)]
    found = list(
        batches(mixed, most_rows=99, fits=lambda n, t: True, share=lambda t: True, pad=True)
    )
    assert [(len(part), shared) for part, shared in found] == [(40, 0)]
    assert common([1, 2, 3], [1, 2, 4], 9) == 2
    assert common([1, 2], [1, 2, 4], 9) == 2
    assert common([], [1], 9) == 0


def test_memory_bounds_the_batch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = backend("llama", folder)
    requests = [Request(prompt, 20) for prompt in PROMPTS]
    expected, sizes = ask(model, requests)
    assert len(sizes) == 1
    # Keys and values: 2 layers of 2 heads of 8 numbers each.
    assert model._reader._token_bytes == 2 * 2 * 2 * 8 * 4
    monkeypatch.setitem(reader.CACHE_BYTES, "cpu", 2 * 256 * 250)
    found, sizes = ask(model, requests)
    assert len(sizes) == 3
    assert found == expected


def test_the_shared_beginning_is_read_once(folder: Path) -> None:
    model = backend("llama", folder)
    seen: list[tuple[int, int]] = []
    network: Any = model.model
    handle = network.model.register_forward_pre_hook(
        lambda _, args, keys: seen.append(tuple(keys["input_ids"].shape)), with_kwargs=True
    )
    model.batch_size = 3
    ask(model, [Request(prompt, 1) for prompt in PROMPTS[:6]])
    handle.remove()
    first = len(model.prompts.encode([SHOTS])[0])
    assert [shape for shape in seen if shape[0] == 1 and shape[1] >= first - 1]
    assert sum(rows * width for rows, width in seen) < 3 * first + 6 * 30
