"""Raw requests as they really arrive, for `send --example`, walk, tests, docs and the demo."""
