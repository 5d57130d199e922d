"""What Trunkline costs beside its peers: measured, not claimed."""
