"""The recipes that both tools merge, and every deliberate difference between them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.merge.parity_models import CHAT, LAYERS, VARIANTS

HOME = "f32-untied-one"
FLAT, SPHERICAL = 1e-5, 1e-3

# What differs on purpose: topic -> (mergekit 0.1.5, smelt, how the tests treat it).
DIFFERENCES = {
    "equal magnitudes": (
        "an arbitrary subset of the elements that equal a threshold survives",
        "all survive (ties, breadcrumbs, sce)",
        "elements at a threshold, and where votes cancel to rounding, are not compared; "
        "at most an eighth of a model; it also moves the energy weights of sce, which is compared "
        "with the formula where 16-bit inputs make variances equal",
    ),
    "rule of dare, della": (
        "survivors are scaled to keep the sum of magnitudes",
        "divided by the keep probability, as published",
        "our recipe says `rule: mergekit`",
    ),
    "random numbers": (
        "one generator, drawn in the order of execution",
        "counter-based: seed, input, tensor, element",
        "share kept, sum of magnitudes and direction are compared, not elements",
    ),
    "rule of sce": (
        "equal weights where the summed mean square is below 1e-6",
        "weights follow the energy, as published",
        "our recipe says `rule: mergekit`",
    ),
    "arcee_fusion": (
        "softmax and divergence in the type of the merge: in float32 they are rounding noise",
        "in float64 always",
        "compared in float64 only",
    ),
    "base_model of linear, karcher": (
        "a base_model that is not listed is one more input",
        "gives config and tokenizer only",
        "ours equals mergekit's without the line, and not mergekit's with it",
    ),
    "tied base, untied expert": (
        "a separate head under a config that says tied",
        "the head is merged too and the config says untied",
        "asserted",
    ),
    "order of a union": (
        "tokens beyond the base's are added model by model in the order of a Python set: by chance",
        "in the order of the recipe",
        "rows are compared token by token",
    ),
    "token that no model of a tensor has": (
        "a row of zeros",
        "the row of the recipe's other models",
        "asserted",
    ),
    "chat templates by name": (
        "its own text",
        "its own text",
        "what they render is compared",
    ),
    "ramplus_tl": (
        "the ratio of counts is a float32; `dtype: bfloat16` gives a float32 file",
        "float64; the type that the recipe names",
        "1e-6 in float64 instead of 1e-12",
    ),
    "generation_config.json": (
        "lost when there is a tokenizer section",
        "kept",
        "asserted",
    ),
    "modules left out": (
        "their tensors are missing from the result",
        "they are the base's",
        "asserted",
    ),
    "bfloat16": (
        "arithmetic in bfloat16, except linear and slerp",
        "float32 or better, rounded once",
        "both against the rounded float64 formula: ours 98.5 % equal, never below mergekit",
    ),
}


@dataclass(frozen=True)
class Method:
    """What each expert gets, what the merge gets, and what only our copy of the recipe says."""

    each: dict[str, Any] = field(default_factory=dict)
    whole: dict[str, Any] = field(default_factory=dict)
    ours: dict[str, Any] = field(default_factory=dict)
    experts: int = 3
    base: bool = True
    listed: bool = False
    tolerance: float = FLAT


MERGEKIT = {"rule": "mergekit"}
W, D = {"weight": 0.4}, {"weight": 0.4, "density": 0.5}
BAND, RANKS = {"weight": 0.4, "density": 0.9, "gamma": 0.01}, D | {"epsilon": 0.1}
METHODS = {
    "linear": Method(W, base=False),
    "task_arithmetic": Method(W),
    "slerp": Method(whole={"t": 0.4}, experts=1, listed=True, tolerance=SPHERICAL),
    "nuslerp": Method(W, experts=2, tolerance=SPHERICAL),
    "multislerp": Method(W, tolerance=SPHERICAL),
    "karcher": Method(base=False, tolerance=SPHERICAL),
    "model_stock": Method(tolerance=SPHERICAL),
    "ties": Method(D),
    "breadcrumbs": Method(BAND),
    "breadcrumbs_ties": Method(BAND),
    "sce": Method(whole={"select_topk": 0.5}, ours=MERGEKIT),
    "ram": Method(),
    "ramplus_tl": Method(),
    "nearswap": Method(whole={"t": 0.0005}, experts=1, listed=True),
    "arcee_fusion": Method(experts=1, listed=True),
    "passthrough": Method({"scale": 1.25}, experts=1, base=False),
    "dare_linear": Method(D, ours=MERGEKIT),
    "dare_ties": Method(D, ours=MERGEKIT),
    "della": Method(RANKS, ours=MERGEKIT),
    "della_linear": Method(RANKS, ours=MERGEKIT),
}
RANDOM = [name for name in METHODS if name.startswith(("dare", "della"))]
EXPERTS = ["e1", "e2", "e3"]


@dataclass(frozen=True)
class Case:
    """One recipe (model names without their folder), and what its comparison needs to know."""

    recipe: dict[str, Any]
    family: str = HOME
    ours: dict[str, Any] = field(default_factory=dict)
    tolerance: float = FLAT
    shard: int = 10**10
    method: str = ""


def of_method(name: str, family: str, dtype: str) -> Case:
    """The plain recipe of a method."""
    method = METHODS[name]
    entry = {"parameters": method.each} if method.each else {}
    models: list[dict[str, Any]] = [{"model": "base"}] * method.listed
    models += [{"model": expert, **entry} for expert in EXPERTS[: method.experts]]
    recipe: dict[str, Any] = {"merge_method": name, "models": models, "dtype": dtype}
    if method.base or method.listed:
        recipe["base_model"] = "base"
    if method.whole:
        recipe["parameters"] = method.whole
    tolerance = method.tolerance
    if dtype == "float64":
        tolerance = 1e-6 if name == "ramplus_tl" else 1e-12
    shard = 300_000 if family.endswith("shards") else 10**10
    return Case(recipe, family, method.ours, tolerance, shard=shard, method=name)


def experts(*names: Any, **parameters: Any) -> list[dict[str, Any]]:
    """Model entries with the same parameters."""
    return [{"model": name, "parameters": parameters} if parameters else {"model": name}
            for name in names]  # fmt: skip


def source(model: str, first: int, end: int, **parameters: Any) -> dict[str, Any]:
    """One source of a slice."""
    found: dict[str, Any] = {"model": model, "layer_range": [first, end]}
    return found | {"parameters": parameters} if parameters else found


def arithmetic(*models: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """Task arithmetic of some models in float32."""
    return {"merge_method": "task_arithmetic", "base_model": "base", "models": [*models],
            "dtype": "float32", **keys}  # fmt: skip


def stack(method: str, *slices: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """A recipe of slices in float32."""
    return {"merge_method": method, "slices": [*slices], "dtype": "float32", **keys}


def features() -> dict[str, Case]:
    """One recipe for each feature of mergekit's format."""
    half = experts("e1", "e2", weight=0.5)
    filters = [{"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]},
               {"filter": "mlp", "value": [1, 0.5, 0.7, 0.3, 0]}, {"value": 0.5}]  # fmt: skip
    tied = [{"filter": "o_proj", "value": 0.0}, {"filter": "down_proj", "value": 0.0}, {"value": 1}]
    union: dict[str, Any] = {"tokenizer_source": "union"}
    padded = {"source": "union", "pad_to_multiple_of": 64}
    columns = {"nuslerp_flatten": False, "nuslerp_row_wise": True}
    tokens: dict[str, Any] = {
        "<|im_start|>": {"source": "e1", "force": True},
        "<tool>": {"source": {"kind": "zero"}},
        "<|im_end|>": {"source": {"kind": "model_token", "model": "e2", "token": "<|im_end|>"}},
    }
    towers = {
        "text_decoder": {"models": [{"model": "base"}, *half]},
        "multi_modal_projector": {"models": [{"model": "base"}, *experts("e1", weight=0.3)]},
        "vision_tower": {"models": [{"model": "base"}, *experts("e1", weight=[0, 1])],
                         "parameters": {"lambda": 0.5}},
    }  # fmt: skip
    free: dict[str, Any] = {
        "<|im_end|>": {"source": "e1"}, "<tool>": {"source": "e2", "force": True},
        "<new>": {"source": {"kind": "model_token", "model": "base", "token_id": 7}},
    }  # fmt: skip
    rising = [{"filter": "mlp", "value": [0, 1]}, {"value": 0.3}]
    module = {"default": {"models": [{"model": "base"}, *half]}}
    return {
        "gradient": Case(arithmetic(*experts("e1", weight=[0, 0.5, 1]),
                                    *experts("e2", weight=[1, 0]))),
        "gradient-short": Case(arithmetic(*experts("e1", weight=[0.25]))),
        "gradient-flags": Case(arithmetic(*half, parameters={"normalize": [False, True]})),
        "gradient-density": Case(
            {"merge_method": "ties", "base_model": "base", "dtype": "float32",
             "models": experts("e1", "e2", weight=0.7, density=[0.25, 0.75])}, method="ties",
        ),
        "filters": Case(
            {"merge_method": "slerp", "base_model": "base", "dtype": "float32",
             "models": experts("base", "e1"), "parameters": {"t": filters}}, tolerance=SPHERICAL,
        ),
        "filter-star": Case(arithmetic(*half, parameters={
            "lambda": [{"filter": "norm", "value": 0.2}, {"filter": "*", "value": 0.8}]})),
        "filter-single": Case(arithmetic(*half, parameters={"lambda": {"value": 0.8}})),
        "levels": Case(arithmetic(*experts("e1", weight=0.3), {"model": "e2"},
                                  parameters={"weight": 0.9, "lambda": 0.7})),
        "normalize": Case(arithmetic(*half, *experts("e3", weight=-0.25),
                                     parameters={"normalize": True})),
        "negative": Case(arithmetic(*half, *experts("e3", weight=-0.3))),
        "int8-mask": Case(
            {"merge_method": "ties", "base_model": "base", "dtype": "float32",
             "models": experts("e1", "e2", weight=0.7, density=0.5),
             "parameters": {"int8_mask": True, "normalize": False, "lambda": 0.6}},
            method="ties",
        ),
        "base-listed": Case(arithmetic(*experts("base", weight=7), *half)),
        "sce-one": Case({"merge_method": "sce", "base_model": "base", "dtype": "float32",
                         "models": experts("e1"), "parameters": {"select_topk": 0.5}},
                        ours=MERGEKIT),
        "base-in-the-middle": Case(arithmetic(*experts("e1", weight=0.5), {"model": "base"},
                                              *experts("e2", weight=0.25))),
        "edges": Case({"merge_method": "ties", "base_model": "base", "dtype": "float32",
                       "models": [*experts("e1", weight=0, density=0.5),
                                  *experts("e2", weight=1, density=1),
                                  *experts("e3", weight=0.5, density=0.0001)]}, method="ties"),
        "one-expert": Case({"merge_method": "ties", "base_model": "base", "dtype": "float32",
                            "models": experts("e1", weight=0.3, density=0.5)}, method="ties"),
        "rescaled": Case({"merge_method": "breadcrumbs", "base_model": "base", "dtype": "float32",
                          "models": experts("e1", "e2", weight=0.5, density=0.5, gamma=0.05),
                          "parameters": {"rescale": True}}, method="breadcrumbs"),
        "slerp-ends": Case({"merge_method": "slerp", "base_model": "base", "dtype": "float32",
                            "models": experts("e1", "base"),
                            "parameters": {"t": [{"filter": "mlp", "value": 1}, {"value": 0}]}}),
        "lambda-zero": Case(arithmetic(*half, parameters={"lambda": 0})),
        "no-dtype": Case({"merge_method": "task_arithmetic", "base_model": "base",
                          "models": experts("e1", weight=0.5)}, "bf16-tied-shards"),
        "half-up": Case(arithmetic(*half, dtype="float32", out_dtype="float64"), "f16-tied-one"),
        "named": Case({"merge_method": "linear", "dtype": "float32",
                       "models": [*experts({"model": {"path": "e1"}}, weight=1),
                                  *experts({"model": {"path": "e2"}}, weight=2)]}),
        "linear-sum": Case({"merge_method": "linear", "models": half, "dtype": "float32",
                            "parameters": {"normalize": False}}),
        "nuslerp-plain": Case({"merge_method": "nuslerp", "dtype": "float32",
                               "models": [*experts("e1", weight=0.3), *experts("e2", weight=0.9)],
                               "parameters": {"nuslerp_flatten": False}}, tolerance=SPHERICAL),
        "nuslerp-columns": Case({"merge_method": "nuslerp", "base_model": "base",
                                 "dtype": "float32", "models": half,
                                 "parameters": columns}, tolerance=SPHERICAL),
        "stock-rows": Case({"merge_method": "model_stock", "base_model": "base",
                            "dtype": "float32", "models": experts("e1", "e2"),
                            "parameters": {"filter_wise": True}}, tolerance=SPHERICAL),
        "stacking": Case(stack("passthrough", {"sources": [source("e1", 0, 3)]},
                               {"sources": [source("e2", 1, LAYERS, scale=tied)]})),
        "stacking-tied": Case(stack("passthrough", {"sources": [source("e1", 0, 3)]},
                                    {"sources": [source("e2", 1, LAYERS)]}), "f32-tied-one"),
        "slices-slerp": Case(stack(
            "slerp", {"sources": [source("e1", 0, LAYERS), source("e2", 0, LAYERS)]},
            base_model="e1", parameters={"t": filters}), tolerance=SPHERICAL),
        "slices-unequal": Case(stack(
            "linear",
            {"sources": [source("e1", 0, 2, weight=1.0), source("e2", 1, 3, weight=[0, 1])]},
            {"sources": [source(one, 2, 4, weight=0.5) for one in ("e1", "e3")]})),
        "slices-base": Case(stack(
            "task_arithmetic",
            {"sources": [source("base", 0, 2), source("e1", 0, 2, weight=0.5)]},
            {"base_model": "e3", "sources": [source("e3", 2, 4), source("e2", 2, 4, weight=0.5)],
             "parameters": {"lambda": 0.5}}, base_model="base")),
        "slices-gradient": Case(stack(
            "slerp",
            {"sources": [source("e1", 0, 2), source("e2", 2, 4)], "parameters": {"t": [0.2, 0.8]}},
            {"sources": [source("e1", 1, 4), source("e2", 0, 3)]},
            base_model="e1", parameters={"t": rising}), tolerance=SPHERICAL),
        "slices-single": Case(stack(
            "linear", *({"sources": [source("e1", n, n + 1, weight=[0.2, 0.9]),
                                     source("e2", n, n + 1, weight=0.5)]} for n in range(LAYERS)))),
        "slices-reversed": Case(stack(
            "passthrough", *({"sources": [source("e1", n, n + 1)]} for n in (3, 1, 1, 0, 2, 3)))),
        "module": Case({"merge_method": "linear", "modules": module, "dtype": "float32",
                        "parameters": {"weight": 1.0}, "base_model": "base"}),
        "vision": Case({"merge_method": "task_arithmetic", "base_model": "base",
                        "dtype": "float32", "modules": towers}, "vision"),
        "vision-models": Case(arithmetic(*half), "vision"),
        "lora": Case(arithmetic(*experts("base+../lora", weight=0.5), *experts("e1", weight=0.5))),
        "out-bfloat16": Case(arithmetic(*half, out_dtype="bfloat16")),
        "out-float16": Case(arithmetic(*half, out_dtype="float16")),
        "shards": Case(arithmetic(*half), "bf16-untied-shards", shard=100_000),
        "union": Case(arithmetic(*half, **union), "tokens"),
        "union-linear": Case({"merge_method": "linear", "base_model": "base", "dtype": "float32",
                              "models": [*experts("base", weight=0.4), *half], **union}, "tokens"),
        "union-padded": Case(arithmetic(*half, tokenizer=padded), "tokens"),
        "tokenizer-base": Case(arithmetic(*half, tokenizer_source="base"), "tokens"),
        "tokenizer-model": Case(arithmetic(*half, tokenizer_source="e1"), "tokens"),
        "union-no-base": Case({"merge_method": "linear", "models": half, "dtype": "float32",
                               "tokenizer_source": "e2"}, "tokens"),
        "tokens-free": Case(arithmetic(*half, tokenizer={"source": "union", "tokens": free}),
                            "tokens"),
        "union-pieces": Case(arithmetic(*half, **union), "pieces"),
        "union-pieces-padded": Case(arithmetic(*half, tokenizer=padded), "pieces"),
        "tokens": Case(arithmetic(*half, tokenizer={"source": "union", "tokens": tokens}),
                       "tokens"),
        "chat-name": Case(arithmetic(*half, chat_template="chatml")),
        "chat-auto": Case(arithmetic(*half, chat_template="auto"), "chat"),
        "chat-text": Case(arithmetic(*half, chat_template=CHAT)),
    }  # fmt: skip


def cases() -> dict[str, Case]:
    """Every case by its name."""
    found = {}
    for name in METHODS:
        for family in VARIANTS if name in ("linear", "ties") else list(VARIANTS)[::3]:
            if name != "arcee_fusion":
                found[f"{name}-float32-{family}"] = of_method(name, family, "float32")
        if name not in RANDOM:
            found[f"{name}-float64"] = of_method(name, HOME, "float64")
            found[f"{name}-bfloat16"] = of_method(name, "bf16-untied-one", "bfloat16")
    return found | features()


def absolute(value: Any, home: Path) -> Any:
    """The recipe with the folder before every model name."""
    names = {"base", "tied", "untied", *EXPERTS}
    if isinstance(value, dict):
        return {key: absolute(one, home) for key, one in value.items()}
    if isinstance(value, list):
        return [absolute(one, home) for one in value]
    if isinstance(value, str) and value in names:
        return str(home / value)
    if isinstance(value, str) and "+" in value and value.split("+")[0] in names:
        model, lora = value.split("+")
        return f"{home / model}+{(home / lora).resolve()}"
    return value
