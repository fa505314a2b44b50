"""Errors, seeds, digests and costs."""

import errno
import hashlib
import json
import pickle
from pathlib import Path

import pytest

from smelt.core import digest
from smelt.core.cost import Cost
from smelt.core.errors import UserError, nearest, needs, refusal
from smelt.core.seed import seed_for


def test_an_error_is_one_line_of_four_parts() -> None:
    error = UserError("r.yaml: a", "unknown\nkey", "'b'", "smelt ls")
    assert str(error) == "r.yaml: a: unknown key. Expected 'b'. Next: smelt ls"
    assert str(UserError(Path("x"), "missing")) == "x: missing."
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (UserError, str(error))
    assert "pip install 'smelt[data]'" in str(needs("data", "rensa"))


def test_nearest() -> None:
    assert nearest("tise", ["linear", "ties"]) == "'ties' (one of: linear, ties)"
    assert nearest("zzz", ["linear", "ties"]) == "one of: linear, ties"
    assert nearest("a", []) == "one of: none"


def test_refusals_of_the_machine_are_told_and_defects_are_not() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/x/y")
    told = refusal(full, "place")
    assert told is not None
    assert str(told).startswith("/x/y: No space left on device.")
    rust = RuntimeError("I/O error: No space left on device (os error 28)")
    told = refusal(rust, "place")
    assert told is not None
    assert str(told).startswith("place: No space left on device.")
    assert refusal(FileNotFoundError(errno.ENOENT, "no"), "p") is None
    assert refusal(KeyError("x"), "p") is None


def test_seeds_come_from_names() -> None:
    # Written out: blake2b of the names joined by the unit separator, upper 63 bits.
    hashed = hashlib.blake2b(b"3\x1ftrain\x1fmath", digest_size=8).digest()
    assert seed_for(3, "train", "math") == int.from_bytes(hashed, "big") // 2
    made = {seed_for(run, *names) for run in range(50) for names in (("a",), ("b",), ("a", "b"))}
    assert len(made) == 150
    assert all(0 <= seed < 2**63 for seed in made)
    assert seed_for(0, "ab", "c") != seed_for(0, "a", "bc")


def test_digests_see_content_and_names_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert digest.path(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
    folders = []
    for name in ("one", "two"):
        folder = tmp_path / name
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "x").write_text("x")
        (folder / "y").write_text("y")
        folders.append(folder)
    one, two = folders
    (two / "cost.json").write_text("{}")
    (two / ".lock").touch()
    assert digest.path(one) == digest.path(two)
    assert list(digest.files(two)) == ["sub/x", "y"]
    (two / "y").rename(two / "z")
    assert digest.path(one) != digest.path(two)
    (one / "y").rename(one / "z")
    assert digest.path(one) == digest.path(two)
    (one / "z").write_text("Y")
    assert digest.path(one) != digest.path(two)


def test_values_have_one_form() -> None:
    assert digest.value({"a": 1, "b": [1.5, None]}) == digest.value({"b": [1.5, None], "a": 1})
    assert digest.value({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()
    assert digest.value("é") == hashlib.sha256('"é"'.encode()).hexdigest()
    assert digest.value([1, 2]) != digest.value([2, 1])


def test_cost_adds_up_over_attempts(tmp_path: Path) -> None:
    path = tmp_path / "cost.json"
    path.write_text(json.dumps({"seconds": 100.0, "cpu_seconds": 50.0, "peak_memory_mb": 1e9,
                                "attempts": 2}))  # fmt: skip
    Cost(path).write()
    first = json.loads(path.read_text())
    assert first["attempts"] == 3
    assert first["peak_memory_mb"] == 1e9
    assert 100 <= first["seconds"] < 101
    assert 50 <= first["cpu_seconds"] < 51
    path.unlink()
    Cost(path)  # and killed then
    assert json.loads(path.read_text())["attempts"] == 1
    assert json.loads(path.read_text())["peak_memory_mb"] > 1
    assert [p.name for p in tmp_path.iterdir()] == ["cost.json"]


def test_user_error_is_no_other_exception() -> None:
    with pytest.raises(UserError):
        raise UserError("a", "b")
    assert not issubclass(UserError, (ValueError, OSError))
