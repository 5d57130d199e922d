# Two commands do everything: `make demo` and `make test`. Each sets up what it needs.
PY := .venv/bin/python

.venv/ready: requirements.lock pyproject.toml
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Trunkline needs Python 3.11 or newer as python3." >&2; exit 2; }
	@test -x $(PY) || python3 -m venv .venv
	@$(PY) -m pip install --disable-pip-version-check --quiet --require-hashes -r requirements.lock
	@$(PY) -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	@touch $@
