"""Questions about all of a document: their scope, reading in parts, and exact joining."""
