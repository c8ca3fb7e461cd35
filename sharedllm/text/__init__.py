"""Files and texts -> tokens, chunks and context trees."""
