# `make demo` and `make test` set up everything they need; the prerequisites are Python 3.11+ and make.

PYTHON ?= python3
PORT ?= 8080
# More workers than cores: most tests wait for I/O. This is for the first part of `make test`; the others have 2.
WORKERS ?= 4

VENV := .venv
PY := $(VENV)/bin/python
# If everything hangs, --maxfail ends it after minutes.
PYTEST = $(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --maxfail 20
PIP := $(PY) -m pip --quiet --no-input --disable-pip-version-check
NODE_MODULES := node_modules/.installed
COMPATIBILITY := .compatibility/.installed
APPLICATIONS := .applications/.installed
BYTECODE := $(VENV)/.bytecode
TORNADOS = $(shell sed -n 's/^.*tornado==\([0-9]*\.[0-9]*\.[0-9]*\)$$/\1/p' tox.ini)
SPEEDUPS := $(wildcard sockjs_tornado/_c/*.[ch])

# Tests of responses that depend only on the header fields of one request, and of modules that do not depend on the rest.
ONCE := %_budget.py %_endpoint.py %_forms.py %_http_transports.py %_on_nodes.py %_origins.py %_pages.py %_payloads.py \
	%_recovery.py %_tornado_suite.py

# Tests whose result may depend on the event loop or on C. Processes that tests start choose their own event loop.
CONFORMANCE := $(filter-out $(ONCE),$(wildcard \
	$(addsuffix /test_*.py,tests/cluster tests/server_package tests/transports tests/wire))) tests/http/test_handover.py \
	$(addprefix tests/session/test_,any_order.py backpressure.py callback_budget.py closing.py grace.py lifetime.py \
	rooms.py sending.py session.py) \
	$(addprefix tests/test_,bad_input.py caps.py connection.py drain.py protocol.py router.py)
# Those of them whose requests get the same response on every event loop, and those of the data that nodes have in Redis,
# since other tests use the same connections. Programs choose their own event loop.
ON_ANY_LOOP := %_jsonp.py %_requester.py %_routes.py %_routing.py tests/transports/test_sending.py \
	$(addprefix tests/cluster/test_,catch_up.py claim_format.py claims.py control.py credentials.py envelope.py \
	envelope_signing.py history.py http_api.py idempotency.py presence.py recovery_connection.py redis_content.py \
	secret.py sentinel.py serve_workers.py signing.py topics.py)
# Those of them that test modules without a twin in C, which C does not call either.
NOT_IN_C := $(filter-out %_redis_cluster.py,$(wildcard tests/cluster/test_*.py)) tests/session/test_grace.py \
	$(addprefix tests/wire/test_,close_notify.py deflate.py handshake.py pending.py scanner.py tornado_internals.py)

# Tests of requests that both HTTP servers serve alike: Tornado's in the first part of `make test`, the native one in the
# other parts.
ON_BOTH_SERVERS := $(filter-out $(NOT_IN_C),$(filter tests/session/% tests/transports/% tests/test_%,$(CONFORMANCE))) \
	$(addprefix tests/cluster/test_,forwarding.py relay.py) $(addprefix tests/http/test_,body_limit.py handlers.py) \
	$(addprefix tests/test_,bad_requests.py security.py)

# Those that run without C, too.
WITHOUT_C := $(filter-out $(NOT_IN_C),$(CONFORMANCE)) $(ON_BOTH_SERVERS)
# Only then does coverage trace them, which takes as long as the tests themselves; except for a module that needs C.
UNTRACED := $(filter-out %_repeated.py,$(WITHOUT_C))

# Tests of requests that Tornado's handlers serve if its connections are not adopted.
BY_HANDLERS := $(filter-out $(ONCE),$(wildcard tests/http/test_*.py tests/transports/test_*.py))

# Tests of whole servers, behind proxies and with clients of other packages, that depend on how a server ends connections
# and on what it does after a stall. They run on both servers, too.
WHOLE_SERVERS := $(addprefix tests/deployment/test_,proxies.py resets.py smuggling.py stalls.py terminated_tls.py) \
	tests/browser/test_closing.py tests/test_ws4py.py

# Files of the parts of `make test`: coverage, and the output of those that run beside the first one.
PARTS := build/parts
# Of all parts on asyncio together. The parts without C measure the code that C replaces, and the native server.
COVERAGE = --cov --cov-report= --cov-fail-under=0
export COVERAGE_FILE

SANITIZED := build/sanitized
SANITIZERS := -fsanitize=address,undefined -fno-omit-frame-pointer

# Compile modules once, instead of in each worker and in each program that a test starts.
unexport PYTHONDONTWRITEBYTECODE

# Make prerequisites in the order in which they are listed, also with `make -j`.
.NOTPARALLEL:
.DELETE_ON_ERROR:

.PHONY: help
help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- commands ----------------------------------------------------------------

.PHONY: demo
demo: $(if $(REDIS),$(VENV)/.redis)
demo: demo-downloads $(VENV)/.demo ## serve the examples on http://localhost:8080 (PORT=8081; REDIS=redis://localhost)
	@echo "Starting the examples. Stop them with Ctrl-C."
	@$(PY) examples/demo.py --port $(PORT) $(if $(REDIS),--redis '$(REDIS)')

.PHONY: demo-downloads
demo-downloads: $(VENV)/.created # at the same time, before the package is built, which copies the files of npm
	@printf '%s\n' $(VENV)/.tornado demo-scripts | xargs -P 2 -I {} $(MAKE) -s --no-print-directory {}

.PHONY: demo-scripts
demo-scripts: # not with apt-get, which would take longer than everything else
	@if ! command -v npm >/dev/null; then \
		echo "npm is missing: the pages load sockjs-client from a CDN, and the dashboard is not available. To change"; \
		echo "that: scripts/system-packages node"; \
	elif [ ! $(NODE_MODULES) -nt package-lock.json ]; then \
		echo "Installing sockjs-client ..."; \
		$(MAKE) -s --no-print-directory $(NODE_MODULES) >/dev/null || \
			echo "npm has failed: the pages load sockjs-client from a CDN, and the dashboard is not available."; \
	fi

.PHONY: test
test: test-downloads $(VENV)/.test ## lint, types, docs, then all tests with coverage (ARGS=... goes to pytest)
	@# At the same time: each of them uses one core.
	@printf '%s\n' types $(BYTECODE) docs lint | xargs -P 4 -I {} $(MAKE) --no-print-directory {}
	@rm -rf $(PARTS)
	@printf '%s\n' test-asyncio test-others | xargs -P 2 -I {} $(MAKE) --no-print-directory {}
	$(PY) -m coverage combine --quiet $(PARTS)/coverage/*
	$(PY) -m coverage report

.PHONY: test-downloads
test-downloads: $(VENV)/.created # at the same time, before the package is built, which copies the files of npm
	@printf '%s\n' $(VENV)/.packages test-scripts $(COMPATIBILITY) | xargs -P 3 -I {} $(MAKE) --no-print-directory {}
	@printf '%s\n' test-environment $(APPLICATIONS) | xargs -P 2 -I {} $(MAKE) --no-print-directory {}

.PHONY: test-scripts
test-scripts: test-system $(NODE_MODULES)

.PHONY: test-environment
test-environment: $(VENV)/.test $(VENV)/.docs

# Each part writes a coverage file of its own.
test-%: COVERAGE_FILE = $(PARTS)/coverage/$@
test-others: export WORKERS = 2

.PHONY: test-asyncio
test-asyncio: $(VENV)/.test
	$(PYTEST) $(COVERAGE) --untraced "$(UNTRACED)" $(ARGS)

.PHONY: test-others
test-others: # while the tests of the first part wait; each prints its output when it has ended
	@mkdir -p $(PARTS); for part in unadopted uvloop uvloop-native plain plain-native; do \
		$(MAKE) --no-print-directory test-$$part >$(PARTS)/$$part.log 2>&1 || status=$$?; \
		echo; cat $(PARTS)/$$part.log; \
	done; exit $${status-0}

.PHONY: test-unadopted
test-unadopted: $(VENV)/.test # Tornado does not notice that a client leaves while a request of it waits behind another one
	PYTHONPATH=tests $(PYTEST) --quiet $(COVERAGE) -p unadopted -k "not behind_a_held_poll" $(BY_HANDLERS)

.PHONY: test-uvloop
test-uvloop: $(VENV)/.test # as a TLS client, it loses the last data before the end; tests/deployment tests it as a TLS server
	$(PYTEST) --quiet --loop uvloop -k "not over_tls" \
		$(filter-out $(ON_ANY_LOOP) $(ON_BOTH_SERVERS),$(CONFORMANCE))

.PHONY: test-uvloop-native
test-uvloop-native: $(VENV)/.test
	PYTHONPATH=tests $(PYTEST) --quiet --loop uvloop -p native \
		$(filter-out $(ON_ANY_LOOP),$(filter $(ON_BOTH_SERVERS),$(CONFORMANCE)))

.PHONY: test-plain
test-plain: $(VENV)/.test
	PYTHONPATH=tests $(PYTEST) --quiet $(COVERAGE) -p plain $(filter-out $(ON_BOTH_SERVERS),$(WITHOUT_C))

.PHONY: test-plain-native
test-plain-native: $(VENV)/.test
	PYTHONPATH=tests $(PYTEST) --quiet $(COVERAGE) -p plain -p native $(ON_BOTH_SERVERS) $(WHOLE_SERVERS)

.PHONY: soak
soak: $(VENV)/.test ## connect and disconnect clients of every kind, and check that nothing leaks (SECONDS=600; ARGS=...)
	PYTHONPATH=tests $(PY) -W default -m soak --duration $(or $(SECONDS),600) $(ARGS)

.PHONY: fuzz
fuzz: $(VENV)/.test ## search for inputs that break the parsers, handlers and settings (SECONDS=3600; ARGS=...)
	$(PY) -m fuzz all --seconds $(or $(SECONDS),3600) $(ARGS)

.PHONY: sanitize
sanitize: $(VENV)/.test ## run tests with AddressSanitizer and UBSan in the C module (Linux, gcc; ARGS=...)
	rm -rf $(SANITIZED) && mkdir -p $(SANITIZED) && cp -r sockjs_tornado $(SANITIZED) && rm -f $(SANITIZED)/*/*.so
	CFLAGS="-g -O1 $(SANITIZERS) -fno-sanitize-recover=all" LDFLAGS="$(SANITIZERS)" SOCKJS_TORNADO_REQUIRE_C=1 \
		$(PY) setup.py --quiet build_ext --build-lib $(SANITIZED) --build-temp $(SANITIZED)/objects
	@# Not `python -m pytest`, which would import the package from here.
	LD_PRELOAD="$(foreach name,asan ubsan,$(shell gcc -print-file-name=lib$(name).so))" PYTHONMALLOC=malloc \
		ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=$(SANITIZED) $(VENV)/bin/pytest -n 2 --dist loadfile \
		$(or $(ARGS),tests/test_core.py tests/test_speedups.py tests/server_package tests/transports tests/wire)

.PHONY: bench
bench: $(VENV)/.test ## compare with other SockJS servers, into build/benchmarks (an hour; QUICK=1 takes 5 minutes; ARGS=...)
	@scripts/system-packages node proxies
	$(PY) benchmarks/compare.py $(if $(QUICK),--quick) $(ARGS)

.PHONY: lint
lint: $(VENV)/.test ## check format and style with ruff, and the pinned packages for known vulnerabilities
	$(PY) -m ruff format --check . scripts/audit scripts/browser-files scripts/check-installed
	$(PY) -m ruff check . scripts/audit scripts/browser-files scripts/check-installed
	$(PY) scripts/audit

.PHONY: types
types: $(VENV)/.test ## check the types with mypy
	$(PY) -m mypy --strict

.PHONY: docs
docs: $(VENV)/.docs ## build the documentation into build/docs; open index.html there
	@# Build from scratch each time, which takes seconds: an incremental build does not repeat warnings.
	$(PY) -m sphinx --quiet --fail-on-warning --nitpicky --fresh-env --doctree-dir build/doctrees docs build/docs

.PHONY: dist
dist: dist-system $(VENV)/.release $(NODE_MODULES) ## build a source distribution and a wheel into dist/, and check them
	rm -rf dist *.egg-info
	SOCKJS_TORNADO_REQUIRE_C=1 SOCKJS_TORNADO_REQUIRE_BROWSER_FILES=1 $(PY) -m build --no-isolation --outdir dist .
	@# Here, importlib.metadata would find this before what is installed, and the next build would read its list of files.
	rm -rf *.egg-info
	@$(MAKE) --no-print-directory check-dist

.PHONY: check-dist
check-dist: $(VENV)/.release # of the files in dist/, wherever they were built
	$(PY) -m twine check --strict dist/*
	$(PY) -m check_wheel_contents --toplevel sockjs,sockjs_tornado dist/*.whl

.PHONY: format
format: $(VENV)/.test ## format the code and fix what ruff can fix
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

.PHONY: lock
lock: $(VENV)/.created ## pin the newest versions of all dependencies in requirements/
	scripts/lock $(PYTHON)

.PHONY: clean
clean: ## remove all generated files
	rm -rf $(VENV) node_modules .compatibility .applications build dist wheelhouse *.egg-info htmlcov
	rm -rf .coverage .coverage.* .tox
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -rf sockjs_tornado/*.so sockjs_tornado/static
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- set-up: a stamp file is made again when its prerequisites change --------

.PHONY: test-system
test-system: # without a stamp file: it only checks whether a few commands exist
	@scripts/system-packages node chromium proxies redis

.PHONY: dist-system
dist-system: # the same
	@scripts/system-packages node

$(VENV)/.created:
	@scripts/system-packages python $(PYTHON)
	@echo "Creating a virtual environment in $(VENV) ..."
	@# If $(PYTHON) has pip, it installs its own version in a third of the time that ensurepip takes.
	@$(PYTHON) -m venv --clear --without-pip $(VENV)
	@{ version=$$($(PYTHON) -m pip --version) && $(PYTHON) -m pip --python $(PY) install --quiet --no-input \
		--disable-pip-version-check --retries 0 --no-compile "pip==$$(echo $$version | cut -d ' ' -f 2)"; } 2>/dev/null || \
		$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.tornado: requirements/demo.txt | $(VENV)/.created
	@echo "Installing Tornado ..."
	@$(PIP) install --no-deps --no-compile -r requirements/demo.txt
	@touch $@

$(VENV)/.demo: setup.py $(SPEEDUPS) $(VENV)/.tornado
	@echo "Building the package ..."
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

# The packages of the extra `cluster`.
$(VENV)/.redis: requirements/test.txt | $(VENV)/.created
	@echo "Installing redis-py ..."
	@$(PIP) install --no-compile --constraint requirements/test.txt redis hiredis
	@touch $@

# Byte code is compiled for what is imported, as below.
$(VENV)/.packages: requirements/test.txt | $(VENV)/.created
	@scripts/system-packages compiler $(PYTHON)
	$(PIP) install --no-deps --no-compile -r requirements/test.txt
	@touch $@

$(VENV)/.test: setup.py $(SPEEDUPS) $(VENV)/.packages
	$(PIP) install --no-deps --no-build-isolation -e .
	$(PIP) check
	@touch $@

$(VENV)/.docs: requirements/docs.txt setup.py | $(VENV)/.created
	$(PIP) install --no-deps --no-compile -r requirements/docs.txt
	test -e $(VENV)/.test || $(PIP) install --no-deps --no-build-isolation -e .
	$(PIP) check
	@touch $@

$(VENV)/.release: requirements/release.txt setup.py $(SPEEDUPS) | $(VENV)/.created
	@scripts/system-packages compiler $(PYTHON)
	$(PIP) install --no-deps -r requirements/release.txt
	@touch $@

# The byte code of the tests, which each worker of the first run would compile for itself. Later changes are compiled when
# they are imported.
$(BYTECODE): | $(VENV)/.test
	$(PY) -m pytest --collect-only -qqq >$@.log || { cat $@.log; exit 1; }
	@touch $@

# The 1.0 package, in a directory that only the compatibility tests use, and the releases of Tornado that tox.ini pins.
$(COMPATIBILITY): requirements/compatibility.txt tox.ini | $(VENV)/.created
	rm -rf $(@D)
	$(PIP) install --no-deps --target $(@D) -r requirements/compatibility.txt
	set -e; for release in $(TORNADOS); do \
		$(PIP) install --no-deps --target $(@D)/tornado-$$release tornado==$$release; \
	done
	@touch $@

# Real applications, each set of packages in a directory that only the tests of these applications use.
$(APPLICATIONS): requirements/applications/octoprint.txt requirements/applications/others.txt | $(VENV)/.packages
	rm -rf $(@D)
	set -e; for name in octoprint others; do \
		$(PIP) install --no-deps --no-compile --no-build-isolation --target $(@D)/$$name \
			-r requirements/applications/$$name.txt; \
	done
	@touch $@

$(NODE_MODULES): package.json package-lock.json scripts/browser-files
	npm ci --no-audit --no-fund
	$(PYTHON) scripts/browser-files
	@touch $@
