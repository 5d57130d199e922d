"""What needs time: windows, absence, joins."""
