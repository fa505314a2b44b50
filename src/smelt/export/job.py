"""An export from recipe to result folder: check, write, prove, describe."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from smelt.checkpoint.reader import Checkpoint
from smelt.core import digest, progress, registry
from smelt.core.errors import UserError
from smelt.core.run import Run
from smelt.export import battery, parity, runtime
from smelt.export.card import card
from smelt.export.contents import contents
from smelt.export.llama import Llama, read_llama, tensor_names
from smelt.export.recipe import ExportRecipe, file_name, read, settings_of
from smelt.export.vocabulary import Vocabulary, read_vocabulary
from smelt.models.load import load_model, pick_device

GIB = 1 << 30


@dataclass(frozen=True)
class Plan:
    """A recipe whose model was found fit to export."""

    recipe: ExportRecipe
    folder: Path
    llama: Llama
    vocabulary: Vocabulary
    prompts: list[list[int]]
    num_weights: int


def plan(data: dict[str, Any], where: str) -> Plan:
    """All checks of an export, none of which reads a tensor. Raises UserError."""
    recipe = read(data, where)
    runtime.version()
    checkpoint = Checkpoint.open(recipe.model)
    folder = checkpoint.folder
    llama = read_llama(checkpoint.config, folder)
    sources = tensor_names(checkpoint.names(), llama, folder).values()
    vocabulary = read_vocabulary(folder, llama.vocab_size)
    return Plan(
        recipe,
        folder,
        llama,
        vocabulary,
        _prompts(recipe, folder, llama, where),
        sum(math.prod(checkpoint.spec(name).shape) for name in sources),
    )


def _prompts(recipe: ExportRecipe, folder: Path, llama: Llama, where: str) -> list[list[int]]:
    """Ids of the prompts, with the control tokens that the tokenizer adds."""
    raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
    raw.no_truncation()
    raw.no_padding()
    if recipe.parity.prompts is None:
        # The built-in prompts serve models of any context, so they may be cut.
        room = max(1, llama.context // 2)
        return [list(raw.encode(text).ids)[:room] for text in battery.PROMPTS]
    prompts = [list(raw.encode(text).ids) for text in recipe.parity.prompts]
    for index, ids in enumerate(prompts):
        if not 0 < len(ids) < llama.context:
            place = f"{where}: parity.prompts[{index}]"
            raise UserError(place, f"{len(ids)} tokens", f"1 to {llama.context - 1}")
    return prompts


def describe(plan: Plan) -> list[str]:
    """Lines about what an export would write and take."""
    kind = plan.vocabulary.kind
    lines = [
        f"model: {plan.folder}, Llama, {plan.num_weights} weights",
        f"tokenizer: llama.cpp's '{kind.model}', split '{kind.pre}'",
        f"parity: {len(plan.prompts)} prompts against the model in float32, "
        f"{4 * plan.num_weights / GIB:.2f} GiB of memory, llama.cpp {runtime.version()}",
    ]
    bits = {"f32": 32.0, "f16": 16.0, "q8_0": 8.5}
    for target in plan.recipe.targets:
        size = plan.num_weights * bits[_type_of(settings_of(target))] / 8 / GIB
        lines.append(f"write: {file_name(target)}, about {size:.3f} GiB")
    return lines


def export(
    plan: Plan, out: Path, *, seed: int, device: str, replace: bool, verbose: bool = False
) -> None:
    """Write and prove every target in the result folder `out`.

    Nothing is published unless all pass. Raises UserError from a target or from parity.
    """
    recipe = {
        "model": str(plan.folder),
        "targets": [{"name": row.name, **settings_of(row)} for row in plan.recipe.targets],
        "parity": plan.recipe.parity.model_dump(),
    }
    run = Run(out, "export", recipe, {"model": str(plan.folder)}, seed=seed, replace=replace)
    if run.done:
        return
    with run:
        _check_disk(plan, run.folder)
        model = load_model(plan.folder, pick_device(device))
        files: dict[str, Any] = {}
        proofs: dict[str, Any] = {}
        steps = min(parity.NUM_STEPS, plan.llama.context - max(map(len, plan.prompts)))
        num_ctx = max(map(len, plan.prompts)) + steps
        for target in plan.recipe.targets:
            settings = settings_of(target)
            kind = _type_of(settings)
            name = file_name(target)
            write = registry.load("export-target", target.name)
            path: Path = write(plan.folder, run.folder / name, **settings)
            with runtime.start(path, num_ctx=num_ctx, verbose=verbose) as running:
                texts = parity.compare_tokenizer(running, plan.folder, plan.vocabulary)
                agreement = parity.compare_logits(
                    running, model, plan.prompts, plan.vocabulary, steps
                )
            parity.require(agreement, kind, name)
            found = contents(path, kind)
            files[name] = {
                "bytes": path.stat().st_size,
                "sha256": digest.file(path),
                "bits_per_weight": found.bits_per_weight,
                "kept_f16": found.kept,
            }
            proofs[name] = {"texts": texts, "mismatches": 0, **parity.record(agreement, kind)}
            progress.say(
                f"export: {name}: {found.bits_per_weight} bits per weight, {texts} texts equal, "
                f"divergence {proofs[name]['kl']:g}"
            )
        limits = battery.LIMITS if plan.vocabulary.kind.composed else []
        (run.folder / "README.md").write_text(
            card(files, proofs, plan.vocabulary, limits, runtime.version()), encoding="utf-8"
        )
        run.note(
            files=files, parity=proofs, limits=limits, runtime=f"xllamacpp {runtime.version()}"
        )


def _type_of(settings: dict[str, Any]) -> str:
    """The type of weights, which decides the tolerance; a target without one must be exact."""
    return str(settings.get("quantize", "f32"))


def _check_disk(plan: Plan, folder: Path) -> None:
    """Refuse to start what cannot fit (bound: four bytes a weight for each file)."""
    needed = sum(
        plan.num_weights * (4 if _type_of(settings_of(target)) == "f32" else 2)
        for target in plan.recipe.targets
    )
    free = shutil.disk_usage(folder).free
    if free < needed:
        found = f"{free / GIB:.1f} GiB free"
        raise UserError(
            folder, found, f"{needed / GIB:.1f} GiB", "free some, or name another --out"
        )
