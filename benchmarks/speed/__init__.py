"""Speed and memory of every phase beside other ways to read long contexts."""
