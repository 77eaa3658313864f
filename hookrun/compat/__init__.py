"""What lets code written for other runners use hookrun unchanged."""
