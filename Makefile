# The two commands that matter: `make demo` runs the main job, `make test` passes the tests. The rest is for developers.

CARGO ?= cargo

.PHONY: help demo test sim soak loom check lint deps deny bench fuzz kill

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 12

demo: ## Build the release binary and run the whole path once: a simulated fleet, queries, an export
	$(CARGO) run --release --locked -- demo

test: ## Install what the tests need (a Parquet reader of other make), then run every test
	bash tests/setup.sh
	$(CARGO) test --workspace --locked
	$(MAKE) loom

sim: ## Simulated fleets with everything going wrong: SEEDS=2000, or one again with its trace: SEED=4711
	$(CARGO) run --profile sim --locked -p sim -- $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),1000))

soak: ## The simulation for a long time: MINUTES=60
	$(CARGO) run --profile sim --locked -p sim -- --minutes $(or $(MINUTES),60)

loom: ## Every interleaving of what threads share without a lock
	RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR="$${CARGO_TARGET_DIR:-target}/loom" $(CARGO) test -p engine --test loom --locked

check: ## Everything that CI runs
	bash .ci/run

lint: ## Formatting and clippy, warnings denied; the gateway client also alone
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) clippy -p ingest --no-default-features --features client --locked -- -D warnings

deps: ## Dependency directions between the crates
	bash tests/dependency-directions.sh

deny: ## Licences, duplicates, sources and advisories of the dependencies (installs cargo-deny into the user's cache)
	bash .ci/deny

bench: ## Criterion micro-benchmarks
	$(CARGO) bench --locked -p benches

# Every target for a minute, or one for longer: `make fuzz TARGET=frame SECONDS=600`.
SECONDS ?= 60
TARGET ?=

fuzz: ## Run the fuzz targets, SECONDS each (needs rustup; installs a nightly toolchain and cargo-fuzz)
	bash fuzz/run.sh $(SECONDS) $(TARGET)

CYCLES ?= 200

kill: ## SIGKILL the release build under load, CYCLES=1000 times; KILL_SEED=N draws the same kills and readings again
	$(CARGO) build --release --locked
	@report=$$(mktemp); \
	ICECORE="$${CARGO_TARGET_DIR:-target}/release/icecore" KILL_CYCLES=$(CYCLES) KILL_REPORT=$$report \
	    $(CARGO) test --locked --test e2e -- --exact kills::acknowledged_readings_survive_any_kill --nocapture; \
	code=$$?; cat $$report; rm -f $$report; exit $$code
