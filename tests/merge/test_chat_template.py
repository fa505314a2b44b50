"""Chat templates of merges: the named formats letter by letter, and the vote."""

import json
from pathlib import Path
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from smelt.core.errors import UserError
from smelt.merge.vocab.chat_template import TEMPLATES, template_of, template_text

SYSTEM = {"role": "system", "content": "SYS"}
TURNS = [
    {"role": "user", "content": "Q"},
    {"role": "assistant", "content": "A"},
    {"role": "user", "content": "R"},
]
HEADS = "<|start_header_id|>{}<|end_header_id|>\n\n{}"
EXPECTED = {
    "alpaca": (
        "SYS\n\n### Instruction:\nQ\n\n### Response:\nA\n\n### Instruction:\nR",
        "\n\n### Response:\n",
    ),
    "chatml": (
        "<|im_start|>system\nSYS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n"
        "<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nR<|im_end|>\n",
        "<|im_start|>assistant\n",
    ),
    "exaone": (
        "[|system|]SYS[|endofturn|]\n[|user|]Q\n[|assistant|]A[|endofturn|]\n[|user|]R\n",
        "[|assistant|]",
    ),
    "llama3": (
        "<s>" + HEADS.format("system", "SYS<|eot_id|>") + HEADS.format("user", "Q<|eot_id|>")
        + HEADS.format("assistant", "A<|eot_id|>") + HEADS.format("user", "R<|eot_id|>"),
        HEADS.format("assistant", ""),
    ),
    "mistral": ("<s> [INST] SYS\n\nQ [/INST] A</s> [INST] R [/INST]", ""),
}  # fmt: skip


class RefusedError(Exception):
    pass


def refuse(message: str) -> None:
    raise RefusedError(message)


def render(text: str, messages: list[dict[str, str]], *, trim: bool, prompt: bool) -> str:
    environment = ImmutableSandboxedEnvironment(trim_blocks=trim, lstrip_blocks=trim)
    environment.globals["raise_exception"] = refuse
    named: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>"}
    return environment.from_string(text).render(
        messages=messages, add_generation_prompt=prompt, **named
    )


@pytest.mark.parametrize("trim", [True, False])
@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_named_templates_write_their_format(name: str, trim: bool) -> None:
    text = template_text(name, [], "m.yml")
    assert text is not None
    whole, answer = EXPECTED[name]
    assert render(text, [SYSTEM, *TURNS], trim=trim, prompt=False) == whole
    assert render(text, [SYSTEM, *TURNS], trim=trim, prompt=True) == whole + answer
    alone = render(text, TURNS, trim=trim, prompt=True)
    if name == "exaone":
        assert alone == whole.replace("SYS", "") + answer  # it always has a system turn
    else:
        assert "SYS" not in alone
        assert alone.startswith(("<s>", "###", "<|im_start|>user"))
        assert alone.endswith(whole[-4:] + answer)


@pytest.mark.parametrize(
    "messages", [TURNS[1:], [TURNS[0], TURNS[0]], [*TURNS[:2], {"role": "tool", "content": "x"}]]
)
def test_mistral_refuses_turns_out_of_order(messages: list[dict[str, str]]) -> None:
    with pytest.raises(RefusedError, match="take turns"):
        render(TEMPLATES["mistral"], messages, trim=True, prompt=False)


def tokenizer(folder: Path, template: object) -> Path:
    folder.mkdir()
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return folder


def test_auto_takes_what_most_models_have_and_the_first_at_a_tie(tmp_path: Path) -> None:
    base = tokenizer(tmp_path / "base", None)
    one = tokenizer(tmp_path / "one", "{{ 1 }}")
    two = tokenizer(tmp_path / "two", [{"name": "default", "template": " {{ 2 }}\n"}])
    three = tokenizer(tmp_path / "three", "{{ overruled }}")
    (three / "chat_template.jinja").write_text("{{ 2 }}")
    assert template_text("auto", [base, one, two, three], "m.yml") == "{{ 2 }}"
    assert template_text("auto", [base, one, two], "m.yml") == "{{ 1 }}"
    assert template_text("auto", [base], "m.yml") is None
    assert template_text(None, [one], "m.yml") is None


def test_where_templates_are_found(tmp_path: Path) -> None:
    assert template_of(tokenizer(tmp_path / "a", {"default": "d", "rag": "r"})) == "d"
    assert template_of(tokenizer(tmp_path / "b", [{"name": "rag", "template": "r"}])) is None
    only = tokenizer(tmp_path / "c", None)
    (only / "chat_template.json").write_text('{"chat_template": "{{ j }}"}')
    assert template_of(only) == "{{ j }}"


def test_jinja_text_is_taken_as_it_is_and_other_words_are_refused() -> None:
    assert template_text("{% if x %}\n{% endif %}", [], "m.yml") == "{% if x %}\n{% endif %}"
    with pytest.raises(UserError, match=r"m.yml: chat_template: found 'chatlm'.*'chatml'"):
        template_text("chatlm", [], "m.yml")
