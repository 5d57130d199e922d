"""The command line: data on stdout, talk on stderr; 0 ok, 1 failed, 2 wrong use or wrong declaration."""
