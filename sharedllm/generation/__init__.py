"""A prompt with its evidence -> the tokens and the text of an answer."""
