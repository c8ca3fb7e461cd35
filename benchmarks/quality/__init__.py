"""Quality on long text: RULER, questions, perplexity, chains, and what they are compared with."""
