"""Tasks of lm-eval on our backends: the figures are those of lm-eval's own model."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from smelt.core.errors import UserError
from smelt.evals import lm_eval
from smelt.evals.recipe import BenchmarkEntry
from smelt.models.backend import Backend
from smelt.models.backends.transformers import transformers
from smelt.verbs.eval import check, execute
from tests.pico import pico_llama

HERE = importlib.util.find_spec("lm_eval") is not None
needs_it = pytest.mark.skipif(not HERE, reason="lm-eval is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")

SUMS = [("2 + 3", "5"), ("4 + 4", "8"), ("7 - 6", "1"), ("9 + 1", "10"), ("3 * 3", "9")]
OTHERS = [["7", "6"], ["max", "x"], ["0", "3"], ["zqv wkj", "QQ ZZ ## @@"], ["8", "a"]]
STORIES = ["The quick brown fox.", "def add(a, b):", "A dog sleeps, then jumps.",
           " ".join(f"word {number}, then" for number in range(60))]  # fmt: skip
SHOTS = [{"question": "1 + 1", "answer": "2", "options": ["2", "3"], "gold": 0},
         {"question": "5 + 1", "answer": "6", "options": ["7", "6"], "gold": 1}]  # fmt: skip

WRITTEN: dict[str, Any] = {
    "output_type": "generate_until",
    "doc_to_text": "Q: {{question}}\nA:",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["\n", "e"], "do_sample": False, "max_gen_toks": 12},
    "filter_list": [
        {"name": "strict", "filter": [{"function": "regex", "regex_pattern": "= (\\d+)"},
                                      {"function": "take_first"}]},
        {"name": "loose", "filter": [{"function": "regex", "regex_pattern": "(\\w)"},
                                     {"function": "take_first"}]},
    ],
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}  # fmt: skip
# Right where the answer has one of some letters: with an untrained model some do, some do not.
MARKED = {key: value for key, value in WRITTEN.items() if key != "filter_list"} | {
    "doc_to_target": "",
    "metric_list": [{"metric": "exact_match", "regexes_to_ignore": ["(?s).*[a-m].*"],
                     "aggregation": "mean", "higher_is_better": True}],
}  # fmt: skip
CHOSEN: dict[str, Any] = {
    "output_type": "multiple_choice",
    "doc_to_text": "Q: {{question}}\nA:",
    "doc_to_target": "{{gold}}",
    "doc_to_choice": "{{options}}",
    "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True}
                    for name in ("acc", "acc_norm")],
}  # fmt: skip
ROLLED: dict[str, Any] = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "metric_list": [{"metric": name} for name in ("bits_per_byte", "byte_perplexity")],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and a folder of tasks on local files."""
    home = tmp_path_factory.mktemp("lm_eval")
    pico_llama(home / "model", seed=3)
    sums = [
        {"question": ask, "answer": gold, "options": [*others, gold], "gold": 2}
        for (ask, gold), others in zip(SUMS, OTHERS, strict=True)
    ]
    files = {"test": sums, "train": SHOTS, "text": [{"text": text} for text in STORIES],
             "short": [{"text": text} for text in STORIES[:3]]}  # fmt: skip
    for name, rows in files.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (home / f"{name}.jsonl").write_text(text)

    def data(test: str, **others: str) -> dict[str, Any]:
        paths = {"test": test, **others}
        return {
            "dataset_path": "json",
            "test_split": "test",
            "dataset_kwargs": {
                "data_files": {key: str(home / f"{name}.jsonl") for key, name in paths.items()}
            },
        }

    asked = data("test", train="train") | {"fewshot_split": "train", "num_fewshot": 2}
    tasks: dict[str, dict[str, Any]] = {
        "sums": WRITTEN | asked,
        "marks": MARKED | asked,
        "options": CHOSEN | asked,
        "stories": ROLLED | data("short"),
        "long_stories": ROLLED | data("text"),
        "drawn": WRITTEN | asked | {"generation_kwargs": {
            "until": ["\n"], "do_sample": True, "temperature": 0.7, "max_gen_toks": 6}},
        "beams": WRITTEN | asked | {"generation_kwargs": {"until": ["\n"], "num_beams": 4}},
        "remote": WRITTEN | asked | {"dataset_path": "nobody/nothing", "unsafe_code": False},
        "pictures": WRITTEN | asked | {"doc_to_image": ["question"]},
        "unsafe": WRITTEN | asked | {"unsafe_code": True},
    }  # fmt: skip
    (home / "tasks").mkdir()
    for name, config in tasks.items():
        (home / "tasks" / f"{name}.yaml").write_text(yaml.safe_dump({"task": name} | config))
    group = {"group": "both", "task": ["options", "options_again"],
             "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}]}  # fmt: skip
    again = CHOSEN | data("test", train="train") | {"task": "options_again", "num_fewshot": 0}
    (home / "tasks" / "both.yaml").write_text(yaml.safe_dump(group))
    (home / "tasks" / "again.yaml").write_text(yaml.safe_dump(again))
    loose = {"group": "loose", "task": ["sums", "options"]}
    (home / "tasks" / "loose.yaml").write_text(yaml.safe_dump(loose))
    return home


@pytest.fixture(scope="module")
def backend(home: Path) -> Backend:
    return transformers(str(home / "model"))


def entry(home: Path, name: str, **keys: Any) -> BenchmarkEntry:
    options = {"include_path": str(home / "tasks")} | keys.pop("options", {})
    return BenchmarkEntry(name=f"lm_eval/{name}", options=options, **keys)


def run(
    home: Path, backend: Backend, name: str, samples: Path, **keys: Any
) -> dict[str, dict[str, Any]]:
    return lm_eval.run_task(
        backend, entry(home, name, **keys), where="r.yaml", store=None, samples_folder=samples,
        seed=0, limit=None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def theirs(home: Path) -> dict[str, Any]:
    """What lm-eval's own HFLM gives for the same model and tasks."""
    pytest.importorskip("accelerate", reason="lm-eval's own model needs lm-eval[hf]")
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model = HFLM(pretrained=str(home / "model"), device="cpu", dtype="float32", batch_size=2)
    manager = TaskManager(include_path=str(home / "tasks"), include_defaults=False)
    results: dict[str, Any] = {}
    for name in ("sums", "marks", "options", "stories", "long_stories", "both"):
        results[name] = simple_evaluate(
            model=model, tasks=[name], task_manager=manager, bootstrap_iters=0
        )
    return results


@needs_it
@pytest.mark.parametrize("name", ["sums", "marks", "options", "stories"])
def test_the_figures_are_those_of_lm_eval(
    home: Path, backend: Backend, theirs: dict[str, Any], name: str, tmp_path: Path
) -> None:
    cell = run(home, backend, name, tmp_path)[f"lm_eval:{name}"]
    wanted = {key: value for key, value in theirs[name]["results"][name].items()
              if "," in key and "_stderr" not in key}  # fmt: skip
    first = {"sums": "exact_match,strict", "marks": "exact_match,none", "options": "acc,none",
             "stories": "bits_per_byte,none"}[name]  # fmt: skip
    others = set(wanted) - {first}
    assert cell["metric"] == first
    assert cell["accuracy"] == pytest.approx(wanted[first], abs=1e-4)
    if name in ("marks", "options"):
        assert 0 < cell["accuracy"] < 1
        assert cell["correct"] == round(5 * cell["accuracy"])
    assert cell.get("rules", {}) == {key: pytest.approx(wanted[key], abs=1e-4) for key in others}
    assert cell["total"] == len(theirs[name]["samples"][name]) // (2 if name == "sums" else 1)
    assert cell["form"] == "base"
    assert cell["low"] <= cell["accuracy"] <= cell["high"]


@needs_it
def test_every_answer_is_that_of_lm_eval(
    home: Path, backend: Backend, theirs: dict[str, Any], tmp_path: Path
) -> None:
    cell = run(home, backend, "sums", tmp_path)["lm_eval:sums"]
    lines = (tmp_path / "lm_eval:sums.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    samples = [one for one in theirs["sums"]["samples"]["sums"] if one["filter"] == "strict"]
    assert [row["answer"] for row in rows] == [one["resps"][0][0] for one in samples]
    assert [row["prompt"] for row in rows] == [one["arguments"][0][0] for one in samples]
    assert rows[0]["prompt"].count("A:") == 3
    assert [row["gold"] for row in rows] == [gold for _, gold in SUMS]
    assert [row["id"] for row in rows] == [f"sums/{place}" for place in range(5)]
    assert any(row["answer"] for row in rows)
    assert cell["length"] == sum(row["tokens"] for row in rows) / 5
    assert cell["unfinished"] == sum(not row["finished"] for row in rows)
    assert sum(cell["reasons"].values()) == 5
    assert cell["unparsed"] == sum(row["reason"] in ("unparsable", "empty") for row in rows)
    assert cell["shots"] == 2


@needs_it
def test_choices_are_those_of_lm_eval(
    home: Path, backend: Backend, theirs: dict[str, Any], tmp_path: Path
) -> None:
    run(home, backend, "options", tmp_path)
    rows = [json.loads(line) for line in
            (tmp_path / "lm_eval:options.jsonl").read_text().splitlines()]  # fmt: skip
    for row, sample in zip(rows, theirs["options"]["samples"]["options"], strict=True):
        nats = [float(one[0][0]) for one in sample["resps"]]
        best = nats.index(max(nats))
        assert row["answer"] == sample["arguments"][best][1]
        assert row["correct"] == bool(sample["acc"])
        assert row["gold"] == dict(SUMS)[row["prompt"].rpartition("Q: ")[2].removesuffix("\nA:")]


@needs_it
def test_a_text_longer_than_the_context_is_nearly_that_of_lm_eval(
    home: Path, backend: Backend, theirs: dict[str, Any], tmp_path: Path
) -> None:
    cell = run(home, backend, "long_stories", tmp_path)["lm_eval:long_stories"]
    wanted = theirs["long_stories"]["results"]["long_stories"]["bits_per_byte,none"]
    assert cell["accuracy"] == pytest.approx(wanted, rel=0.05)
    assert cell["lower_is_better"] is True
    assert cell["reasons"] == {"measured": 4}


@needs_it
def test_a_group_with_a_score_is_one_row(
    home: Path, backend: Backend, theirs: dict[str, Any], tmp_path: Path
) -> None:
    cells = run(home, backend, "both", tmp_path)
    assert list(cells) == ["lm_eval:both"]
    cell = cells["lm_eval:both"]
    results = theirs["both"]["results"]
    assert cell["accuracy"] == pytest.approx(results["both"]["acc,none"], abs=1e-4)
    assert cell["subjects"] == {
        name: [pytest.approx(results[name]["acc,none"], abs=1e-4), 5]
        for name in ("options", "options_again")
    }
    assert (cell["total"], cell["shots"]) == (10, 2)
    assert len((tmp_path / "lm_eval:both.jsonl").read_text().splitlines()) == 10


@needs_it
def test_a_group_without_one_is_a_row_for_each_task(
    home: Path, backend: Backend, tmp_path: Path
) -> None:
    assert list(run(home, backend, "loose", tmp_path)) == ["lm_eval:sums", "lm_eval:options"]
    kept = run(home, backend, "loose", tmp_path, only=["options"])
    assert list(kept) == ["lm_eval:options"]
    with pytest.raises(UserError, match=r"no task 'option'.*'options'"):
        run(home, backend, "loose", tmp_path, only=["option"])


@needs_it
def test_options_of_an_entry(home: Path, backend: Backend, tmp_path: Path) -> None:
    plain = run(home, backend, "options", tmp_path)["lm_eval:options"]
    cell = run(home, backend, "options", tmp_path, shots=0, options={"metric": "acc_norm"})
    assert cell["lm_eval:options"]["shots"] == 0
    assert cell["lm_eval:options"]["metric"] == "acc_norm,none"
    assert set(cell["lm_eval:options"]["rules"]) == {"acc,none"}
    # The task's own two shots are back for the next entry.
    assert run(home, backend, "options", tmp_path)["lm_eval:options"] == plain
    longer = {"gen_kwargs": {"max_gen_toks": 3, "until": []}, "system_instruction": "Count."}
    run(home, backend, "sums", tmp_path, options=longer)
    lines = (tmp_path / "lm_eval:sums.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert {row["tokens"] for row in rows} == {3}
    assert all(row["prompt"].startswith("Count.") for row in rows)
    assert {row["finished"] for row in rows} == {False}


@needs_it
def test_a_limit(home: Path, backend: Backend, tmp_path: Path) -> None:
    cells = lm_eval.run_task(
        backend, entry(home, "sums"), where="r.yaml", store=None, samples_folder=tmp_path, seed=0,
        limit=2,
    )  # fmt: skip
    assert cells["lm_eval:sums"]["total"] == 2


@needs_it
def test_drawn_answers_are_those_of_the_seed(home: Path, backend: Backend, tmp_path: Path) -> None:
    def drawn(seed: int) -> str:
        lm_eval.run_task(
            backend, entry(home, "drawn"), where="r.yaml", store=None, samples_folder=tmp_path,
            seed=seed, limit=None,
        )  # fmt: skip
        return (tmp_path / "lm_eval:drawn.jsonl").read_text()

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


@needs_it
def test_a_conversation(home: Path, tmp_path: Path) -> None:
    """With a chat template each example is a turn, as the template writes it."""
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}" \
               "{% if add_generation_prompt %}<assistant>{% endif %}"  # fmt: skip
    folder = pico_llama(tmp_path / "chat", seed=3)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    chat = transformers(str(folder))
    assert run(home, chat, "options", tmp_path)["lm_eval:options"]["form"] == "chat"
    row = json.loads((tmp_path / "lm_eval:options.jsonl").read_text().splitlines()[0])
    assert row["prompt"].count("<user>Q:") == 3
    assert row["prompt"].endswith("<user>Q: 2 + 3\nA:<assistant>")
    cell = run(home, chat, "options", tmp_path, form="base")["lm_eval:options"]
    assert cell["form"] == "base"
    with pytest.raises(UserError, match=r"without a chat template.*form: base"):
        run(home, transformers(str(home / "model")), "options", tmp_path, form="chat")


@needs_it
@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("nothing", {}, "no task 'nothing'"),
        ("sums", {"options": {"shots": 3}}, "shots"),
        ("sums", {"options": {"include_path": "/no/such"}}, "no such folder"),
        ("sums", {"shots": 1, "options": {"num_fewshot": 2}}, "shots: 1 and num_fewshot: 2"),
        ("sums", {"data": "x.jsonl"}, "no such key"),
        ("unsafe", {}, "sandbox.*unsafe_code: true"),
        ("remote", {}, "cannot be loaded"),
        ("pictures", {}, "pictures or sound"),
    ],
)
def test_what_is_refused_before_work_starts(
    home: Path, name: str, keys: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    if name == "nothing":  # its own tasks take ten seconds to read
        from lm_eval.tasks import TaskManager

        few = TaskManager(include_path=str(home / "tasks"), include_defaults=False)
        monkeypatch.setattr(lm_eval, "_manager", lambda *_: few)
    with pytest.raises(UserError, match=message):
        lm_eval.check_task(entry(home, name, **keys), "r.yaml: benchmarks[0]")


@needs_it
def test_unsafe_code_can_be_accepted(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)
    lm_eval.check_task(entry(home, "unsafe"), "r.yaml", unsafe_code=True)


@needs_it
def test_a_keyword_that_no_backend_follows(home: Path, backend: Backend, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"generation_kwargs.num_beams.*found 4"):
        run(home, backend, "beams", tmp_path)


def test_rows_in_which_lower_is_better_are_not_compared(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rows with the same answers, of which one says that lower is better."""

    def answered(
        backend: Backend, asked: BenchmarkEntry, *, samples_folder: Path, **_: object
    ) -> dict[str, Any]:
        row = asked.name.replace("/", ":")
        marks = [{"id": str(n), "correct": n % 2 == 0} for n in range(6)]
        samples_folder.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(mark) + "\n" for mark in marks)
        (samples_folder / f"{row}.jsonl").write_text(text)
        lower = {"lower_is_better": True} if asked.name.endswith("errors") else {}
        cell = {"accuracy": 0.5, "correct": 3, "total": 6, "low": 0.1, "high": 0.9, "unparsed": 0,
                "reasons": {}, "shots": 0, "form": "base", **lower}  # fmt: skip
        return {row: cell}

    monkeypatch.setattr(lm_eval, "check_task", lambda *_, **__: None)
    monkeypatch.setattr(lm_eval, "run_task", answered)
    data = {
        "models": {"expert": str(home / "model"), "merged": str(home / "model")},
        "benchmarks": [{"name": f"lm_eval/{name}"} for name in ("errors", "sums")],
        "roles": {"expert": "expert", "merged": "merge"},
        "compare": [["expert", "merged"]],
        "combined": {"lm_eval:errors": ["lm_eval:sums", "lm_eval:sums"],
                     "lm_eval:sums": ["lm_eval:errors", "lm_eval:sums"]},
    }  # fmt: skip
    execute(data, tmp_path / "out", where="r.yaml")
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert set(record["scores"]["merged"]) == {"lm_eval:errors", "lm_eval:sums"}
    assert [row["benchmark"] for row in record["comparisons"]] == ["lm_eval:sums"]
    (gain,) = record["combined"]
    assert (gain["pair"], gain["twins"]) == ("lm_eval:sums", {"lm_eval:sums": 0.5})
    assert "independent" not in gain


@needs_it
def test_models_are_compared_on_its_tasks_as_well(home: Path, tmp_path: Path) -> None:
    pico_llama(tmp_path / "other", seed=8)
    names = ("options", "marks", "stories")
    data = {
        "models": {"one": str(home / "model"), "two": str(tmp_path / "other")},
        "benchmarks": [entry(home, name).model_dump() for name in names],
        "groups": {"mean": ["lm_eval:options", "lm_eval:marks"]},
        "compare": [["one", "two"]],
        "cache": False,
    }
    execute(data, tmp_path / "out", where="r.yaml")
    record = json.loads((tmp_path / "out/run.json").read_text())
    rows = {row["benchmark"]: row for row in record["comparisons"]}
    assert set(rows) == {"lm_eval:options", "lm_eval:marks"}  # bits per byte are no scores
    for name, row in rows.items():
        first, second = (record["scores"][model][name]["accuracy"] for model in ("one", "two"))
        assert row["difference"] == pytest.approx(second - first, abs=1e-3)
        assert row["items"] == len(SUMS)
    with pytest.raises(UserError, match=r"groups\.mean: unknown row 'options'"):
        check(data | {"groups": {"mean": ["options"]}}, where="r.yaml")
