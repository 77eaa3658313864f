"""EvalHook, its parts, and functions that run a model over a test set."""
