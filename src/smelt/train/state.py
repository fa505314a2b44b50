"""Resumable training states: safetensors and JSON, written beside, published by one rename."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

NAME = "resume"


def _newest(folder: Path) -> Path | None:
    found = [p for p in folder.glob(f"{NAME}-*") if p.suffix != ".partial" and p.is_dir()]
    return max(found, key=lambda path: int(path.name.split("-")[1]), default=None)


def save(folder: Path, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write the state after `step` steps; older states are removed once it is complete."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    tensors: dict[str, Tensor] = {f"model/{n}": p.detach() for p, n in names.items()}
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            tensors[f"optimizer/{key}/{names[parameter]}"] = value
    target = folder / f"{NAME}-{step}"
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(whole, partial / "state.safetensors")
    (partial / "step.json").write_text(json.dumps({"step": step}))
    partial.rename(target)
    for path in folder.glob(f"{NAME}-*"):
        if path != target:
            shutil.rmtree(path)


def load(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restore the newest complete state; returns the number of steps done (0: there is none)."""
    path = _newest(folder)
    if path is None:
        return 0
    tensors = load_file(path / "state.safetensors")
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"model/{name}"])
    for full, value in tensors.items():
        kind, _, rest = full.partition("/")
        if kind == "optimizer":
            key, _, name = rest.partition("/")
            # Fused AdamW keeps its step count, too, on the device of the parameter.
            optimizer.state[parameters[name]][key] = value.to(parameters[name].device)
    return int(json.loads((path / "step.json").read_text())["step"])


def remove(folder: Path) -> None:
    """Delete all states (the run is complete). A kill meanwhile leaves whole states or none."""
    for path in folder.glob(f"{NAME}-*"):
        if path.suffix != ".partial":
            path = path.rename(path.with_name(path.name + ".partial"))
        shutil.rmtree(path)
