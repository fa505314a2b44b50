"""The chat template of a merge: what the recipe names, writes out, or lets the models vote on."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from smelt.checkpoint.reader import read_optional_json
from smelt.core.errors import UserError, nearest

# Every tag trims the blanks around it, so the text says the same with any blank settings of Jinja.
ALPACA = r"""
{%- for message in messages -%}
{%- if not loop.first -%}{{- '\n\n' -}}{%- endif -%}
{%- set content = message['content'] | trim -%}
{%- if message['role'] == 'system' -%}{{- content -}}
{%- elif message['role'] == 'user' -%}{{- '### Instruction:\n' + content -}}
{%- elif message['role'] == 'user_context' -%}{{- '### Input:\n' + content -}}
{%- elif message['role'] == 'assistant' -%}{{- '### Response:\n' + content -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt and messages[-1]['role'] != 'assistant' -%}
{{- '\n\n### Response:\n' -}}
{%- endif -%}
"""

CHATML = r"""
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
"""

EXAONE = r"""
{%- if messages[0]['role'] != 'system' -%}{{- '[|system|][|endofturn|]\n' -}}{%- endif -%}
{%- for message in messages -%}
{{- '[|' + message['role'] + '|]' + message['content'] -}}
{{- '\n' if message['role'] == 'user' else '[|endofturn|]\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '[|assistant|]' -}}{%- endif -%}
"""

LLAMA3 = r"""
{{- bos_token -}}
{%- for message in messages -%}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' -}}
{{- message['content'] | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}
{%- endif -%}
"""

MISTRAL = r"""
{%- set begun = messages[0]['role'] == 'system' -%}
{%- set turns = messages[1:] if begun else messages -%}
{{- bos_token -}}
{%- for message in turns -%}
{%- if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') -%}
{{- raise_exception('after an optional system message, user and assistant take turns') -}}
{%- elif message['role'] == 'user' -%}
{%- set before = messages[0]['content'] + '\n\n' if begun and loop.first else '' -%}
{{- ' [INST] ' + before + message['content'] + ' [/INST]' -}}
{%- else -%}
{{- ' ' + message['content'] + eos_token -}}
{%- endif -%}
{%- endfor -%}
"""

TEMPLATES = {
    "alpaca": ALPACA,
    "chatml": CHATML,
    "exaone": EXAONE,
    "llama3": LLAMA3,
    "mistral": MISTRAL,
}


def check_template(value: str, where: str) -> None:
    """Refuse a `chat_template` that is neither `auto`, a name, nor Jinja text. Raises UserError."""
    if value != "auto" and value not in TEMPLATES and "{" not in value:
        found = "no chat template" if len(value) > 80 else f"found {value!r}"
        choices = nearest(value, ["auto", *TEMPLATES])
        raise UserError(f"{where}: chat_template", found, f"{choices}, or Jinja text")


def template_text(value: str | None, folders: Iterable[Path], where: str) -> str | None:
    """The Jinja text that a recipe's `chat_template` means; None leaves the tokenizer's own.

    folders: the merged models, base first. `auto` takes the template that most of them have; at a
    tie, that of the earliest (in mergekit chance decides). Raises UserError for other words.
    """
    if value is None:
        return None
    check_template(value, where)
    if value != "auto":
        return TEMPLATES[value].strip() if value in TEMPLATES else value
    votes = Counter(text.strip() for folder in folders if (text := template_of(folder)))
    return votes.most_common(1)[0][0] if votes else None


def template_of(folder: Path) -> str | None:
    """The (default) chat template of a tokenizer folder: its .jinja file, else its config's."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(path, f"not UTF-8 text ({error.reason})", "a Jinja template") from error
    for name in ("tokenizer_config.json", "chat_template.json"):
        found = read_optional_json(folder / name).get("chat_template")
        if isinstance(found, list):
            named = [one for one in found if isinstance(one, dict) and one.get("name") == "default"]
            found = named[0].get("template") if named else None
        elif isinstance(found, dict):
            found = found.get("default")
        if isinstance(found, str) and found:
            return found
    return None
