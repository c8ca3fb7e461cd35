"""Text -> search vectors and position-free KV."""
