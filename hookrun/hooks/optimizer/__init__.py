"""From a loss to updated parameters: the optimizer phase, its parts, and the hooks that make it."""
