"""What made the default adapter: its data, generated tasks and recipes."""
