"""Fusion as training: capture what every model expects, align it, distill it into the pivot."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from smelt.checkpoint.reader import local_path
from smelt.checkpoint.tokenizer import TextTokenizer, open_tokenizer
from smelt.core import config, registry
from smelt.core.config import Recipe
from smelt.core.errors import UserError
from smelt.data.document import Document, read_jsonl
from smelt.fuse import capture as capturing
from smelt.fuse.pieces import read_tokenizer
from smelt.fuse.source import Source
from smelt.fuse.store import LogitStore, model_digest, tokenizer_digest
from smelt.fuse.target import join
from smelt.fuse.targets import Targets, build_targets
from smelt.models.load import load_model
from smelt.train.batches import Batch, matches
from smelt.train.loop import placements, read_mixtures
from smelt.train.recipe import Optimizer, Phases, TrainRecipe


class FuseRecipe(Recipe):
    """`smelt fuse`: the distributions of source models, distilled into the pivot."""

    verb: Literal["fuse"] = "fuse"
    """Names the verb for `smelt check`."""
    pivot: str
    """Checkpoint folder that the target model starts from; its tokenizer is the common one."""
    sources: dict[str, str] = Field(min_length=1)
    """Name -> checkpoint folder, of any architecture and tokenizer."""
    phases: Phases
    """Steps and mixtures, as in a train recipe; every row must be an instruction-response pair."""
    rule: Literal["min_ce", "avg_ce"] = "min_ce"
    """Who teaches a row: the model with the least cross-entropy, or all, weighted by it."""
    ce: Literal["byte", "token"] = "byte"
    """Cross-entropy per byte (fair between tokenizers) or per token (as published)."""
    top_k: int = Field(default=10, gt=0)
    """Log-probabilities kept per step."""
    alignment: str = "byte_anchors"
    """Plug-in of kind alignment."""
    loss: str = "lumped_kl"
    """Plug-in of kind loss."""
    loss_options: dict[str, Any] = Field(default={})
    """Keywords of the loss."""
    ce_weight: float = Field(default=0.9, ge=0, le=1)
    """Share of plain cross-entropy in the loss (lambda of FuseLLM)."""
    optimizer: Optimizer = Optimizer()
    """As in a train recipe."""
    batch_rows: int = Field(default=16, gt=0)
    """As in a train recipe."""
    context: int = Field(default=128, gt=1)
    """As in a train recipe."""
    freeze: list[str] = Field(default=[])
    """As in a train recipe."""
    log_every: int = Field(default=10, gt=0)
    """As in a train recipe."""
    checkpoint_seconds: float = Field(default=20.0, ge=0)
    """As in a train recipe."""

    def training(self) -> TrainRecipe:
        """The train recipe of the distillation."""
        shared = set(TrainRecipe.model_fields) & set(FuseRecipe.model_fields) - {"verb"}
        fields = {name: getattr(self, name) for name in shared}
        options = {
            "loss": self.loss,
            "loss_options": self.loss_options,
            "ce_weight": self.ce_weight,
        }
        return TrainRecipe(**fields, stage="distill", model=self.pivot, options=options)


def parse_keys(data: dict[str, Any], where: str) -> FuseRecipe:
    """A recipe whose keys and plug-ins are right; no file is looked at."""
    recipe = config.parse(FuseRecipe, data, where, "smelt show verb fuse")
    registry.check_keywords("loss", recipe.loss, recipe.loss_options, f"{where}: loss_options")
    registry.load("alignment", recipe.alignment)
    if "pivot" in recipe.sources:
        raise UserError(f"{where}: sources", "one is named 'pivot'", "another name")
    return recipe


def read_fuse_recipe(data: dict[str, Any], where: str) -> FuseRecipe:
    """A checked recipe: plug-ins, files and every model's tokenizer. Raises UserError."""
    from smelt.checkpoint.reader import Checkpoint
    from smelt.train.prepare import read_recipe_data

    recipe = parse_keys(data, where)
    read_recipe_data(recipe.training().model_dump(), where)
    for folder in (recipe.pivot, *recipe.sources.values()):
        read_tokenizer(Checkpoint.open(folder).folder)
    rows_of(recipe, where)
    return recipe


def rows_of(recipe: FuseRecipe, where: str) -> list[Document]:
    """The pairs of all mixtures, each once, in file order."""
    found: dict[str, Document] = {}
    for part in (part for phase in recipe.phases for part in phase.mixture):
        for row in read_jsonl(Path(part.path)):
            if not matches(row, part.where):
                continue
            if not row.prompt:
                raise UserError(where, f"row {row.id} of {part.path} has no prompt", "pairs only")
            found[row.id] = row
    if not found:
        raise UserError(where, "the mixtures hold no row", "instruction-response pairs")
    return list(found.values())


def rows_read(
    recipe: FuseRecipe, rows: list[Document], tokenizer: TextTokenizer, seed: int
) -> list[Document]:
    """Those of the rows that the training will read (placements are a function of the seed), so
    that no model is asked about the others."""
    training = recipe.training()
    mixtures, _ = read_mixtures(training, tokenizer)
    read = {span.row.id for spans in placements(training, mixtures, seed=seed) for span in spans}
    return [row for row in rows if row.id in read]


def capture_all(
    recipe: FuseRecipe, rows: list[Document], folder: Path, device: torch.device
) -> tuple[Targets, dict[str, int]]:
    """Capture pivot and sources over the rows (a killed capture continues), and fuse.

    Returns the targets and, by row id, their index.
    """
    pairs = [{"id": row.id, "prompt": row.prompt, "text": row.text} for row in rows]
    models = {"pivot": recipe.pivot, **recipe.sources}
    sources = [
        _capture(n, Path(local_path(p)), pairs, recipe, folder / n, device)
        for n, p in models.items()
    ]
    targets = build_targets(
        pairs, sources[0], sources[1:], rule=recipe.rule, ce=recipe.ce, alignment=recipe.alignment
    )
    return targets, {row.id: index for index, row in enumerate(rows)}


def _capture(
    name: str,
    model_folder: Path,
    pairs: list[dict[str, str]],
    recipe: FuseRecipe,
    store: Path,
    device: torch.device,
) -> Source:
    tokenizer, opened = read_tokenizer(model_folder), open_tokenizer(model_folder)
    found: LogitStore = capturing.capture(
        load_model(model_folder, device),
        tokenizer,
        pairs,
        store,
        top_k=recipe.top_k,
        batch_size=64,
        eos_id=opened.eos_id,
        lead=opened.lead,
        model_sha256=model_digest(model_folder),
        tokenizer_sha256=tokenizer_digest(model_folder),
    )
    return Source(name, tokenizer, opened.eos_id, found, opened.lead)


def attach(targets: Targets, index: dict[str, int]) -> Callable[[Batch], Batch]:
    """A function that gives a packed batch the distributions of its rows."""
    num_tokens = int(targets.aligned[0].store.meta["vocab"])  # of the pivot, which comes first

    def prepare(batch: Batch) -> Batch:
        width = batch.ids.shape[1]
        found = [targets.of(index[span.row.id]) for span in batch.spans]
        starts = [span.line * width + span.offset for span in batch.spans]
        kept = [(t, s) for t, s in zip(found, starts, strict=True) if len(t)]
        target = join([t for t, _ in kept], [s for _, s in kept])
        return replace(batch, target=target, num_tokens=num_tokens)

    return prepare


def remove_stores(folder: Path) -> None:
    """Delete the captured stores once the target model is trained."""
    shutil.rmtree(folder, ignore_errors=True)
