"""Teacher-forced scores and the fitness made of them, against plain loops over single rows."""

import math
from collections import Counter
from copy import deepcopy
from typing import Any

import pytest
import torch

from smelt.checkpoint.tokenizer import TextTokenizer, open_tokenizer
from smelt.core.errors import UserError
from smelt.data.document import Document
from smelt.models.fitness import Network, RowFitness
from smelt.models.load import load_model
from smelt.models.score import BATCH_LOGITS, Encoded, Scorer, encode_pair, encode_response
from tests.pico import pico_llama
from tests.train.rows import pair

PROMPTS = [
    "max[352]*1-2=",
    "The",
    "def add(a, b):\n    return",
    "T&!F=",
    "x",
    "1" * 60,
    "jumps over",
]


@pytest.fixture(scope="module", params=["byte_bpe", "sentencepiece_bpe"])
def pico(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, TextTokenizer]:
    folder = pico_llama(tmp_path_factory.mktemp(request.param) / "m", kind=request.param, seed=4)
    return load_model(folder), open_tokenizer(folder)


def greedy(model: Any, tokenizer: TextTokenizer, prompt: str, budget: int) -> tuple[str, bool]:
    """Argmax after argmax over one unpadded row, without a cache; whether it ended itself."""
    ids = tokenizer.encode(prompt) or [tokenizer.eos_id]
    first = len(ids)
    for _ in range(budget):
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token == tokenizer.eos_id:
            return tokenizer.decode(ids[first:]), True
        ids.append(token)
    return tokenizer.decode(ids[first:]), False


def ending(model: Any, tokenizer: TextTokenizer) -> Any:
    """A copy whose eos has the logit of the token that it writes most, and a little more."""
    copy = deepcopy(model)
    made = "".join(greedy(model, tokenizer, prompt, 20)[0] for prompt in PROMPTS)
    often = Counter(tokenizer.encode(made)).most_common(4)[-1][0]
    copy.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    with torch.no_grad():
        copy.lm_head.weight[tokenizer.eos_id] = 1.01 * copy.lm_head.weight[often]
    return copy


def plain_score(model: Any, ids: list[int], start: int) -> tuple[float, bool]:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].double()
    nll = -logits[:-1].log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    hits = logits[:-1].argmax(-1) == torch.tensor(ids[1:])
    return float(nll[start - 1 :].sum()), bool(hits[start - 1 :].all())


ROWS = [
    ("1+1=", "1+1=2."),
    ("", "The quick brown fox"),
    ("a", "abc"),
    ("T&!F=", "T&!F=" + "T" * 40),
]


def test_scores_equal_a_row_by_row_computation(pico: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = pico
    rows = [encode_response(tokenizer, *row) for row in ROWS]
    expected = [plain_score(model, *encode_pair(tokenizer, *row)) for row in ROWS]
    for budget in (8192, 1):  # all rows at once, and every row alone
        monkeypatch.setattr("smelt.models.score.BATCH_TOKENS", budget)
        scorer = Scorer(rows, vocab=tokenizer.size)
        assert len(scorer.batches) == (1 if budget > 1 else 4)
        found = scorer.score(model)
        assert [one.nll for one in found] == pytest.approx([nll for nll, _ in expected], abs=1e-4)
        assert [one.exact for one in found] == [exact for _, exact in expected]
        assert [one.num_bytes for one in found] == [2, 19, 2, 40]
        for one, row in zip(found, rows, strict=True):
            assert one.num_tokens == len(row.ids) - row.start
    scorer = Scorer(rows, vocab=BATCH_LOGITS)
    assert len(scorer.batches) == 4  # a huge vocabulary: one row at a time
    assert Scorer([], vocab=9).score(model) == []


def test_exact_agrees_with_greedy_decoding(pico: Any) -> None:
    model, tokenizer = ending(*pico), pico[1]
    verdicts = []
    for prompt in PROMPTS:
        ids = tokenizer.encode(prompt)
        made = list(ids)
        while len(made) < len(ids) + 20 and (made == ids or made[-1] != tokenizer.eos_id):
            with torch.no_grad():
                made.append(int(model(input_ids=torch.tensor([made])).logits[0, -1].argmax()))
        other = [*made[:-1], (made[-1] + 1) % tokenizer.size]
        rows = [Encoded(one, len(ids), 1) for one in (made, other)]
        verdicts.append([one.exact for one in Scorer(rows, vocab=tokenizer.size).score(model)])
    assert verdicts == [[True, False]] * len(PROMPTS)


def test_fitness_is_the_weighted_mean_over_domains(pico: Any) -> None:
    model, tokenizer = pico
    rows: dict[str, list[Document]] = {
        "a": [pair("1+1=", "2."), pair("2+2=", "4.")], "b": [pair("T=", "T"), pair("x", "yz")],
    }  # fmt: skip
    weights = {"a": 1.0, "b": 3.0}
    expected = 0.0
    for name, part in rows.items():
        scores = [plain_score(model, *encode_pair(tokenizer, r.prompt, r.text)) for r in part]
        num_bytes = sum(len(row.text) - len(row.prompt) for row in part)
        expected -= weights[name] / 4 * sum(n for n, _ in scores) / math.log(2) / num_bytes
    same = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    network, fitness = Network(model), RowFitness(model, tokenizer, rows, weights, "likelihood")
    assert fitness.names == ["a", "a", "b", "b"]

    def value(candidate: dict[str, torch.Tensor]) -> float:
        network.take(candidate)
        values, lengths = fitness([0, 1, 2, 3])
        assert lengths == [0.0] * 4
        assert fitness([2, 1])[0] == pytest.approx([values[2], values[1]], abs=1e-5)
        return sum(weight * one for weight, one in zip(fitness.weights, values, strict=True))

    assert value(same) == pytest.approx(expected, abs=1e-5)
    zero = {name: torch.zeros_like(tensor) for name, tensor in same.items()}
    tokens = {
        name: sum(len(encode_pair(tokenizer, r.prompt, r.text)[0]) - len(tokenizer.encode(r.prompt))
                  for r in part)
        for name, part in rows.items()
    }  # fmt: skip
    uniform = math.log2(model.config.vocab_size)
    nbytes = {n: sum(len(r.text) - len(r.prompt) for r in p) for n, p in rows.items()}
    flat = -sum(weights[n] / 4 * tokens[n] * uniform / nbytes[n] for n in rows)
    assert value(zero) == pytest.approx(flat, abs=1e-4)
    assert value(same) == pytest.approx(expected, abs=1e-5)
    exact = RowFitness(model, tokenizer, rows, weights, "exact")
    assert exact([0, 1, 2, 3])[0] == [0.0] * 4
    with pytest.raises(UserError, match=r"nothing.weight: not a tensor of the model"):
        network.take({"nothing.weight": torch.zeros(1)})
    with pytest.raises(UserError, match=r"a row of .* tokens. Expected at most 128"):
        RowFitness(model, tokenizer, {"a": [pair("1" * 150, "2")]}, {"a": 1.0}, "exact")
