"""The transformers backend: likelihoods, begin-of-text, templates, identity, precision."""

import json
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM

from smelt.core.errors import UserError
from smelt.models.backend import Likelihood, Query, Request, Written
from smelt.models.backends.transformers import network_and_tokenizer, transformers
from smelt.models.likelihood import likelihood
from smelt.models.network import NetworkBackend
from smelt.models.prompts import Prompts
from tests.models.architectures import KINDS, greedy_ids, network
from tests.models.asking import ask, likelihoods
from tests.pico import pico_llama, pico_tokenizer

SHOTS = (
    "The quick brown fox jumps over the lazy dog, then sleeps. max[352]*1-2=5*1-2=5-2=3. rev[12]"
)
PROMPTS = [SHOTS + "=[21]. a", SHOTS + " bcd", SHOTS + "The 1+1 ", "x", "", "T&!F="]
ENDS = [" A", " B", "12=3", " The fox sleeps", "é"]
TEMPLATE = (
    "{{ '<s>' }}{% for m in messages %}{{ '[' + m.role + ']' + m.content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokenizer puts begin-of-text before every text, as Llama's does."""
    path = pico_llama(tmp_path_factory.mktemp("bos") / "m", kind="sentencepiece_bpe", seed=4)
    raw = Tokenizer.from_file(str(path / "tokenizer.json"))
    raw.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    raw.save(str(path / "tokenizer.json"))
    return path


def one_by_one(model: NetworkBackend, prompt: list[int], end: list[int]) -> Likelihood:
    """Log-probabilities out of one unpadded row, in double precision."""
    network: Any = model.model
    with torch.no_grad():
        logits = network(input_ids=torch.tensor([prompt + end])).logits[0].double()
    rows = logits[len(prompt) - 1 : -1].log_softmax(-1)
    nats = rows[torch.arange(len(end)), torch.tensor(end)].sum()
    return Likelihood(float(nats), len(end), rows.argmax(-1).tolist() == end)


@pytest.mark.parametrize("batch_size", [2, 256])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_likelihood_equals_single_rows(kind: str, batch_size: int, tmp_path: Path) -> None:
    prompts = Prompts(pico_tokenizer(tmp_path))
    made = network(kind, prompts.tokenizer)
    model = NetworkBackend(made, tmp_path, identity="x", batch_size=batch_size)
    queries = [Query(prompt, end) for end in ENDS for prompt in PROMPTS]
    pairs = prompts.pairs([(query.prompt, query.continuation) for query in queries])
    found = likelihoods(model, queries)
    for one, (prompt, end) in zip(found, pairs, strict=True):
        wanted = one_by_one(model, prompt, end)
        assert one.nats == pytest.approx(wanted.nats, abs=1e-4)
        assert (one.num_tokens, one.greedy) == (wanted.num_tokens, wanted.greedy)
    # The tokens that greedy decoding writes are the likeliest, and no others are.
    ids = prompts.encode([PROMPTS[0]])[0]
    got: dict[int, Likelihood] = {}
    own = greedy_ids(model.model, ids, 3)
    asked = [(ids, own), (ids, own[:1]), (ids, [*own[:2], (own[2] + 1) % prompts.tokenizer.size])]
    likelihood(model._reader, asked, lambda i, a: got.update(zip(i, a, strict=True)), batch_size=9)
    assert [got[index].greedy for index in range(3)] == [True, True, False]


def test_logits_are_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = transformers(str(folder))
    queries = [Query(prompt, end) for end in ENDS for prompt in PROMPTS]
    expected = likelihoods(model, queries)
    monkeypatch.setattr("smelt.models.likelihood.BATCH_LOGITS", 2 * 8 * 320)
    for one, wanted in zip(likelihoods(model, queries), expected, strict=True):
        assert one.nats == pytest.approx(wanted.nats, abs=1e-5)


def test_pairs_are_cut_as_lm_eval_does(folder: Path) -> None:
    """Its rule, written out: blanks move over, the whole is encoded, the prompt's tokens go."""
    prompts = Prompts(folder)
    encode, bos = prompts.tokenizer.encode, prompts.tokenizer.bos_id
    assert bos is not None
    cases = [
        ("The quick", " brown"),
        ("The quick ", "brown"),
        ("x=", "12"),
        ("a \n ", "b"),
        (" ", "b"),
    ]
    for prompt, end in cases:
        blanks = len(prompt) - len(prompt.rstrip())
        head, rest = prompt[: len(prompt) - blanks], prompt[len(prompt) - blanks :] + end
        first = [bos, *encode(head)]
        whole = [bos, *encode(head + rest)]
        assert prompts.pairs([(prompt, end)]) == [(first, whole[len(first) :])]
    assert prompts.pairs([("", "fox")]) == [([bos], encode("fox"))]
    with pytest.raises(UserError, match="a continuation without a token of its own"):
        prompts.pairs([("fox", "")])


def test_begin_of_text_comes_once(folder: Path) -> None:
    prompts = Prompts(folder)
    bos = prompts.tokenizer.bos_id
    plain = prompts.tokenizer.encode("fox")
    assert prompts.encode(["fox", ""]) == [[bos, *plain], [bos]]
    found = prompts.encode(["<s>fox", "a</s>"])
    assert found[0][0] == bos
    assert found[0].count(bos) == 1
    assert found[1][-1] == prompts.tokenizer.eos_id  # a control token of a template, not its text


def test_without_begin_of_text_an_empty_prompt_has_one_token(tmp_path: Path) -> None:
    prompts = Prompts(pico_tokenizer(tmp_path))
    assert prompts.encode(["", "a"]) == [[prompts.tokenizer.eos_id], prompts.tokenizer.encode("a")]


def test_chat_template(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "m")
    assert Prompts(tmp_path / "m").chat([{"role": "user", "content": "hi"}]) is None
    path = tmp_path / "m" / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"chat_template": TEMPLATE}))
    prompts = Prompts(tmp_path / "m")
    text = prompts.chat([{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}])
    assert text == "<s>[system]s[user]hi[assistant]"
    assert prompts.encode([text])[0].count(prompts.tokenizer.bos_id or -1) == 1
    dated = "\n {% macro m() %}{{ strftime_now('%d %b %Y') }}{% endmacro %}{{ m() }}"
    path.write_text(json.dumps(config | {"chat_template": dated}))
    assert Prompts(tmp_path / "m").chat([{"role": "user", "content": "hi"}]) == "\n26 Jul 2024"
    refusing = "{{ raise_exception('no system here') }}"
    path.write_text(json.dumps(config | {"chat_template": refusing}))
    with pytest.raises(UserError, match=r"refuses the conversation \(no system here\)"):
        Prompts(tmp_path / "m").chat([{"role": "user", "content": "hi"}])


def test_identity_is_the_content(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "m")
    first = transformers(str(folder)).identity
    assert transformers(str(tmp_path / "m")).identity == first
    assert transformers(str(folder), dtype="bfloat16").identity != first
    assert transformers(str(folder), batch_size=1).identity == first
    (tmp_path / "m" / "README.md").write_text("words")
    assert transformers(str(tmp_path / "m")).identity == first
    (tmp_path / "m" / "chat_template.jinja").write_text(TEMPLATE)
    assert transformers(str(tmp_path / "m")).identity != first


def test_end_tokens_of_the_generation_config(folder: Path, tmp_path: Path) -> None:
    """A model may name several; its other settings (a penalty) bend nothing."""
    request = Request("The", 9)
    prompts = Prompts(folder)
    own: Any = transformers(str(folder))
    ids = prompts.encode(["The"])[0]
    made = greedy_ids(own.model, ids, 5)
    shutil.copytree(folder, tmp_path / "m")
    ends = {"eos_token_id": [prompts.tokenizer.eos_id, made[3]], "repetition_penalty": 9.0}
    (tmp_path / "m" / "generation_config.json").write_text(json.dumps(ends))
    stop = made.index(made[3])
    found = ask(transformers(str(tmp_path / "m")), [request])
    assert found == [Written(prompts.decode(made[:stop]), stop, True)]
    assert ask(own, [request])[0].num_tokens > stop


def test_precision_and_what_is_refused(folder: Path, tmp_path: Path) -> None:
    half: Any = transformers(str(folder), dtype="bfloat16")
    assert half.model.dtype == torch.bfloat16
    # As transformers loads it: weights are rounded, the frequencies of positions are not.
    theirs: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    ids = torch.tensor([half.prompts.encode(["The quick brown fox " * 4])[0]])
    assert torch.equal(half.model(ids).logits, theirs.eval()(ids).logits)
    assert {buffer.dtype for buffer in half.model.buffers()} == {torch.float32}
    one, wanted = (
        likelihoods(half, [Query("The", " fox")])[0],
        likelihoods(transformers(str(folder)), [Query("The", " fox")])[0],
    )
    assert one.nats == pytest.approx(wanted.nats, rel=0.05)
    with pytest.raises(UserError, match="at most 128"):
        likelihoods(half, [Query("1" * 200, "2")])
    with pytest.raises(UserError, match=r"config\.json: no such file"):
        transformers(str(tmp_path))
    assert network_and_tokenizer(half)[0] is half.model
    with pytest.raises(UserError, match="the transformers backend"):
        network_and_tokenizer(_Other())


def test_a_closed_backend_holds_no_network(folder: Path) -> None:
    backend: Any = transformers(str(folder))
    weights = weakref.ref(backend.model.get_input_embeddings().weight)
    backend.close()
    assert weights() is None


class _Other:
    identity, context = "", 1

    def chat(self, messages: Any) -> None: ...
    def num_tokens(self, texts: Any) -> Any: ...
    def write(self, requests: Any, done: Any, label: Any) -> None: ...
    def likelihood(self, queries: Any, done: Any, label: Any) -> None: ...
    def close(self) -> None: ...


def test_overwritten_weights_answer_anew(folder: Path) -> None:
    """A search changes the tensors in place: nothing of the old ones may be remembered."""
    model: Any = transformers(str(folder))
    requests = [Request(prompt, 9) for prompt in PROMPTS]
    first = ask(model, requests)
    with torch.no_grad():
        for name, tensor in model.model.state_dict().items():
            if "proj" in name:
                tensor.copy_(tensor.flip(0))
    changed = ask(model, requests)
    fresh = NetworkBackend(model.model, folder, identity="y")
    assert changed == ask(fresh, requests)
    assert [one.text for one in changed] != [one.text for one in first]


def test_the_example_of_the_docs() -> None:
    """docs/add-a-backend.md keeps the promises that all backends make."""
    from tests.contracts import test_backend as contract
    from tests.pages import ROOT, fences

    inside: dict[str, Any] = {"__name__": "docs_parrot"}
    exec(fences(ROOT / "docs" / "add-a-backend.md", "python")[0], inside)
    backend = inside["parrot"]("m", shout=True)
    contract.test_is_a_backend(backend)
    contract.test_writes_within_budget_and_the_same_again(backend)
    assert ask(backend, [Request("one two three", 2)]) == [Written("TWO THREE", 2, True)]
    with pytest.raises(UserError, match="knows no likelihoods"):
        likelihoods(backend, [Query("a", "b")])
