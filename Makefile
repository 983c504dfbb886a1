# One command each for a newcomer: demo, test, vm-test, build, bench, count, lint, and for the doubtful torture, soak, fuzz,
# miri, loom and audit.
# Every one installs what a bare Debian 12 lacks, and only that.

PACKAGES := gcc libc6-dev make pkg-config libelf-dev zlib1g-dev clang m4 iproute2 nftables ethtool util-linux
# Under sudo, root's PATH does not have rustup's cargo.
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/sbin:/sbin
# Namespaces, XDP and AF_XDP need root; building does not.
AS_ROOT := $(if $(filter 0,$(shell id -u)),,$(shell command -v sudo))
SKIPPED := $(CURDIR)/target/skipped-tests.txt

# Kernels of Debian that `make vm-test` boots. The first runs all tests but the rest of the matrix of tunnels, the
# others those in which kernels differ, and that is what `make test` runs on each; FULL=1 runs everything on each,
# TEST=name what has that in its name.
KERNELS ?= 6.12 6.1 7
VM_CORE := policy_cbc_sha256_nat_t_v4 interface_gcm16_nat_t_v6 policy_masquerading_after late_by_policy \
	auto_with_strongswan ways_policy_by_port ways_stateful_firewall ways_lowered_interface

comma := ,
space := $(subst ,, )

# The version that writes the package.
CARGO_DEB := 3.6.2
TARGET := $(shell uname -m)-unknown-linux-gnu

.PHONY: build static static-test deb deb-test demo test vm-test torture soak bench bench-code bench-instructions count \
	lint audit fuzz miri loom deps

build: deps
	cargo build --release --locked

STATIC := target/$(TARGET)/release/xdpfrag

# For routers without this system's libraries. glibc and not musl, for which Debian has no libelf. The flash of a
# router is small: without lines for backtraces. A static libelf needs what pkg-config says, which differs by release.
static: deps
	RUSTFLAGS="-C target-feature=+crt-static -C strip=debuginfo $(addprefix -C link-arg=,-Wl,-Bstatic $(shell pkg-config --static --libs-only-l libelf))" \
		cargo build --release --locked --target $(TARGET)
	@! ldd $(STATIC) | grep '=>' || { echo "$(STATIC) is not static" >&2; exit 1; }
	@ls -l $(STATIC)

static-test: static
	$(AS_ROOT) packaging/static-test $(STATIC)

# cargo-deb asks dpkg-shlibdeps for the libraries that the package depends on.
deb: PACKAGES += dpkg-dev
deb: build
	@rm -rf target/package target/debian && mkdir -p target/package/man target/package/completions
	target/release/xdpfrag man --dir target/package/man
	gzip -9n target/package/man/*.1
	target/release/xdpfrag completions bash > target/package/completions/xdpfrag
	target/release/xdpfrag completions zsh > target/package/completions/_xdpfrag
	target/release/xdpfrag completions fish > target/package/completions/xdpfrag.fish
	@cargo deb --version 2>/dev/null | grep -qF $(CARGO_DEB) || cargo install --locked cargo-deb --version $(CARGO_DEB)
	cargo deb --no-build --locked --strip

# What the package holds; then the way of a newcomer with the README, in a Debian of its own under a systemd of its own.
deb-test: PACKAGES += debootstrap systemd-container curl tshark
deb-test: deb
	$(AS_ROOT) packaging/deb-test target/debian/xdpfrag_*.deb
	cargo build --locked --example datagrams
	@$(AS_ROOT) packaging/newcomer/test target/debian/xdpfrag_*.deb target/debug/examples/datagrams; status=$$?; \
	[ $$status = 77 ] || exit $$status

demo: build
	$(AS_ROOT) target/release/xdpfrag lab

# Tests that need root or a kernel feature say so when they skip; the list is repeated at the end.
test: PACKAGES += tcpdump
test: deps
	@mkdir -p $(dir $(SKIPPED)) && rm -f $(SKIPPED)
	@export XDPFRAG_SKIPPED=$(SKIPPED); \
	cargo test --locked --no-fail-fast; status=$$?; \
	$(MAKE) --no-print-directory vm-test TEST="$(VM_CORE)" || status=1; \
	$(MAKE) --no-print-directory count KERNELS=$(firstword $(KERNELS)) COUNT=--short || status=1; \
	if [ -s $(SKIPPED) ]; then echo "Skipped, and why:"; sort -u $(SKIPPED); else echo "No test was skipped."; fi; \
	exit $$status

# ESP needs a kernel of its own: QEMU boots Debian's, on this machine's files, read-only.
vm-test: deps
	@mkdir -p target/vm/run; \
	reason=$$($(AS_ROOT) tests/vm/setup $(KERNELS)); status=$$?; \
	if [ $$status = 77 ]; then \
		echo "SKIPPED vm-test: $$reason" | tee -a "$${XDPFRAG_SKIPPED:-/dev/null}"; exit 0; \
	fi; \
	[ $$status = 0 ] || exit $$status; \
	for kernel in $(KERNELS); do \
		tests="$(or $(TEST),$(if $(FULL),--include-ignored))"; \
		[ -n "$$tests" ] || [ $$kernel = $(firstword $(KERNELS)) ] || tests="$(VM_CORE) nics::"; \
		export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$(CURDIR)/tests/vm/boot $$kernel"; \
		cargo test --locked --test vm -- --test-threads=1 $$tests || status=1; \
		[ -n "$(filter-out $(VM_CORE),$(TEST))" ] || \
			cargo test --locked --test preflight --test lab -- --test-threads=1 kinds || status=1; \
	done; exit $$status

# Faults, overload and hostile frames, alone on the machine and for longer than in `make test`; prints what each cost.
torture: deps
	@rm -f target/torture.txt; XDPFRAG_TORTURE=$(CURDIR)/target/torture.txt \
		cargo test --locked --test lab torture:: -- --test-threads=1; status=$$?; \
	echo; echo "| fault | fits: lost | after, ms | oversize: lost | after, ms | again by |"; echo "|---|---|---|---|---|---|"; \
	grep '^|' target/torture.txt; grep -v '^|' target/torture.txt; exit $$status

# Traffic and requests for half an hour: what an instance holds must stay what it is. `make test` has 6 s of it.
SOAK_SECONDS ?= 1800
soak: deps
	XDPFRAG_SOAK=$(SOAK_SECONDS) cargo test --locked --test lab torture::soak -- --nocapture

# What a gateway carries, beside what users run today; BENCH="--quick" for a look. The lab needs root; cargo does not.
bench: deps
	$(if $(AS_ROOT),CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$(AS_ROOT)) cargo bench --locked --bench lab -- $(BENCH)

# The transform and a worker's turn, in memory.
bench-code: deps
	cargo bench --locked --bench transform --bench turn

# Instructions per datagram of the whole way, ESP included, by QEMU: the same on every machine. It fails if a row is above
# its budget. UPDATE=1 writes the budgets, AGAINST=path counts another xdpfrag as well, COUNT=... gives more flags.
count: deps
	@mkdir -p target/vm/run; \
	reason=$$($(AS_ROOT) tests/vm/setup $(KERNELS)); status=$$?; \
	if [ $$status = 77 ]; then \
		echo "SKIPPED count: $$reason" | tee -a "$${XDPFRAG_SKIPPED:-/dev/null}"; exit 0; \
	fi; \
	[ $$status = 0 ] || exit $$status; \
	cargo bench --locked --bench count -- --kernels $(subst $(space),$(comma),$(strip $(KERNELS))) \
		$(if $(UPDATE),--update) $(if $(AGAINST),--against "$(AGAINST)") $(COUNT)

# Counts instructions under callgrind; the runner must be of the version of gungraun in Cargo.toml.
bench-instructions: PACKAGES += valgrind
bench-instructions: deps
	@command -v gungraun-runner >/dev/null || cargo install --locked gungraun-runner --version 0.20.0 || true
	@if command -v valgrind >/dev/null && command -v gungraun-runner >/dev/null; then \
		cargo bench --locked --bench instructions; \
	else \
		echo "SKIPPED: instructions were not counted, for lack of valgrind or gungraun-runner" >&2; \
	fi

# Seconds per fuzz target.
FUZZ_SECONDS ?= 60

# libFuzzer is C++. Instrumenting needs unstable flags, which RUSTC_BOOTSTRAP allows any compiler.
fuzz: PACKAGES += g++
fuzz: deps
	@command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz || \
		{ echo "SKIPPED fuzz: cargo-fuzz cannot be installed (see above)"; exit 0; }; \
	for target in $$(cargo fuzz list); do \
		echo "fuzz $$target: $(FUZZ_SECONDS) s"; \
		RUSTC_BOOTSTRAP=1 cargo fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) -max_len=4096 \
			-print_final_stats=1 || exit 1; \
	done

# The code that needs no kernel, unsafe memory of frames included, under an interpreter that knows undefined
# behaviour when it sees it.
miri: deps
	@rustup run nightly cargo miri --version >/dev/null 2>&1 || \
		rustup component add --toolchain nightly miri rust-src || \
		{ echo "SKIPPED miri: it comes with rustup's nightly toolchain only, which is not to be had (see above)"; exit 0; }; \
	export MIRIFLAGS=-Zmiri-disable-isolation PROPTEST_CASES=2 CARGO_TARGET_DIR=target/miri; \
	rustup run nightly cargo miri test --locked --lib -- frame:: handback::mem port::mem worker::rate && \
	rustup run nightly cargo miri test --locked --test turn

# Every order in which threads can execute what they share without a lock.
loom: deps
	cd loom && RUSTFLAGS="--cfg loom" cargo test --release --lib --target-dir ../target/loom

lint: deps
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

# Licences and sources of dependencies need this tree only, known vulnerabilities the RustSec database from GitHub.
audit: deps
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny || true
	@if ! command -v cargo-deny >/dev/null; then \
		echo "SKIPPED audit: cargo-deny is not there and cannot be installed (see above)" >&2; exit 0; \
	fi; \
	status=0; cargo deny check bans licenses sources || status=1; \
	if cargo deny fetch db; then \
		cargo deny check --disable-fetch advisories || status=1; \
	else \
		echo "SKIPPED audit: known vulnerabilities, for the RustSec database cannot be had (see above)" >&2; \
	fi; exit $$status

deps:
	@PACKAGES="$(PACKAGES)" scripts/deps
