# One command each for a newcomer: demo, test, build, bench, lint. Every one
# installs what a bare Debian 12 lacks, and only that.

PACKAGES := gcc libc6-dev make pkg-config libelf-dev zlib1g-dev clang m4 iproute2 nftables ethtool util-linux
# Under sudo, root's PATH does not have rustup's cargo.
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/sbin:/sbin
# Namespaces, XDP and AF_XDP need root; building does not.
AS_ROOT := $(if $(filter 0,$(shell id -u)),,$(shell command -v sudo))
SKIPPED := $(CURDIR)/target/skipped-tests.txt

.PHONY: build demo test bench bench-instructions lint deps

build: deps
	cargo build --release --locked

demo: build
	$(AS_ROOT) target/release/xdpfrag lab

# Tests that need root or a kernel feature say so when they skip; the list is repeated at the end.
test: deps
	@mkdir -p $(dir $(SKIPPED)) && rm -f $(SKIPPED)
	@XDPFRAG_SKIPPED=$(SKIPPED) cargo test --locked --no-fail-fast; status=$$?; \
	if [ -s $(SKIPPED) ]; then echo "Skipped, and why:"; sort -u $(SKIPPED); else echo "No test was skipped."; fi; \
	exit $$status

bench: deps
	cargo bench --locked --bench transform --bench turn --bench lab

# Counts instructions under callgrind; the runner must be of the version of gungraun in Cargo.toml.
bench-instructions: PACKAGES += valgrind
bench-instructions: deps
	@command -v gungraun-runner >/dev/null || cargo install --locked gungraun-runner --version 0.20.0 || true
	@if command -v valgrind >/dev/null && command -v gungraun-runner >/dev/null; then \
		cargo bench --locked --bench instructions; \
	else \
		echo "SKIPPED: instructions were not counted, for lack of valgrind or gungraun-runner" >&2; \
	fi

lint: deps
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

deps:
	@PACKAGES="$(PACKAGES)" scripts/deps
