"""Readers: what turns a conversation with its evidence into an answer."""
