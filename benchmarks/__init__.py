"""Scripts that measure, and what they measured: benchmarks/README.md."""
