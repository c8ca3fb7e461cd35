"""Evaluation of a model on long text, beside baselines on the same items; docs/evaluation.md."""
