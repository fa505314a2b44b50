"""GGUF: one file with weights, tokenizer and chat template, for llama.cpp and what builds on it.

Our own writer on the pure-Python package `gguf`: the stock converter refuses tokenizers that it
has not seen, and mis-tokenizes SentencePiece-type ones without a word. Matrices are written in
the type asked for, norms in float32, one tensor in memory at a time.
"""

from pathlib import Path
from typing import Any, Literal

import gguf as package
import numpy as np
import numpy.typing as npt

from smelt.checkpoint.reader import Checkpoint
from smelt.core import progress
from smelt.core.errors import UserError
from smelt.export.llama import Llama, read_llama, rotary_order, shape_of, tensor_names
from smelt.export.vocabulary import Vocabulary, read_vocabulary

Type = package.GGMLQuantizationType
_TYPES = {"f32": Type.F32, "f16": Type.F16, "q8_0": Type.Q8_0}
_FILE_TYPES = {
    "f32": package.LlamaFileType.ALL_F32,
    "f16": package.LlamaFileType.MOSTLY_F16,
    "q8_0": package.LlamaFileType.MOSTLY_Q8_0,
}
_LARGEST_F16 = 65504.0


def gguf(folder: Path, out: Path, *, quantize: Literal["f32", "f16", "q8_0"] = "f16") -> Path:
    """Write the Llama checkpoint `folder` to the file `out`, byte-identical when repeated.

    Rows that are no multiple of 32 stay float16 under q8_0. Raises UserError for another
    architecture, a tokenizer that llama.cpp has no equal of, or values beyond float16.
    """
    checkpoint = Checkpoint.open(folder)
    llama = read_llama(checkpoint.config, folder)
    sources = tensor_names(checkpoint.names(), llama, folder)
    for source in sources.values():
        found, wanted = tuple(checkpoint.spec(source).shape), shape_of(source, llama)
        if found != wanted:
            raise UserError(
                f"{folder}: {source}", f"shape {found}", f"{wanted}, as config.json says"
            )
    writer = package.GGUFWriter(out, "llama")
    _add_dimensions(writer, llama, quantize)
    _add_vocabulary(writer, read_vocabulary(folder, llama.vocab_size))
    types = {name: _type(shape_of(source, llama), quantize) for name, source in sources.items()}
    for name, source in sources.items():
        _announce(writer, name, shape_of(source, llama), types[name])
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, source in progress.track(sources.items(), f"write {out.name}", len(sources)):
            weight = checkpoint.read(source).float().numpy()
            if not np.isfinite(weight).all():
                raise UserError(
                    f"{folder}: {source}", "values that are not finite", "a sound model"
                )
            ordered = rotary_order(source, weight, llama)
            writer.write_tensor_data(_encode(ordered, types[name], f"{folder}: {source}"))
    finally:
        writer.close()
    return out


def _type(shape: tuple[int, ...], quantize: str) -> package.GGMLQuantizationType:
    if len(shape) == 1:
        return Type.F32
    wanted = _TYPES[quantize]
    block = package.GGML_QUANT_SIZES[wanted][0]
    return wanted if shape[-1] % block == 0 else Type.F16


def _announce(
    writer: package.GGUFWriter,
    name: str,
    shape: tuple[int, ...],
    kind: package.GGMLQuantizationType,
) -> None:
    block, size = package.GGML_QUANT_SIZES[kind]
    num_bytes = int(np.prod(shape)) // block * size
    writer.add_tensor_info(name, list(shape), np.dtype(np.float32), num_bytes, raw_dtype=kind)


def _encode(
    weight: npt.NDArray[np.float32], kind: package.GGMLQuantizationType, where: str
) -> npt.NDArray[Any]:
    if kind == Type.F32:
        return weight
    # Q8_0 stores a float16 scale (largest / 127) for each block of 32.
    largest = float(np.abs(weight).max(initial=0.0)) / (127.0 if kind == Type.Q8_0 else 1.0)
    if largest > _LARGEST_F16:
        raise UserError(where, f"a value too large for {kind.name}", "quantize: f32")
    if kind == Type.F16:
        return weight.astype(np.float16)
    return package.quants.quantize(weight, kind)


def _add_dimensions(writer: package.GGUFWriter, llama: Llama, quantize: str) -> None:
    writer.add_file_type(_FILE_TYPES[quantize])
    writer.add_quantization_version(package.GGML_QUANT_VERSION)
    writer.add_vocab_size(llama.vocab_size)
    writer.add_context_length(llama.context)
    writer.add_embedding_length(llama.hidden_size)
    writer.add_block_count(llama.layers)
    writer.add_feed_forward_length(llama.intermediate_size)
    writer.add_head_count(llama.heads)
    writer.add_head_count_kv(llama.kv_heads)
    writer.add_key_length(llama.head_dim)
    writer.add_value_length(llama.head_dim)
    writer.add_rope_dimension_count(llama.head_dim)
    writer.add_rope_freq_base(llama.rope_theta)
    writer.add_layer_norm_rms_eps(llama.rms_norm_eps)


def _add_vocabulary(writer: package.GGUFWriter, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model(vocabulary.kind.model)
    writer.add_tokenizer_pre(vocabulary.kind.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.kind.model == "llama":
        writer.add_token_scores(vocabulary.scores)
    else:
        writer.add_token_merges(vocabulary.merges)
    # Without these keys llama.cpp takes fixed ids for control tokens (11 for byte-level BPE).
    bos = vocabulary.eos_id if vocabulary.bos_id is None else vocabulary.bos_id
    writer.add_bos_token_id(bos)
    writer.add_eos_token_id(vocabulary.eos_id)
    if vocabulary.unk_id is not None:
        writer.add_unk_token_id(vocabulary.unk_id)
    if vocabulary.pad_id is not None:
        writer.add_pad_token_id(vocabulary.pad_id)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)
    writer.add_add_space_prefix(vocabulary.kind.add_space_prefix)
    if vocabulary.chat_template is not None:
        writer.add_chat_template(vocabulary.chat_template)
