"""Where events go: steps and sinks."""
