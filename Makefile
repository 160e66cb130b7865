# `make` alone shows what there is. Needs python3 and a network the first time; nothing else.

PYTHON := .venv/bin/python
DEVKIT := $(PYTHON) -m boostedcalls.devkit
RUN_HOME := $(or $(BOOSTEDCALLS_HOME),.run)

.DEFAULT_GOAL := help
.PHONY: help setup run test fuzz check fmt migrate streams user password keys sync-stale dead-letters audit chaos chaos-awaits bench bench-quick up down logs

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: # The locked environment in .venv; at once when nothing has changed.
	@scripts/bootstrap

run: setup ## Start everything on this machine: PORT (8000), BOOSTEDCALLS_HOME (.run); Ctrl-C stops it
	@exec $(DEVKIT) run --with-parent

test: setup ## Run every test; ARGS="-k state" chooses
	@QUIET=1 scripts/test-packages
	$(PYTHON) -m pytest -n 4 --dist loadfile --no-loadscope-reorder $(ARGS)

fuzz: setup ## The attack suites, with many more examples: FUZZ_SECONDS (600), FUZZ_SEED, FUZZ_EXAMPLES
	@FUZZ_SECONDS=$(or $(FUZZ_SECONDS),600) FUZZ_SEED=$(or $(FUZZ_SEED),$(shell date +%s)) \
		exec $(PYTHON) -m pytest -n 3 --dist loadfile tests/security $(ARGS)

check: setup ## Lint, types, generated documents, and each package's tests in an environment of its own
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m pyright
	scripts/check-documents
	scripts/advisories
	scripts/test-alone

fmt: setup ## Format the code and mend what the linter can
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

migrate: setup ## Bring the database up to date: of the running `make run`, else of the environment or .env
	@$(DEVKIT) exec gateway migrate
	@$(DEVKIT) exec contacts migrate
	@$(DEVKIT) exec calls migrate

streams: setup ## Make the streams in NATS, or bring them up to date: of the running `make run`, else of .env
	@exec $(DEVKIT) exec common.streams

# As they were typed: make would take a dollar sign in a password for one of its own. The password goes through a pipe,
# since everybody on the machine sees the arguments of a process; printf is none, it belongs to the shell. Make's own
# arguments are seen too: `PASSWORD=… make user EMAIL=…` is in none.
user: override export EMAIL := $(value EMAIL)
user: override export PASSWORD := $(value PASSWORD)
user: setup ## Add a user: EMAIL=… PASSWORD=… (asked for when left out)
	@test -n "$$EMAIL" || { echo 'usage: make user EMAIL=you@example.com [PASSWORD=…]' >&2; exit 2; }
	@if test -n "$$PASSWORD"; then printf '%s\n' "$$PASSWORD" | $(DEVKIT) exec gateway user add "$$EMAIL"; \
	else exec $(DEVKIT) exec gateway user add "$$EMAIL"; fi

password: override export EMAIL := $(value EMAIL)
password: override export PASSWORD := $(value PASSWORD)
password: setup ## Give a user another password and end their sessions: EMAIL=… PASSWORD=… (asked for when left out)
	@test -n "$$EMAIL" || { echo 'usage: make password EMAIL=you@example.com [PASSWORD=…]' >&2; exit 2; }
	@if test -n "$$PASSWORD"; then printf '%s\n' "$$PASSWORD" | $(DEVKIT) exec gateway user password "$$EMAIL"; \
	else exec $(DEVKIT) exec gateway user password "$$EMAIL"; fi

keys: setup ## The keys of access tokens in JWT_KEYS_FILE: ARGS="add --alg EdDSA", ARGS="sign KID", ARGS="retire KID"
	@exec $(PYTHON) -m boostedcalls.gateway keys $(or $(ARGS),list)

sync-stale: setup ## Ask the provider about every call without news, now
	@exec $(DEVKIT) exec calls sync-stale

dead-letters: setup ## What could not be handled: ARGS="list --since 2h", ARGS="replay --call ID --dry-run"
	@exec $(DEVKIT) exec calls dead-letters $(or $(ARGS),list)

audit: setup ## Count the provider's events that are applied, dead-lettered, pending; fails when one is none of these
	@exec $(DEVKIT) exec calls audit

chaos: setup ## Kill everything at random under load, then check the books: CHAOS_SECONDS (600), CHAOS_SEED
	@exec $(PYTHON) -m chaos

chaos-awaits: setup ## Kill the process at every await of the paths that matter, then check the books
	@exec $(PYTHON) -m chaos.every_await

bench: setup ## Measure everything beside its peers, into docs/benchmarks.md (40 minutes); ARGS="--only ingest,reads"
	@scripts/bench-tools
	@exec $(PYTHON) -m bench $(ARGS)

bench-quick: setup ## The same in under five minutes, printed only
	@scripts/bench-tools
	@exec $(PYTHON) -m bench --quick $(ARGS)

up: ## Start everything in containers (docker compose)
	docker compose up --build --detach

down: ## Stop the containers; their data stays
	docker compose down

logs: ## Follow the logs: of the containers when they are up, else of `make run`
	@if docker compose ps --quiet 2>/dev/null | grep -q .; then exec docker compose logs --follow; \
	elif ls "$(RUN_HOME)"/logs/*.log >/dev/null 2>&1; then exec tail -n 20 -F "$(RUN_HOME)"/logs/*.log; \
	else echo 'nothing has run here yet' >&2; exit 1; fi
