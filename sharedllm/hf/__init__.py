"""Everything that depends on transformers: loading, families, rotation, attention, caches, LoRA."""
