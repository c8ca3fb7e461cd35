"""The only place that touches transformers' internals: families, rotation, attention, caches."""
