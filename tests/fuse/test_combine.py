"""MinCE and AvgCE against formulas written out, and their traps."""

import math

import numpy as np
import pytest

from smelt.fuse.combine import Evidence, combine


def evidence(nll: list[float], tokens: list[int], num_bytes: list[int]) -> Evidence:
    return Evidence(np.array(nll), np.array(tokens), np.array(num_bytes))


def test_min_ce_takes_the_planted_best_model() -> None:
    models = [
        evidence([5.0, 1.0, 3.0], [4, 4, 4], [10, 10, 10]),
        evidence([4.0, 2.0, 3.0], [4, 4, 4], [10, 10, 10]),
        evidence([6.0, 9.0, 2.0], [4, 4, 4], [10, 10, 10]),
    ]
    found = combine(models)
    assert found.chosen.tolist() == [1, 0, 2]
    assert found.weights.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert found.counts(["pivot", "a", "b"]) == {"pivot": 1, "a": 1, "b": 1}


def test_a_finer_tokenizer_wins_per_token_but_not_per_byte() -> None:
    """The same text at the same probability, cut into twice as many tokens."""
    coarse, fine = evidence([10.0], [5], [20]), evidence([10.5], [10], [20])
    assert combine([coarse, fine]).chosen.tolist() == [0]
    assert combine([coarse, fine], ce="token").chosen.tolist() == [1]
    weights = [
        combine([coarse, fine], rule="avg_ce", ce=unit).weights[0] for unit in ("byte", "token")
    ]
    assert weights[0][0] > weights[0][1]
    assert weights[1][0] < weights[1][1]


def test_avg_ce_is_the_formula() -> None:
    models = [evidence([5.0], [4], [10]), evidence([7.0], [2], [9])]
    bits = [5 / math.log(2) / 10, 7 / math.log(2) / 9]
    powers = [math.exp(-b) for b in bits]
    found = combine(models, rule="avg_ce").weights[0]
    assert found == pytest.approx([p / sum(powers) for p in powers])
    powers = [math.exp(math.exp(-5 / 4)), math.exp(math.exp(-7 / 2))]
    found = combine(models, rule="avg_ce", ce="token").weights[0]
    assert found == pytest.approx([p / sum(powers) for p in powers])


def test_paper_weights_never_differ_by_more_than_e() -> None:
    models = [evidence([0.0], [100], [100]), evidence([1e5], [100], [100])]
    paper = combine(models, rule="avg_ce", ce="token").weights[0]
    ours = combine(models, rule="avg_ce").weights[0]
    assert paper[0] / paper[1] == pytest.approx(math.e)
    assert ours[1] < 1e-100


@pytest.mark.parametrize("rule", ["min_ce", "avg_ce"])
def test_absent_models_get_nothing_and_ties_go_to_the_first(rule: str) -> None:
    models = [
        evidence([np.nan, 2.0, np.nan], [0, 4, 0], [0, 8, 0]),
        evidence([9.0, 2.0, np.nan], [4, 4, 0], [8, 8, 0]),
    ]
    found = combine(models, rule=rule)  # type: ignore[arg-type]
    assert found.chosen.tolist() == [1, 0, -1]
    assert found.weights[0].tolist() == [0, 1]
    assert found.weights[1].tolist() == ([1, 0] if rule == "min_ce" else [0.5, 0.5])
    assert found.weights[2].tolist() == [0, 0]
