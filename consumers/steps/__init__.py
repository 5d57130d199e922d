"""Pure functions on events."""
