"""Search alone: is the evidence of a question selected, and is it first? Run with -m."""
