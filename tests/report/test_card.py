import yaml

from smelt.report.card import model_card

RECORD = {
    "verb": "merge",
    "smelt": "0.1.0",
    "key": "c0ffee",
    "seed": 3,
    "method": "ties",
    "recipe": {"merge_method": "ties", "models": [{"model": "../math", "weight": 0.5}]},
    "inputs": {
        "math": {"path": "../math", "sha256": "aa11", "key": "k1"},
        "base": {"path": "../base", "sha256": "bb22", "key": None},
        "data": {"path": "../data/train.jsonl", "sha256": "dd44", "key": None},
    },
    "warnings": ["norms | differ"],
    "metrics": {"final_loss": 0.125, "steps": 10},
}


def front(text: str) -> dict[str, object]:
    loaded = yaml.safe_load(text.split("---")[1])
    assert isinstance(loaded, dict)
    return loaded


def test_front_matter_lists_models_and_not_data() -> None:
    assert front(model_card(RECORD)) == {
        "base_model": ["base", "math"],
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["merge", "smelt"],
    }


def test_content() -> None:
    text = model_card(RECORD, "| model | math |\n|---|--:|\n| x | 0.5 |")
    assert "`smelt merge` with method `ties`" in text
    assert "| math | math | k1 | aa11 |" in text
    assert "| base | base | - | bb22 |" in text
    assert "| metrics.final_loss | 0.125 |" in text
    assert "- norms \\| differ" in text
    assert "| x | 0.5 |" in text
    block = text.split("```yaml\n")[1].split("\n```")[0]
    assert yaml.safe_load(block) == RECORD["recipe"]
    assert "AutoModelForCausalLM.from_pretrained" in text


def test_same_card_for_the_same_record_in_any_order() -> None:
    turned = dict(reversed(RECORD.items()))
    turned["inputs"] = dict(reversed(RECORD["inputs"].items()))  # type: ignore[attr-defined]
    assert model_card(turned) == model_card(RECORD)


def test_a_recipe_with_a_fence_stays_in_its_block() -> None:
    text = model_card({**RECORD, "recipe": {"template": "```\n# not a heading\n````"}})
    assert "\n`````yaml\n" in text


def test_little_record() -> None:
    text = model_card({"verb": "train", "recipe": {}, "inputs": {}})
    assert "base_model" not in front(text)
    assert "## Metrics" not in text
    assert "## Parents" not in text


def test_the_name_of_a_recipe_is_the_title() -> None:
    named = {**RECORD, "recipe": {"name": "pico | <maths>"}}
    assert "\n# pico \\| &lt;maths>\n" in model_card(named)
    assert "\n# base, math: merge result\n" in model_card(RECORD)
    assert "\n# base, math: merge result\n" in model_card({**RECORD, "recipe": {"name": " "}})
