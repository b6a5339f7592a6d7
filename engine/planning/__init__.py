"""From a model and a recipe to a plan; no module here imports torch."""
