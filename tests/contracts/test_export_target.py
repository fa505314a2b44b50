"""Export targets: the file's logits are the source's within its tolerance, and its bytes repeat."""

import itertools
import typing
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from smelt.core import digest, registry
from smelt.export import battery, parity, runtime
from smelt.export.recipe import file_name, settings_of
from smelt.export.recipe import read as read_recipe
from smelt.export.vocabulary import read_vocabulary
from smelt.models.load import load_model
from tests.pico import pico_llama


def variants(name: str) -> list[dict[str, Any]]:
    """Every combination of the choices of a target's keywords."""
    known = registry.schema(registry.load("export-target", name))
    choices = [typing.get_args(parameter.annotation) for parameter in known]
    keys = [parameter.name for parameter in known]
    return [dict(zip(keys, values, strict=True)) for values in itertools.product(*choices)]


CASES = [(name, variant) for name in registry.names("export-target") for variant in variants(name)]


@pytest.mark.parametrize("kind", ["byte_bpe", "sentencepiece_bpe"])
@pytest.mark.parametrize(("name", "variant"), CASES)
def test_parity_and_bytes(name: str, variant: dict[str, Any], kind: str, tmp_path: Path) -> None:
    folder = pico_llama(tmp_path / "m", hidden=64, vocab=400, kind=kind)
    data = {"model": str(folder), "targets": [{"name": name, **variant}]}
    target = read_recipe(data, "test").targets[0]
    write = registry.load("export-target", name)
    path = write(folder, tmp_path / file_name(target), **settings_of(target))
    again = write(folder, tmp_path / ("again-" + file_name(target)), **settings_of(target))
    assert digest.file(path) == digest.file(again)
    model = load_model(folder)
    vocabulary = read_vocabulary(folder, model.get_input_embeddings().weight.shape[0])
    raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
    prompts = [list(raw.encode(text).ids) for text in battery.PROMPTS]
    with runtime.start(path, num_ctx=128) as running:
        assert parity.compare_tokenizer(running, folder, vocabulary) > 300
        found = parity.compare_logits(running, model, prompts, vocabulary, 16)
    assert found.positions > 50
    parity.require(found, str(variant.get("quantize", "f32")), path)


@pytest.mark.parametrize("name", registry.names("export-target"))
def test_has_a_summary_and_typed_keywords(name: str) -> None:
    assert registry.summary("export-target", name).endswith(".")
    for parameter in registry.schema(registry.load("export-target", name)):
        assert typing.get_args(parameter.annotation), f"{parameter.name} has no listed choices"
        if parameter.name == "quantize":
            assert set(typing.get_args(parameter.annotation)) <= set(parity.TOLERANCES)
