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

.PHONY: help run test check bench package clean packages
.SILENT: help run test packages

help:
	echo "make run     build and start everything on this machine (LISTEN=$(LISTEN) DATA=$(DATA))"
	echo "make test    all tests, on the database server that is found (TEST_DB=mysql or mariadb: on that one; TEST_ARGS=...)"
	echo "make check   format, lints, documentation, licences"
	echo "make bench   the benches, as tables (BENCH_ARGS=...)"
	echo "make package a .deb and an .rpm, in $(TARGET)/package"
	echo "make clean   remove what was built; photos and databases stay"

# The shell becomes darkroom, so that a Ctrl-C reaches nobody else; make waits for its clean end and says nothing.
run: packages
	cargo build --release
	exec $(TARGET)/release/darkroom dev --listen "$(LISTEN)" --data "$(DATA)"

test:
	TEST_DB="$(TEST_DB)" tests/bed/install-packages test
	set -e; \
	if [ "$(TEST_DB)" != mysql ]; then \
	  tests/bed/get-auth-pam.sh >/dev/null; \
	else \
	  case $$("$${DARKROOM_MYSQLD:-mysqld}" --no-defaults --version 2>/dev/null) in \
	    *MariaDB* | "") \
	      tests/bed/get-mysql.sh "$(CACHE)/mysql"; \
	      export DARKROOM_MYSQLD="$(CACHE)/mysql/mysqld" ;; \
	  esac; \
	fi; \
	for tools in ministack checkers checkov; do tests/bed/get-python.sh $$tools "$(CACHE)/$$tools"; done; \
	tests/bed/get-asl-validator.sh "$(CACHE)/asl-validator"; \
	export TEST_DB="$(TEST_DB)"; \
	cargo test $(TEST_ARGS)

check: packages $(DENY)
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items
	$(DENY) check licenses bans sources

bench: packages
	cargo bench $(BENCH_ARGS)

# rpmbuild comes with what the tests need.
package:
	tests/bed/install-packages test
	cargo build --release --locked
	deploy/package/make-packages --binary $(TARGET)/release/darkroom --out $(TARGET)/package

clean:
	cargo clean

packages:
	TEST_DB="$(TEST_DB)" tests/bed/install-packages

# Some 4 minutes of one core, once.
$(DENY):
	env -u CARGO_TARGET_DIR cargo install cargo-deny --quiet --locked --version $(DENY_VERSION) --root $(CACHE)/cargo-deny-$(DENY_VERSION)
