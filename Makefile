# Two commands: `make demo` shows the main job, `make test` runs all tests.
# Both do their own set-up. `make verify` writes nothing; `make fix` does.

CARGO ?= cargo
ROTA_BIN := $(CURDIR)/target/release/rota

.PHONY: demo test verify fix build test-setup

demo: build
	$(ROTA_BIN) demo

test: test-setup build
	ROTA_BIN=$(ROTA_BIN) $(CARGO) test --workspace --locked --no-fail-fast

verify:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items --locked
	$(CARGO) test --locked -p rota-tests --test tidy

fix:
	$(CARGO) clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	$(CARGO) fmt --all

build:
	$(CARGO) build --release --locked -p rota-cli

test-setup:
	sh tests/set-up.sh
