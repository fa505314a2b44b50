"""Run in a python that has mergekit: `python mergekit_values.py CASES.json IN.npz OUT.npz`.

CASES.json: [{"method", "parameters", "base": bool, "experts": n, "draws": [i], "dtype"}]; IN.npz:
CASE/base, CASE/0.., CASE/mask0..; OUT.npz: CASE (the result, float64) and, for the experts
of random methods that are drawn, CASE/chance0.. (the keep probabilities that mergekit drew from).
"""

import json
import sys


def main(cases_path: str, in_path: str, out_path: str) -> None:
    """Merge each case with mergekit and store what came out."""
    import numpy as np
    import torch
    from mergekit.merge_methods import merge_tensors

    arrays, results = np.load(in_path), {}
    draw = torch.bernoulli
    with open(cases_path, encoding="utf-8") as file:
        cases = json.load(file)
    for number, case in enumerate(cases):
        dtype = getattr(torch, case["dtype"])
        names = ["base"] * case["base"] + [str(i) for i in range(case["experts"])]
        tensors = [torch.from_numpy(arrays[f"{number}/{name}"].copy()).to(dtype) for name in names]
        drawn: list[torch.Tensor] = []

        def injected(
            chance: torch.Tensor,
            number: int = number,
            draws: list[int] = case["draws"],
            drawn: list[torch.Tensor] = drawn,
        ) -> torch.Tensor:
            mask = torch.from_numpy(arrays[f"{number}/mask{draws[len(drawn)]}"])
            drawn.append(chance)
            return mask.reshape(chance.shape).to(chance.dtype) * (chance > 0)

        torch.bernoulli = injected if case["draws"] else draw
        merged = merge_tensors(
            tensors,
            case["method"],
            parameters=case["parameters"],
            base_index=0 if case["base"] else None,
        )
        results[str(number)] = merged.to(torch.float64).numpy()
        for index, chance in zip(case["draws"], drawn, strict=True):
            results[f"{number}/chance{index}"] = chance.to(torch.float64).numpy()
    np.savez(out_path, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
