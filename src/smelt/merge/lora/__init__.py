"""LoRA adapters out of a fine-tuned model (`smelt extract`)."""
