"""The making of the default adapter: data, generated tasks, recipes, packed training, evaluation."""
