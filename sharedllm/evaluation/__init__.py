"""Evaluation of a model on long text, with baselines on the same items; docs/evaluation.md."""
