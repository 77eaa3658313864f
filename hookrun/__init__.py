"""hookrun: a training runner with hooks on a compiled core."""
