"""Hooks that evaluate the model: when, how it is tested, and which score is the best."""
