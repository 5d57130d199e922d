"""The topology as values: declared, checked, drawn and walked through without any I/O."""
