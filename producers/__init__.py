"""One file per upstream system: what its requests look like and which events they become."""
