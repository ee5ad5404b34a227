"""From a trained model to a verified bundle: trace, lower, lint, check through the shipped runtime."""
