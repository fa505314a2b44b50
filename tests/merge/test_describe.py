"""What `smelt check` says of a merge: values, expected time and memory, warnings."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smelt.checkpoint.reader import Checkpoint
from smelt.checkpoint.writer import write_tensors
from smelt.merge.describe import describe, kinship
from smelt.merge.estimate import _STARTED_MB as STARTED_MB
from smelt.merge.estimate import Estimate, estimate
from smelt.merge.plan import MergePlan, plan
from smelt.merge.recipe import parse_recipe
from tests.merge.conftest import load, rewrite
from tests.pico import pico_llama


def planned(**keys: Any) -> MergePlan:
    return plan(parse_recipe(keys, "r"), "r")


def both(**keys: Any) -> MergePlan:
    return planned(base_model="base", models=[{"model": "math"}, {"model": "code"}], **keys)


def test_estimate_grows_with_the_work(models: Path) -> None:
    plain, sparse = estimate(both()), estimate(both(merge_method="swudi"))
    assert 0 < plain.seconds < sparse.seconds
    assert plain.memory_mb > 100
    assert str(Estimate(3.4, 2, 141.0)).startswith(
        "expected: about 3 CPU s on 2 threads and 150 MB"
    )


def test_every_tensor_has_a_line_with_its_values(models: Path) -> None:
    made = both(parameters={"weight": [{"filter": "mlp", "value": [0.0, 1.0]}, {"value": 0.25}]})
    lines = describe(made, every_tensor=True)
    by_name = {line.partition(":")[0]: line for line in lines}
    for item in made.tensors:
        assert item.entry.name in by_name
    assert "weight [0.5, 0.5]" in by_name["model.layers.1.mlp.up_proj.weight"]
    assert "weight [0.25, 0.25]" in by_name["model.layers.1.self_attn.q_proj.weight"]


def test_strangers_are_warned_about(models: Path, tmp_path: Path) -> None:
    pico_llama(tmp_path / "stranger", seed=99, layers=3)
    made = planned(base_model="base", models=[{"model": "math"}, {"model": "stranger"}])
    (warning,) = kinship(made)
    assert "do not seem to share a base" in warning
    assert "stranger" in warning
    assert kinship(both()) == []


def test_a_wrong_base_is_warned_about(models: Path) -> None:
    for seed in (5, 6):
        shutil.copytree("math", f"extra{seed}")
        tensors = load(Path("base"))
        import torch

        generator = torch.Generator().manual_seed(seed)
        moved = {
            n: t + 0.01 * torch.randn(t.shape, generator=generator) for n, t in tensors.items()
        }
        rewrite(Path(f"extra{seed}"), moved)
    names = ["base", "code", "extra5", "extra6"]
    made = planned(base_model="math", models=[{"model": name} for name in names])
    (warning,) = kinship(made)
    assert warning.startswith("base looks more like the base than math")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, "rope_theta differs"),
        ({"max_position_embeddings": 999}, "max_position_embeddings differs: 999 in code"),
        ({"vocab_size": 999}, "vocab_size differs: 999 in code"),
    ],
)
def test_configs_that_differ_are_warned_about(
    models: Path, change: dict[str, Any], message: str
) -> None:
    path = models / "code/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert any(line.startswith(f"warning: {message}") for line in describe(both()))


def test_types_that_differ_are_warned_about_and_do_not_widen(models: Path) -> None:
    """Hazard: mergekit writes float32, under a config that says float16."""
    import torch

    for name, kind in (("base", torch.float16), ("math", torch.float16), ("code", torch.bfloat16)):
        rewrite(models / name, {n: t.to(kind) for n, t in load(models / name).items()})
    made = both()
    assert made.dtype == "float16"
    assert any("dtype differs: float16 in base" in line for line in made.warnings)


def test_merging_and_checking_import_no_torch(models: Path) -> None:
    (models / "r.yaml").write_text(
        "merge_method: ties\nbase_model: base\nmodels: [{model: math}, {model: code}]\n"
        "parameters: {density: 0.5}\n"
    )
    for verb in (["merge", "r.yaml", "out", "--no-smoke"], ["check", "r.yaml"]):
        code = (
            "import sys; from smelt.cli import main\n"
            f"sys.argv = ['smelt', *{verb!r}]\n"
            "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
            "assert 'torch' not in sys.modules\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


Calls = list[dict[str, Any]]


def sampled(monkeypatch: pytest.MonkeyPatch, made: MergePlan) -> Calls:
    """What the estimate runs: names, shapes and statistics of its samples."""
    from smelt.merge import estimate as module

    calls: Calls = []
    real = module.merge_arrays

    def spy(method: Any, base: Any, experts: Any, values: Any, **keys: Any) -> Any:
        calls.append({"shape": experts[0].shape, "base": base, **keys})
        return real(method, base, experts, values, **keys)

    monkeypatch.setattr(module, "merge_arrays", spy)
    estimate(made)
    return calls


def test_embeddings_are_not_timed_as_decompositions(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = sampled(monkeypatch, both(merge_method="iso_c"))
    whole = {call["name"] for call in calls if call["shape"] == (256, 256)}
    blocks = {call["name"] for call in calls if call["shape"] == (256, 1024)}
    vectors = {call["name"] for call in calls if call["shape"] == (1 << 18,)}
    assert blocks == {"model.embed_tokens.weight"}
    assert len(whole) == 1
    assert all(name.endswith("_proj.weight") for name in whole)
    assert all("norm" in name for name in vectors)
    assert vectors


def write_statistics(model: str, kind: str) -> str:
    """Statistics of the attention and MLP of layer 0, as `smelt statistics` describes them."""
    from safetensors.numpy import save_file

    from smelt.checkpoint.statistics import weights_sha256

    checkpoint = Checkpoint.open(model)
    names = [name for name in checkpoint.names() if ".layers.0." in name and "_proj" in name]
    shapes = {name: checkpoint.spec(name).shape for name in names}
    folder = Path(f"{model}-{kind}")
    folder.mkdir()
    arrays = {
        name: np.eye(shape[1], dtype=np.float32) if kind == "gram" else np.ones(shape, np.float32)
        for name, shape in shapes.items()
    }
    save_file(arrays, folder / "s.safetensors")
    facts = {
        "format": 1, "kind": kind, "weights_sha256": weights_sha256(checkpoint),
        "data_sha256": "0" * 64, "rows": 1, "examples": 1, "tokens": 1, "options": {},
        "skipped": {}, "left_out": {}, "files": ["s.safetensors"],
        "tensors": {
            name: {"shape": list(shape), "stored_as": name, "tokens": 1}
            | ({"input_axis": 1} if kind == "gram" else {})
            for name, shape in shapes.items()
        },
    }  # fmt: skip
    (folder / "statistics.json").write_text(json.dumps(facts))
    return str(folder)


@pytest.mark.parametrize(("method", "kind"), [("regmean", "gram"), ("fisher", "fisher")])
def test_statistics_are_part_of_the_sample(
    models: Path, monkeypatch: pytest.MonkeyPatch, method: str, kind: str
) -> None:
    entries = [
        {"model": one, "statistics": write_statistics(one, kind)} for one in ("math", "code")
    ]
    made = planned(base_model="base", merge_method=method, models=entries)
    calls = sampled(monkeypatch, made)
    given = [call for call in calls if call["extras"]]
    assert {call["name"] for call in given} == {
        name for name in [given[0]["name"]] if ".layers.0." in name
    }
    for call in given:
        for extra in call["extras"]:
            if kind == "fisher":
                assert extra.shape == call["shape"]
                assert (extra >= 0).all()
            else:
                assert extra.shape == (call["shape"][1],) * 2
                assert np.linalg.eigvalsh(extra).min() > 0
    left_out = [call for call in calls if not call["extras"]]
    assert any(".layers.1." in call["name"] or "embed" in call["name"] for call in left_out)


def stacked(path: Path, shape: tuple[int, int]) -> None:
    path.mkdir()
    tensors = {f"model.layers.{i}.mlp.up_proj.weight": np.ones(shape, np.float32) for i in (0, 1)}
    write_tensors(path, tensors)
    (path / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 2}))


def test_memory_is_that_of_whole_tensors_and_their_temporaries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks do not grow with the tensor; a decomposition holds several copies of it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    peaks: dict[tuple[str, int], float] = {}
    for side in (512, 1024):
        for name in ("base", "a", "b"):
            stacked(tmp_path / f"{name}{side}", (side, side))
        models = [{"model": f"a{side}"}, {"model": f"b{side}"}]
        for method in ("linear", "iso_c"):
            made = planned(merge_method=method, base_model=f"base{side}", models=models)
            peaks[method, side] = estimate(made).memory_mb - STARTED_MB
    assert peaks["linear", 1024] == pytest.approx(peaks["linear", 512], rel=0.1)
    assert peaks["iso_c", 1024] == pytest.approx(4 * peaks["iso_c", 512], rel=0.1)
    # Base, two experts, the float64 sum of task vectors and its factors: more than five copies.
    assert peaks["iso_c", 1024] > 5 * 4 * 1024**2 / 1e6
    monkeypatch.setenv("OMP_NUM_THREADS", "8")  # but there are two tensors only
    models = [{"model": "a1024"}, {"model": "b1024"}]
    made = planned(merge_method="iso_c", base_model="base1024", models=models)
    wide = estimate(made).memory_mb - STARTED_MB
    assert wide == pytest.approx(2 * peaks["iso_c", 1024], rel=0.1)


def test_memory_of_gram_matrices_and_of_float64(models: Path) -> None:
    entries: list[dict[str, Any]] = [
        {"model": one, "statistics": write_statistics(one, "gram")} for one in ("math", "code")
    ]
    plain = estimate(both(merge_method="iso_c")).memory_mb
    assert estimate(both(merge_method="iso_c", dtype="float64")).memory_mb > plain
    regmean = planned(base_model="base", merge_method="regmean", models=entries)
    kept = [item for item in regmean.tensors if "down_proj" in item.entry.name]
    of_one = [replace(regmean, tensors=[item]) for item in kept]
    measured, unmeasured = (estimate(one).memory_mb for one in of_one[:2])  # layers 0 and 1
    assert measured > unmeasured


def test_the_smoke_test_is_told_with_its_memory(models: Path) -> None:
    from smelt.verbs.merge import check

    recipe = {"merge_method": "linear", "models": [{"model": "math"}, {"model": "code"}]}
    lines = check(recipe, where="r")
    assert "smoke test: about 510 MB, --no-smoke leaves it out" in lines


def test_no_smoke_test_is_told_where_none_is_run(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from smelt.verbs.merge import check

    monkeypatch.setattr("smelt.verbs.merge.SMOKE_BYTES", 10)
    recipe = {"merge_method": "linear", "models": [{"model": "math"}, {"model": "code"}]}
    assert not any(line.startswith("smoke test") for line in check(recipe, where="r"))
