"""How well sound and picture of a model's clips belong together, measured without any other network."""
