# Targets of Sampan. Begin with `make demo` and `make test`.

CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
# Where cargo puts what it builds.
TARGET ?= $(or $(CARGO_TARGET_DIR),target)
# Image that `make demo IMAGE=…` pulls; without it, the demo makes an image.
IMAGE ?=
# Arguments of the benchmark: `make bench BENCH="fanout --runs 3"`.
BENCH ?=
FUZZ_SECONDS ?= 60
# For `make install-built`: the directory of the binaries, and the program that writes man pages and completions.
BIN ?= $(TARGET)/release
SHARE ?= $(TARGET)/share
GENERATE ?= $(CARGO) run --release -p sampan-client --example generate --

# Links shim and command line statically: each container starts a shim and each command the command line, which takes a
# third less time without shared libraries, and each shim uses less memory. Without libc.a, they are linked dynamically.
define STATIC
@$(CARGO) rustc --release -p $(1) --bin $(2) -- -C target-feature=+crt-static || { \
	echo 'note: $(2) is linked dynamically, as this host has no static C library (libc.a)'; \
	$(CARGO) build --release -p $(1) --bin $(2); }
endef

BINARIES = sampan sampan-monitord sampan-engine sampan-shim sampan-supernode sampan-docker-api

.PHONY: all demo test soak upgrade-test check bench fuzz install install-built uninstall clean

# One command per program: in one command, cargo would build a crate with the features that any of the programs needs.
all:
	$(CARGO) build --release -p sampan-monitord --bin sampan-monitord
	$(CARGO) build --release -p sampan-engine --bin sampan-engine
	$(CARGO) build --release -p sampan-supernode --bin sampan-supernode
	$(CARGO) build --release -p sampan-gateway --bin sampan-docker-api
	$(call STATIC,sampan-shim,sampan-shim)
	$(call STATIC,sampan-client,sampan)

demo: all
	tests/demo.sh $(TARGET)/release "$(IMAGE)"

# Unit tests, and end-to-end tests with real processes, a real registry, real peers and a real systemd. The last step
# checks that the tests have left the host unchanged.
test:
	tests/install-deps.sh
	$(CARGO) build --workspace --bins --examples
	tests/host-state.sh before $(TARGET)/host-state
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
		$(CARGO) nextest run --workspace --no-fail-fast && $(CARGO) test --workspace --doc; \
	else \
		$(CARGO) test --workspace; \
	fi
	tests/host-state.sh after $(TARGET)/host-state

# All tests, with ten times as many rounds of kills, races and storms as `make test`.
soak:
	SAMPAN_SOAK=1 NEXTEST_PROFILE=soak $(MAKE) test

# Starts containers with the programs of the commit FROM, and takes them over with this tree's programs.
upgrade-test:
	$(CARGO) build --workspace --bins
	tests/upgrade.sh $(FROM)

# Format, imports (no circle, none upward), lints and documentation; warnings are errors.
check:
	$(CARGO) fmt --all --check
	tests/check-imports.py
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps

bench: all
	tests/install-deps.sh
	$(CARGO) build --release -p sampan-tests --bins
	$(TARGET)/release/bench $(BENCH)

fuzz:
	$(CARGO) build --release -p sampan-tests --bin fuzz
	FUZZ_SECONDS=$(FUZZ_SECONDS) $(TARGET)/release/fuzz

# Directories and files that `make install` writes and `make uninstall` removes. Neither enables, starts or stops a
# unit.
BINDIR = $(DESTDIR)$(PREFIX)/bin
UNITDIR = $(DESTDIR)$(PREFIX)/lib/systemd/system
SYSUSERSDIR = $(DESTDIR)$(PREFIX)/lib/sysusers.d
MANDIR = $(DESTDIR)$(PREFIX)/share/man
BASHDIR = $(DESTDIR)$(PREFIX)/share/bash-completion/completions
ZSHDIR = $(DESTDIR)$(PREFIX)/share/zsh/site-functions
FISHDIR = $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
UNITS = $(notdir $(wildcard systemd/*.service systemd/*.socket))

install: all
	$(MAKE) install-built

# Each binary is written under a temporary name and then renamed, so that a unit that starts meanwhile finds a whole
# one.
install-built:
	$(GENERATE) $(SHARE)
	install -d $(BINDIR) $(UNITDIR) $(SYSUSERSDIR) $(MANDIR)/man1 $(MANDIR)/man8 $(BASHDIR) $(ZSHDIR) $(FISHDIR)
	for binary in $(BINARIES); do \
		install -m 755 $(BIN)/$$binary $(BINDIR)/.$$binary.new && mv -f $(BINDIR)/.$$binary.new $(BINDIR)/$$binary || exit 1; \
	done
	for unit in $(UNITS); do \
		sed 's|/usr/bin/sampan|$(PREFIX)/bin/sampan|' systemd/$$unit >$(UNITDIR)/$$unit && chmod 644 $(UNITDIR)/$$unit || exit 1; \
	done
	install -m 644 systemd/sampan.sysusers $(SYSUSERSDIR)/sampan.conf
	install -m 644 $(SHARE)/man/*.1 $(MANDIR)/man1
	install -m 644 docs/man/*.8 $(MANDIR)/man8
	install -m 644 $(SHARE)/completions/bash/* $(BASHDIR)
	install -m 644 $(SHARE)/completions/zsh/* $(ZSHDIR)
	install -m 644 $(SHARE)/completions/fish/* $(FISHDIR)
	@echo 'installed; the next steps are in docs/systemd.md: systemd-sysusers, systemctl daemon-reload, systemctl enable --now'

# Stop the units first. Keeps data (/var/lib/sampan, /var/lib/sampan-*, /etc/sampan), the users and the groups.
uninstall:
	rm -f $(BINARIES:%=$(BINDIR)/%) $(UNITS:%=$(UNITDIR)/%) $(SYSUSERSDIR)/sampan.conf
	rm -f $(MANDIR)/man1/sampan.1 $(MANDIR)/man1/sampan-*.1 $(patsubst docs/man/%,$(MANDIR)/man8/%,$(wildcard docs/man/*.8))
	rm -f $(BASHDIR)/sampan.bash $(ZSHDIR)/_sampan $(FISHDIR)/sampan.fish

clean:
	$(CARGO) clean
