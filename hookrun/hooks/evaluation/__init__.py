"""EvalHook and DistEvalHook, their parts, and functions that run a model over a test set."""
