"""Documents, context trees, evidence and answers, shown: notebook, terminal, page and figure."""
