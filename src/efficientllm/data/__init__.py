"""Text to token files: corpus readers, tokenizer, packing, deterministic order."""
