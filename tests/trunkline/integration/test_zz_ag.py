"""Three agent processes come and go every few seconds; windows open; kill -9."""
