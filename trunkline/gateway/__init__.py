"""The one HTTP port of a worker."""
