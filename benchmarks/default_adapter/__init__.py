"""The making of the default adapter: data, tasks, recipes, packed training, evaluation."""
