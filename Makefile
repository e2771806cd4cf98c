# Everything a person or a machine runs here. `make` alone lists it.

LISTEN ?= 127.0.0.1:8080
DATA ?= ./darkroom-data
TEST_ARGS ?=
BENCH_ARGS ?=

# Kept between clones: servers and tools that are fetched or built once.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/darkroom
TARGET := $(or $(CARGO_TARGET_DIR),target)
DENY_VERSION := 0.20.2
DENY := $(CACHE)/cargo-deny-$(DENY_VERSION)/bin/cargo-deny

.PHONY: help run test test-full check hooks bench package clean
.SILENT: help run test test-full hooks

help:
	echo "make run       build and start everything on this machine (LISTEN=$(LISTEN) DATA=$(DATA))"
	echo "make test      all tests, on the database server that is found (TEST_DB=mysql or mariadb: on that one; TEST_ARGS=FILTER)"
	echo "make test-full the same with long load and failure cases, and deploy/ even where it has not changed"
	echo "make check     format, lints, documentation, licences"
	echo "make hooks     check the format, the lints and the subject line at each commit"
	echo "make bench     the benches, as tables (BENCH_ARGS=...)"
	echo "make package   a .deb and an .rpm, in $(TARGET)/package"
	echo "make clean     remove what was built; photos and databases stay"

# The shell becomes darkroom, so that a Ctrl-C reaches nothing else; make waits for its clean end and says nothing.
run:
	[ -x $(TARGET)/debug/darkroom ] || echo "First build: 5 to 8 minutes on 2 cores (90 MB of crates to download, 1.5 GB in $(TARGET)/). Later ones take seconds." >&2
	tests/scripts/install-packages
	cargo build
	exec $(TARGET)/debug/darkroom dev --listen "$(LISTEN)" --data "$(DATA)"

test:
	TEST_DB="$(TEST_DB)" TEST_ARGS="$(TEST_ARGS)" tests/scripts/run-tests

test-full:
	TEST_DB="$(TEST_DB)" TEST_FULL=1 tests/scripts/run-tests

hooks:
	git config core.hooksPath .ci/hooks
	echo "commits are checked by .ci/hooks: the format, the lints and the subject line"

check: $(DENY)
	tests/scripts/install-packages
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items
	$(DENY) check licenses bans sources

bench:
	tests/scripts/install-packages
	cargo bench $(BENCH_ARGS)

# rpmbuild comes with what the tests need.
package:
	tests/scripts/install-packages test
	cargo build --release --locked
	deploy/package/make-packages --binary $(TARGET)/release/darkroom --out $(TARGET)/package

clean:
	cargo clean

# Some 4 minutes of one core, once.
$(DENY):
	env -u CARGO_TARGET_DIR cargo install cargo-deny --quiet --locked --version $(DENY_VERSION) --root $(CACHE)/cargo-deny-$(DENY_VERSION)
