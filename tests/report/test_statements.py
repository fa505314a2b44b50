"""What the report says about who beats whom, in cases worked out by hand."""

import pytest

from smelt.report.statements import CONTROL, EXPERT, REFERENCE, Claim, claims, summary
from smelt.report.tables import score_table

ROLES = {"expert": "expert", "weak": "expert", "merged": "merge", "fused": "fused",
         "control": "control", "multitask": "reference"}  # fmt: skip


def table(counts: dict[str, list[int]], total: int = 1000) -> list[Claim]:
    """Claims for models with these correct answers, one number for each seed."""
    seeds = max(len(values) for values in counts.values())
    scores = {
        seed: {
            model: {"math": {"correct": values[seed], "total": total}}
            for model, values in counts.items()
            if seed < len(values)
        }
        for seed in range(seeds)
    }
    return claims(score_table(scores, roles=ROLES, groups={"domains": ["math"]}))


def test_a_merge_that_wins_in_all_seeds_beats() -> None:
    (claim,) = table({"expert": [500, 510, 505], "weak": [400] * 3, "merged": [700, 712, 704]})
    assert (claim.model, claim.rival, claim.against) == ("merged", "expert", EXPERT)
    assert claim.gap == pytest.approx((0.2 + 0.202 + 0.199) / 3)
    assert claim.verdict == "beats"
    assert claim.text.startswith(
        "beats the best expert (expert) on the domains mean by +20.0 points (0.705 against 0.505; "
        "ahead in 3 of 3 seeds; 95 % interval of the paired difference over seeds [+19.7, +20.4]"
    )
    assert summary([claim]) == [
        "domains mean, against the best expert (expert): shown to beat it: merged (+20.0)."
    ]


def test_a_merge_that_loses_does_not_beat() -> None:
    (claim,) = table({"expert": [700, 710], "merged": [500, 510]})
    assert claim.verdict == "loses"
    assert "does not beat the best expert (expert): it loses" in claim.text
    assert "by −20.0 points" in claim.text
    assert "shown to lose to it: merged" in summary([claim])[0]


def test_seeds_that_disagree_support_nothing() -> None:
    # +10 and -2 points: the items alone would say "above", the seeds do not.
    (claim,) = table({"expert": [5000, 5000], "merged": [6000, 4800]}, total=10_000)
    assert claim.verdict == "ahead"
    assert "not by more than chance allows" in claim.text
    assert "ahead in 1 of 2 seeds" in claim.text
    assert "ahead within chance: merged (+4.0)" in summary([claim])[0]


def test_agreeing_seeds_with_few_items_support_nothing() -> None:
    (claim,) = table({"expert": [10, 10], "merged": [11, 11]}, total=20)
    assert claim.verdict == "ahead"


def test_one_seed_says_so() -> None:
    (claim,) = table({"expert": [500], "merged": [700]})
    assert claim.verdict == "beats"
    assert "one seed: 95 % interval over test items" in claim.text
    assert "nothing is known of other seeds" in claim.text


def test_equal_models_are_even() -> None:
    (claim,) = table({"expert": [500, 500], "merged": [500, 500]})
    assert claim.verdict == "even"
    assert claim.text.startswith("equals the best expert (expert)")
    assert summary([claim]) == [
        "domains mean, against the best expert (expert): not ahead: merged (+0.0)."
    ]


def test_every_merge_and_fused_model_meets_every_reference() -> None:
    """None is picked by its score on the items that judge it; each kind of rival has its line."""
    found = table({"expert": [500], "merged": [550], "fused": [600], "control": [400],
                   "multitask": [900]})  # fmt: skip
    pairs = [(claim.model, claim.rival, claim.against) for claim in found]
    assert pairs == [
        ("merged", "expert", EXPERT),
        ("merged", "multitask", REFERENCE),
        ("fused", "expert", EXPERT),
        ("fused", "control", CONTROL),
        ("fused", "multitask", REFERENCE),
    ]
    assert [claim.verdict for claim in found] == ["beats", "loses", "beats", "beats", "loses"]
    assert summary(found) == [
        "domains mean, against the best expert (expert): shown to beat it: merged (+5.0), "
        "fused (+10.0).",
        "domains mean, against the control (control): shown to beat it: fused (+20.0).",
        "domains mean, against the reference (multitask): shown to lose to it: "
        "merged (\N{MINUS SIGN}35.0), fused (\N{MINUS SIGN}30.0).",
    ]


def test_a_worse_merge_is_not_left_out() -> None:
    correct = {"good": 600, "bad": 500, "multitask": 550}
    scores = {0: {name: {"math": {"correct": n, "total": 1000}} for name, n in correct.items()}}
    roles = {"good": "merge", "bad": "merge", "multitask": "reference"}
    found = claims(score_table(scores, roles=roles))
    assert [(claim.model, claim.verdict) for claim in found] == [
        ("bad", "loses"),
        ("good", "beats"),
    ]


def test_only_seeds_that_both_have_are_compared() -> None:
    (claim,) = table({"expert": [500, 500], "merged": [600]})
    assert claim.seeds == {0: pytest.approx(0.1)}
    assert "(0.600 against 0.500;" in claim.text
