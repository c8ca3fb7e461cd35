"""Training of adapters and the query projection (extra ``train``); not used when answering."""
