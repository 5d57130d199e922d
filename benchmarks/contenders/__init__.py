"""One process a contender: each reads the same topic and posts every event to the same target."""
