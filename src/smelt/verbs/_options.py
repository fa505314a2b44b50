"""Arguments and flags that verbs share, so that each is written (and explained) once."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from smelt.core import config, registry
from smelt.core.errors import UserError

RecipePath = Annotated[
    str, typer.Argument(metavar="RECIPE", help="YAML file, or a shipped recipe.")
]
OutFolder = Annotated[Path | None, typer.Argument(metavar="OUT", help="Result folder.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="Result folder, as a flag.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random in the run.")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, mps, or auto.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe key.")
]


def recipe_path(text: str) -> Path:
    """A file, or the recipe shipped under that name (`recipes/tiny.yaml` and `tiny` both work)."""
    path = Path(text)
    if path.is_file():
        return path
    known = registry.names("recipe")
    name = path.with_suffix("") if path.suffix == ".yaml" else path
    for shipped in (name.as_posix(), name.as_posix().removeprefix("recipes/")):
        if shipped in known:
            return registry.path_of("recipe", shipped)
    raise UserError(text, "no such recipe file", f"a path, or one of: {', '.join(known)}")


def read_recipe(text: str, settings: list[str] | None) -> tuple[dict[str, Any], str]:
    """The data of a recipe with its overrides, and the name that errors show for it."""
    path = recipe_path(text)
    data = config.override(config.read_yaml(path), settings or [], str(path))
    if not isinstance(data, dict):
        raise UserError(path, "no mapping in it", "a recipe with keys")
    return data, str(path)


def recipe_verb(
    name: str, execute: Callable[..., None], *, device: bool = True
) -> Callable[..., None]:
    """The command of a verb that turns a recipe into a result folder by its `execute`.

    device: whether the verb has a `--device` (one that nothing reads would be a lie).
    """

    def command(
        recipe: RecipePath,
        out: OutFolder = None,
        *,
        out_option: OutOption = None,
        seed: Seed = 0,
        device: Device = "cpu",
        settings: Settings = None,
    ) -> None:
        content, where = read_recipe(recipe, settings)
        folder = out_folder(out, out_option, name)
        execute(content, folder, where=where, seed=seed, device=device)

    if not device:
        taken = inspect.signature(command)
        kept = [item for key, item in taken.parameters.items() if key != "device"]
        vars(command)["__signature__"] = taken.replace(parameters=kept)
    command.__name__, command.__doc__ = name, execute.__doc__
    return command


def given_folder(positional: Path | None, option: Path | None, verb: str) -> Path | None:
    """The last argument or --out, if any. Raises UserError for two different ones."""
    if positional and option and positional != option:
        raise UserError(f"smelt {verb}", f"two result folders: {positional} and {option}", "one")
    return option or positional


def out_folder(positional: Path | None, option: Path | None, verb: str) -> Path:
    """The result folder, the last argument or --out. Raises UserError if neither or both."""
    chosen = given_folder(positional, option, verb)
    if chosen is None:
        raise UserError(f"smelt {verb}", "no result folder", "OUT as last argument, or --out OUT")
    return chosen
