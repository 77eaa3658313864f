"""Hooks that set learning rates and momentums by a schedule."""
