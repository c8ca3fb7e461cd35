"""A prompt -> an answer."""
