# Two commands: `make demo` shows the main job, `make test` runs all tests.
# Both do their own set-up. `make verify` writes nothing; `make fix` does.

CARGO ?= cargo
ROTA_BIN := $(CURDIR)/target/release/rota

.PHONY: demo test verify fix fuzz seeds build test-setup bench bench-smoke

demo: build
	$(ROTA_BIN) demo

test: test-setup build
	$(CARGO) test --locked --quiet -p base2histogram
	ROTA_BIN=$(ROTA_BIN) $(CARGO) test --workspace --locked --no-fail-fast

verify:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items --locked
	$(CARGO) test --workspace --locked --test tidy

# Fuzzes every decoder for FUZZ_SECONDS each. The targets in fuzz/ need cargo-fuzz and a nightly
# toolchain; they start from the seed corpus that `make seeds` records.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS := $(notdir $(basename $(wildcard fuzz/fuzz_targets/*.rs)))
fuzz:
	ROTA_FUZZ_SECONDS=$(FUZZ_SECONDS) $(CARGO) test --release --locked -p rota-protocol --test zk_fuzz -- --nocapture
	@$(CARGO) fuzz --version >/dev/null 2>&1 || { echo "the other targets need: cargo install cargo-fuzz; rustup toolchain install nightly" >&2; exit 1; }
	set -e; for target in $(FUZZ_TARGETS); do \
		mkdir -p fuzz/corpus/$$target fuzz/seeds/$$target; \
		$(CARGO) +nightly fuzz run $$target fuzz/corpus/$$target fuzz/seeds/$$target -- -max_total_time=$(FUZZ_SECONDS) -max_len=65536; \
	done

seeds: build
	$(CARGO) build --release --locked -p rota-bench
	ROTA_BIN=$(ROTA_BIN) target/release/rota-bench seed-corpus --out fuzz/seeds

# Compares Rota with ZooKeeper and etcd, and writes what comes out into a folder.
BENCH_OUT ?= target/bench
bench: test-setup
	sh tests/set-up.sh etcd
	$(CARGO) build --release --locked -p rota-cli -p rota-bench
	ROTA_BIN=$(ROTA_BIN) target/release/rota-bench compare --out $(BENCH_OUT)

bench-smoke: build
	ROTA_BIN=$(ROTA_BIN) $(CARGO) test --locked -p rota-bench --test smoke

fix:
	$(CARGO) clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	$(CARGO) fmt --all

build:
	$(CARGO) build --release --locked -p rota-cli

test-setup:
	sh tests/set-up.sh
