"""The README of an export: what the files are, how to run them, and what was proven."""

from typing import Any

from smelt.export.vocabulary import Vocabulary


def card(
    files: dict[str, Any],
    proofs: dict[str, Any],
    vocabulary: Vocabulary,
    limits: list[str],
    runtime: str,
) -> str:
    """Markdown. files and proofs: as in the run record, by file name."""
    first = next(iter(files))
    lines = [
        "# Exported model",
        "",
        "Run it with llama.cpp, or with anything that reads GGUF:",
        "",
        "```",
        f"llama-cli -m {first}" + (" -no-cnv -p 'Once upon a time'" if _plain(vocabulary) else ""),
        f"llama-server -m {first}",
        "```",
        "",
        f"End token: `{vocabulary.tokens[vocabulary.eos_id]}`. Begin token added: "
        f"{'yes' if vocabulary.add_bos else 'no'}. "
        f"Chat template: {'none' if _plain(vocabulary) else 'in the file'}.",
        "",
        "| file | MB | bits per weight | sha256 |",
        "|---|--:|--:|---|",
        *(
            f"| {name} | {row['bytes'] / 1e6:.2f} | {row['bits_per_weight']} | `{row['sha256']}` |"
            for name, row in files.items()
        ),
        "",
        f"Compared with the source in float32, by llama.cpp (xllamacpp {runtime}, one thread, "
        "float32 key/value cache):",
        "",
        "| file | texts tokenized equally | positions | same greedy tokens | same top token "
        "| divergence (nats) | largest log-probability difference |",
        "|---|--:|--:|--:|--:|--:|--:|",
        *(
            f"| {name} | {row['texts']} of {row['texts']} | {row['positions']} "
            f"| {row['greedy_agreement']:.2f} | {row['top1_agreement']:.2f} | {row['kl']:g} "
            f"| {row['max_difference']:g} |"
            for name, row in proofs.items()
        ),
    ]
    kept = {name: row["kept_f16"] for name, row in files.items() if row["kept_f16"]}
    for name, tensors in kept.items():
        text = f"{name}: {len(tensors)} matrices stay float16: their rows are no multiple of 32."
        lines += ["", text]
    for limit in limits:
        lines += ["", f"Limit: {limit}"]
    return "\n".join(lines) + "\n"


def _plain(vocabulary: Vocabulary) -> bool:
    return vocabulary.chat_template is None
