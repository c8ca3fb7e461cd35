"""Selected nodes -> KV in the upper model."""
