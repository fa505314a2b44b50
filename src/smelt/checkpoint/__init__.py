"""Checkpoint folders: safetensors, names of tensors, configuration, tokenizer files."""
