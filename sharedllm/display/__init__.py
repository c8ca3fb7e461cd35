"""Pictures of documents, context trees, evidence and answers: notebook, terminal, page, plot."""
