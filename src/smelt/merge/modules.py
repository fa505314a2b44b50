"""Which tensors a recipe is about: modules it names, towers all models have, what is kept."""

from collections.abc import Iterable

from smelt.checkpoint import layout
from smelt.core.errors import UserError, nearest
from smelt.merge.model import Model
from smelt.merge.parts import Module
from smelt.merge.tensors import Planner, TensorPlan, View
from smelt.merge.values import Level, check_filters


def planned(planner: Planner, modules: list[Module], where: str) -> list[TensorPlan]:
    """The tensors of all modules, each once; every filter of the recipe matches one of them."""
    tensors: dict[str, TensorPlan] = {}
    owner: dict[str, str | None] = {}
    seen: dict[int, tuple[Level, set[str]]] = {}
    for module in modules:
        items, seen_by = planner.plan(module)
        for level, names in seen_by:
            seen.setdefault(id(level), (level, set()))[1].update(names)
        if not items and module.name is not None:
            words = sorted({*layout.MODULE_NAMES, *_parts_of(planner.views)})
            found = "no tensor of the models is in it"
            raise UserError(f"{where}: modules.{module.name}", found, nearest(module.name, words))
        for item in items:
            if item.entry.name in tensors:
                found = f"'{item.entry.name}' is in {owner[item.entry.name]} too"
                raise UserError(f"{where}: modules.{module.name}", found, "each tensor in one")
            tensors[item.entry.name], owner[item.entry.name] = item, module.name
    check_filters(list(seen.values()))
    return list(tensors.values())


def _parts_of(views: dict[str, View]) -> set[str]:
    return {part for view in views.values() for name in view for part in name.split(".")[:-2]
            if not part.isdigit()}  # fmt: skip


def buffers(models: dict[str, Model], views: dict[str, View], donor: str) -> View:
    """Take constants out of the views (they are not merged); gives the donor's, which are kept."""
    kept: View = {}
    for model, view in views.items():
        for name, own in list(view.items()):
            if layout.is_buffer(name, models[model].spec(own).shape):
                del view[name]
                if model == donor:
                    kept[name] = own
    return kept


def with_kept(
    modules: list[Module], views: dict[str, View], donor: str, *, sliced: bool
) -> tuple[list[Module], View]:
    """The modules to merge, and the donor's tensors that no module of the recipe is about.

    A recipe without modules merges the language model, and of towers (vision, audio, projector)
    those that all its models have; the others stay as they are in the donor, and so does what
    stands outside the language model's layers in the donor only.
    """
    kinds = {layout.module_of(name) for view in views.values() for name in view}
    if modules[0].name is None and kinds == {"text"}:
        return modules, {}
    kept: View = {}
    if modules[0].name is None:
        parts = modules[0].parts
        own = {
            model: {kind: {n for n in view if layout.module_of(n) == kind} for kind in kinds}
            for model, view in views.items()
        }
        among = {one.model for part in parts for one in part.sources}
        shared = [
            kind
            for kind in sorted(kinds - {"text"})
            if not sliced and all(own[one][kind] == own[donor][kind] for one in among)
        ]
        modules = [Module(kind, parts) for kind in ["text", *shared] if own[donor][kind]]
        stem = layout.text_prefix(views[donor])
        for name in [one for one in own[donor]["text"] if not one.startswith(stem)]:
            if layout.block_of(name) == "other" and any(name not in views[m] for m in among):
                kept[name] = views[donor].pop(name)
    for name, stored in views[donor].items():
        if not any(layout.in_module(name, str(module.name)) for module in modules):
            kept[name] = stored
    return modules, kept


def left_out(views: dict[str, View], donor: str) -> list[str]:
    """Warnings about towers that a model has and the donor, hence the result, has not."""
    present = {layout.module_of(name) for name in views[donor]}
    warnings = []
    for model, view in views.items():
        lost = [name for name in view if layout.module_of(name) not in present]
        if lost:
            what = f"{len(lost)} tensors of {model} are left out ({kinds_of(lost)})"
            warnings.append(f"{what}: {donor}, which gives the architecture, has none")
    return warnings


def kinds_of(names: Iterable[str]) -> str:
    return ", ".join(sorted({layout.module_of(name) for name in names}))
