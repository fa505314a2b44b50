"""What `smelt check` says of a merge: values, expected time and memory, warnings."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from smelt.merge.describe import describe, kinship
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
