"""One file per target API."""
