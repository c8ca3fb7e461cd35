"""Attention of a prompt over its text and injected KV: tensors only, no transformers.

Shapes: B batch, H query heads, G key/value heads, T queries, S keys, D head dim.
"""
