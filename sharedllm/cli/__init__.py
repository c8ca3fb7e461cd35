"""The command line: ``sharedllm ask``, memories, evaluation and training."""
