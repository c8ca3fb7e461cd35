"""RULER (arXiv:2404.06654), its tasks made at any length from any text."""
