# How things are done here; `make help` lists it. Everything is built once into ./target and into a cache outside the checkout.

cache := $(or $(CALLSIEVE_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/callsieve)

# The crate's bundled RocksDB takes 14 minutes of two cores when built the plain way, ours a third of it, once for all profiles and checkouts.
export ROCKSDB_LIB_DIR := $(cache)/rocksdb
export ROCKSDB_STATIC := 1
# A toolchain that rustup has just installed is not on the PATH of the shell that asked for it.
export PATH := $(PATH):$(HOME)/.cargo/bin

.DEFAULT_GOAL := help
.PHONY: help setup rocksdb run release test kafka-test chaos lint fmt bench bench-kafka simulation

help: ## Lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## Installs what the build needs and lacks, or says what to install
	@deploy/build/setup

rocksdb: setup
	@deploy/build/rocksdb "$(ROCKSDB_LIB_DIR)"

run: rocksdb ## Starts the service with a simulated company; its calls turn into verdicts on the terminal (ARGS="--help" for more)
	@cargo run --locked --profile quick -- run --simulate --data-dir .callsieve $(ARGS)

release: rocksdb ## Makes target/optimized/callsieve as the image has it: compiled by a profile of itself at work
	@deploy/build/optimized cargo bench --locked --no-run --bench documents

test: rocksdb ## Runs all tests (ARGS="NAME" for some, without Kafka)
	@cargo test --locked $(ARGS)
	@$(if $(CALLSIEVE_OPENAPI),cargo test --locked --test simulate_openapi -- --ignored)
	@$(if $(ARGS),,$(MAKE) --no-print-directory kafka-test)

kafka-test: rocksdb ## Runs the tests on a real Kafka broker and a schema registry, which it starts (ARGS="NAME" for some)
	@deploy/build/setup kafka
	@tests/kafka/run --secure --registry cargo test --locked --lib --test dead_letters --test foreign --test kafka --test kafka_registry \
		--test kafka_repartition --test kafka_replay --test kafka_service -- --ignored $(or $(ARGS),kafka_)
	@cargo test --locked --features failpoints --test kafka_chaos -- --ignored $(or $(ARGS),kafka_)

chaos: rocksdb ## Runs services on three Kafka brokers through 100 faults of all kinds, in about half an hour (FAULTS=, SEED=)
	@deploy/build/setup kafka
	@tests/kafka/cluster fetch
	@CALLSIEVE_CHAOS_FAULTS=$(FAULTS) CALLSIEVE_CHAOS_SEED=$(SEED) \
		cargo test --locked --features failpoints --test kafka_chaos -- --ignored --nocapture chaos_of_many_faults

lint: rocksdb ## Checks format, clippy, unused dependencies, licenses, sources, known vulnerabilities, and deploy/ as far as its tools are here
	@deploy/build/lint "$(cache)/tools"
	@deploy/lint "$(cache)/tools"

fmt: ## Formats the code
	@cargo fmt

bench: rocksdb ## Runs the benchmarks, of what make release makes (ARGS="--bench step" for one)
	@deploy/build/optimized cargo bench --locked $(or $(ARGS),--bench log --bench classify --bench ingress --bench documents --bench step)

bench-kafka: rocksdb ## Measures the whole on a real Kafka broker, which it starts (CALLSIEVE_BENCH=throughput,latency,restore for some)
	@deploy/build/setup kafka
	@deploy/build/optimized cargo bench --locked --no-run --bench kafka
	@KAFKA_HEAP=1g tests/kafka/run deploy/build/optimized cargo bench --locked --bench kafka

simulation: rocksdb ## Runs 10,000 simulated company hours with faults (HOURS=, SEED=)
	@CALLSIEVE_SIMULATION_HOURS=$(or $(HOURS),10000) CALLSIEVE_SIMULATION_SEED=$(SEED) \
		cargo test --locked --profile quick --test simulation -- --nocapture $(ARGS)
