"""`smelt search`: from a merge recipe with marks to the best merge, and again from there."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from smelt.checkpoint.reader import Checkpoint
from smelt.checkpoint.tokenizer import open_tokenizer
from smelt.core import digest
from smelt.core.errors import UserError
from smelt.core.run import read_record
from smelt.data.document import write_jsonl
from smelt.evals.candidates import Candidates, prepare_sides
from smelt.merge.apply import InMemory
from smelt.models.fitness import Network, RowFitness
from smelt.models.load import load_model, network_of, save_model
from smelt.search.prepare import prepare
from smelt.verbs import merge
from smelt.verbs.search import check, execute
from tests.adapters import floats, write_adapter
from tests.merge.test_whole_models import VISION, folder, language_model, tower
from tests.train.rows import pair
from tests.verbs.searches import make_models, recipe, value


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp("search"))


@pytest.mark.parametrize("layer_groups", [1, "all"])
def test_best_yaml_merges_to_the_same_bytes(home: Path, layer_groups: Any) -> None:
    execute(recipe(layer_groups), home / "out", where="r")
    best = yaml.safe_load((home / "out/best.yaml").read_text())
    assert "search" not in str(best)
    merge.execute(best, home / "again", where="best.yaml")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert digest.file(home / "out" / name) == digest.file(home / "again" / name)
    facts = read_record(home / "out")
    assert facts["best_recipe"] == best
    assert facts["method"] == "task_arithmetic"
    assert str(home) not in (home / "out/run.json").read_text()
    # The checkpoint on disk scores what the search saw in memory.
    assert value(home / "out") == pytest.approx(facts["fitness"]["best"], abs=1e-6)
    journal = [json.loads(row) for row in (home / "out/journal.jsonl").read_text().splitlines()]
    assert max(row["fitness"] for row in journal) == facts["fitness"]["best"]
    assert journal[0]["fitness"] == facts["fitness"]["start"]
    assert len(journal) == facts["fitness"]["evaluations"] <= 12
    assert facts["coefficients"]["rows"] == ["weight of math", "lambda"]
    columns = ["all"] if layer_groups == 1 else ["layer 0", "layer 1", "layer 2", "other"]
    assert facts["coefficients"]["columns"] == columns
    assert [len(row) for row in facts["coefficients"]["values"]] == [len(columns)] * 2


def test_the_start_is_the_plain_merge(home: Path) -> None:
    execute(recipe(evaluations=1), home / "out", where="r")
    plain = recipe()
    del plain["search"], plain["parameters"]
    merge.execute(plain, home / "plain", where="p")
    one, other = (load_model(home / name).state_dict() for name in ("out", "plain"))
    assert all(torch.allclose(one[name], other[name], rtol=0, atol=1e-6) for name in one)


def test_a_warm_start_begins_at_the_best_of_another_search(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(recipe(), home / "global", where="r")
    layered = recipe("all", warm_start=str(home / "global"), evaluations=2)
    execute(layered, home / "layered", where="r")
    best = read_record(home / "global")["fitness"]["best"]
    assert read_record(home / "layered")["fitness"]["start"] == pytest.approx(best, abs=1e-6)
    values = read_record(home / "global")["coefficients"]["values"]
    ready = prepare(layered, "r")
    genome, genes = ready.start(), ready.spaces[0].genes
    found = [[genes[g].value(genome[4 * g + n]) for n in range(4)] for g in range(2)]
    assert found == [pytest.approx([row[0]] * 4, abs=1e-5) for row in values]
    assert "warm_start" in read_record(home / "layered")["inputs"]


def test_a_warm_start_of_other_models_is_refused(home: Path) -> None:
    execute(recipe(), home / "global", where="r")
    data = recipe(warm_start="global")
    data["models"].reverse()
    with pytest.raises(UserError, match=r"warm_start: .*merges other models"):
        execute(data, home / "out", where="r")
    with pytest.raises(UserError, match="warm_start: no such recipe: nowhere"):
        execute(recipe(warm_start="nowhere"), home / "out", where="r")


def test_best_yaml_works_beside_the_result_and_fails_clearly_elsewhere(
    home: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(recipe(), home / "out", where="r")
    merge.merge("out/best.yaml", Path("again"))
    assert digest.file(home / "again/model.safetensors") == digest.file(
        home / "out/model.safetensors"
    )
    assert "cd THAT_FOLDER" in (home / "out/best.yaml").read_text()
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(UserError, match="base: no such folder"):
        merge.merge(str(home / "out/best.yaml"), Path("again"))
    assert not os.listdir(".")


def test_a_killed_search_ends_with_the_same_bytes(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(recipe("all"), home / "whole", where="r")
    call, calls = RowFitness.__call__, 0

    def killed(self: RowFitness, items: list[int]) -> tuple[list[float], list[float]]:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return call(self, items)

    monkeypatch.setattr(RowFitness, "__call__", killed)
    with pytest.raises(KeyboardInterrupt):
        execute(recipe("all"), home / "cut", where="r")
    assert not (home / "cut").exists()
    execute(recipe("all"), home / "cut", where="r")
    found = read_record(home / "cut")["fitness"]["evaluations"]
    # Five were replayed, the sixth was asked twice; in the end start and best once more.
    assert calls == found + 1 + 2
    assert digest.files(home / "cut") == digest.files(home / "whole")


def test_check_tells_the_size_of_the_space(home: Path) -> None:
    lines = check(recipe("all"), where="r")
    assert lines == [
        "2 parameters x 4 groups = 8 genes, 12 candidates by cma_es",
        "each scored on 13 items of sum, rev (likelihood)",
    ]


BAD = [
    ({"evaluations": 0}, r"search: evaluations: found 0"),
    ({"layer_groups": [1, 3], "evaluations": 1}, r"evaluations: 1 for 2 stages"),
    ({"algorithm": "cma"}, r"search-algorithm 'cma': no such plug-in. Expected 'cma_es'"),
    ({"options": {"sigmas": 1}}, r"search.options.sigmas: unknown key. Expected 'sigma'"),
    ({"options": {"sigma": 3.0}}, r"options.sigma: found 3.0"),
    ({"layer_groups": 4}, r"layer_groups: found 4. Expected at most 3"),
    ({"layer_groups": 0}, r"search: layer_groups"),
    ({"fitness": {"data": "no.jsonl", "domains": {"sum": 1.0}}}, "no such file: no.jsonl"),
    ({"fitness": {"data": "fitness.jsonl", "domains": {"x": 1.0}}}, "no pairs of domain 'x'"),
    ({"fitness": {"data": "fitness.jsonl", "domains": {"sum": 0.0}}}, "found 0.0"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_bad_recipes(home: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        execute(recipe(**changes), home / "out", where="r")
    assert not (home / "out").exists()


def test_the_network_of_a_config_scores_as_the_loaded_one(home: Path) -> None:
    ready = prepare(recipe(), "r")
    memory = InMemory(ready.recipe, "r")
    tokenizer = open_tokenizer(home / "base")
    merged = memory.merge()
    network = network_of(memory.plan.config, memory.names, torch.device("cpu"))
    weights = {"sum": 2.0, "rev": 1.0}
    scores = []
    for model in (network, load_model(home / "base")):
        Network(model).take(merged)
        fitness = RowFitness(model, tokenizer, ready.fitness_rows, weights, "likelihood")
        scores.append(fitness(list(range(13))))
    assert scores[0] == scores[1]
    names = [name for name in memory.names if name != "model.norm.weight"]
    with pytest.raises(UserError, match=r"config.json: tensors missing: model.norm.weight"):
        network_of(memory.plan.config, names, torch.device("cpu"))


def test_fitness_of_a_tied_base_with_untied_experts_is_that_of_the_result(home: Path) -> None:
    for name in ("math", "code"):
        model = load_model(home / name)
        head = torch.randn(model.lm_head.weight.shape, generator=torch.Generator().manual_seed(3))
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(0.2 * head)
        save_model(model, home / "base", home / name)
    execute(recipe(evaluations=3), home / "out", where="r")
    assert json.loads((home / "out/config.json").read_text())["tie_word_embeddings"] is False
    written = load_model(home / "out")
    assert not torch.equal(written.lm_head.weight, written.get_input_embeddings().weight)
    assert value(home / "out") == pytest.approx(
        read_record(home / "out")["fitness"]["best"], abs=1e-6
    )


def test_workers_have_a_gpu_each_and_none_by_number(home: Path) -> None:
    with pytest.raises(UserError, match="--device: 'cuda:1' for several workers"):
        execute(recipe(workers=2), home / "out", where="r", device="cuda:1")


def test_candidates_are_scored_in_the_precision_of_the_recipe(home: Path) -> None:
    found = {}
    for dtype in ("float32", "bfloat16"):
        data = recipe()
        data["search"]["fitness"]["dtype"] = dtype
        one = Candidates(prepare_sides(data, "r"), "r", "cpu")
        assert {p.dtype for p in one.network.model.parameters()} == {getattr(torch, dtype)}
        genome = one.space.size * [0.5]
        found[dtype] = one(genome, list(range(13)))[0]
    assert found["float32"] != found["bfloat16"]
    assert found["float32"] == pytest.approx(found["bfloat16"], rel=0.05)


def test_a_start_that_fails_is_no_end(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_jsonl(home / "test.jsonl", [pair("9+9=", "18.")])
    become, start = Candidates.become, prepare(recipe(), "r").start()

    def refused(self: Candidates, genome: list[float]) -> float:
        if genome == start:
            raise UserError("r: norm", "the merge overflows float16", "less")
        return become(self, genome)

    monkeypatch.setattr(Candidates, "become", refused)
    execute(recipe(), home / "out", where="r")
    facts = read_record(home / "out")
    assert facts["fitness"]["start"] is None
    assert "the start failed" in facts["honesty"]["warning"]
    assert [set(row) for row in facts["honesty"]["rows"]] == [
        {"name", "best_fitness", "best_test"}, {"name", "best_fitness"}
    ]  # fmt: skip


def test_test_rows_that_cannot_be_asked_are_told_before_the_search(home: Path) -> None:
    write_jsonl(home / "test.jsonl", [pair("9+9=", "8" * 5000)])
    with pytest.raises(UserError, match=r"a row of \d+ tokens"):
        execute(recipe(), home / "out", where="r")
    assert not (home / "out.partial/journal.jsonl").exists()


def test_hub_names_are_inputs_by_their_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smelt.checkpoint.reader._from_hub", lambda name, revision: home / "math")
    data = recipe()
    data["models"][0]["model"] = "org/math"
    inputs = prepare(data, "r").inputs
    assert inputs == {"base": str(home / "base"), "expert-1": str(home / "math"),
                      "expert-2": str(home / "code"), "fitness": "fitness.jsonl"}  # fmt: skip


UP = "model.layers.1.mlp.up_proj"


def _adapter(home: Path) -> Path:
    rows, columns = Checkpoint.open(home / "base").spec(f"{UP}.weight").shape
    factors = {
        f"{UP}.lora_A.weight": floats(4, columns, seed=1),
        f"{UP}.lora_B.weight": floats(rows, 4, seed=2),
    }
    return write_adapter(home / "lora", factors)


@pytest.mark.parametrize("form", ["base+lora", {"model": "base", "lora": {"path": "lora"}}])
def test_an_adapter_is_searched_like_any_expert(home: Path, form: Any) -> None:
    _adapter(home)
    data = recipe(evaluations=3)
    data["models"][0]["model"] = form
    execute(data, home / "out", where="r")
    facts = read_record(home / "out")
    assert set(facts["inputs"]) == {"base", "expert-1", "expert-1-lora", "expert-2", "fitness"}
    assert facts["coefficients"]["rows"] == ["weight of base+lora", "lambda"]
    assert str(home) not in (home / "out/run.json").read_text()
    best = yaml.safe_load((home / "out/best.yaml").read_text())
    assert best["models"][0]["model"] == {"model": {"path": "base"}, "lora": {"path": "lora"}}
    merge.execute(best, home / "again", where="best.yaml")
    written = digest.file(home / "out/model.safetensors")
    assert written == digest.file(home / "again/model.safetensors")
    assert written != digest.file(home / "base/model.safetensors")
    warm = recipe(evaluations=1, warm_start="out")
    warm["models"][0]["model"] = form
    execute(warm, home / "warm", where="r")
    start = read_record(home / "warm")["fitness"]["start"]
    assert start == pytest.approx(facts["fitness"]["best"], abs=1e-6)


def test_a_warm_start_with_another_adapter_is_refused(home: Path) -> None:
    _adapter(home).rename(home / "one")
    _adapter(home).rename(home / "two")
    data = recipe(evaluations=1)
    data["models"][0]["model"] = "base+one"
    execute(data, home / "global", where="r")
    data = recipe(warm_start="global")
    data["models"][0]["model"] = "base+two"
    with pytest.raises(UserError, match=r"warm_start: .*merges other models"):
        execute(data, home / "out", where="r")


def test_a_model_at_a_revision_is_read_from_the_folder_of_that_revision(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def hub(name: str, revision: str | None) -> Path:
        asked.append((name, revision))
        return home / "math"

    monkeypatch.setattr("smelt.checkpoint.reader._from_hub", hub)
    data = recipe(evaluations=1)
    data["models"][0]["model"] = {"model": {"path": "org/math", "revision": "v2"}}
    execute(data, home / "out", where="r")
    assert set(asked) == {("org/math", "v2")}
    facts = read_record(home / "out")
    assert facts["inputs"]["expert-1"]["path"] == "math"
    assert facts["best_recipe"]["models"][0]["model"] == data["models"][0]["model"]


def _other_words(path: Path) -> None:
    data = json.loads(path.read_text())
    vocab = data["model"]["vocab"]
    last = max(vocab, key=vocab.__getitem__)
    data["model"]["vocab"] = {"word-of-code" if t == last else t: n for t, n in vocab.items()}
    data["model"]["merges"] = [
        pair for pair in data["model"]["merges"]
        if "".join(pair if isinstance(pair, list) else pair.split(" ")) != last
    ]  # fmt: skip
    path.write_text(json.dumps(data))


@pytest.mark.parametrize("keys", [{"tokenizer_source": "union"}, {"tokenizer": {"source": "code"}}])
def test_a_tokenizer_that_the_candidates_would_not_be_scored_with_is_refused(
    home: Path, keys: dict[str, Any]
) -> None:
    same = prepare({**recipe(), **keys}, "r")
    assert same.plan.vocabulary is not None, "one vocabulary, by whatever name"
    _other_words(home / "code/tokenizer.json")
    key = next(iter(keys))
    with pytest.raises(UserError, match=rf"r: {key}: a tokenizer that is not.*Next: smelt merge"):
        execute({**recipe(), **keys}, home / "out", where="r")
    base = prepare({**recipe(), "tokenizer_source": "base"}, "r")
    assert any(item.rows is not None for item in base.plan.tensors), "rows of code move to base's"


def test_what_a_merge_keeps_of_a_vision_model_is_not_searched(home: Path) -> None:
    folder(home / "vlm", language_model("model.language_model.", 0) | tower(100), **VISION)
    folder(home / "llm", language_model("model.", 60), model_type="qwen2", hidden_size=4)
    data = recipe("all") | {"base_model": "vlm", "models": [{"model": "llm"}]}
    ready = prepare(data, "r")
    copied = {item.entry.name for item in ready.plan.tensors if item.copied}
    assert copied == set(tower(0))
    assert not copied & {name for group in ready.spaces[0].groups for name in group.tensors}
    genome = [0.5] * ready.spaces[0].size
    for item in ready.plan.tensors:
        found = ready.spaces[0].parameters(genome, item.entry.name, item.values, ["llm"])
        new = {} if item.copied else {"weight": [0.75], "lambda_": 1.0}
        assert found == {**item.values, **new}


def test_a_vision_model_is_merged_in_memory_as_in_a_folder(home: Path) -> None:
    folder(home / "vlm", language_model("model.language_model.", 0) | tower(100), **VISION)
    folder(home / "llm", language_model("model.", 60), model_type="qwen2", hidden_size=4)
    data = recipe("all") | {"base_model": "vlm"}
    data["models"] = [{"model": "llm", "parameters": {"weight": 0.3}}]
    ready = prepare(data, "r")
    memory = InMemory(ready.recipe, "r")
    assert memory.experts == ["llm"]
    genome = ready.start()
    plain = {name: memory.values(name) for name in memory.names}
    made = memory.merge(lambda n: ready.spaces[0].parameters(genome, n, plain[n], memory.experts))
    merge.execute(ready.spaces[0].recipe(genome), home / "out", where="r", smoke=False)
    written = Checkpoint.open(home / "out")
    assert sorted(made) == written.names()
    assert all(torch.equal(made[name], written.read(name)) for name in made)
