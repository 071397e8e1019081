# Sampan. A newcomer runs two of these: `make demo` and `make test`.

CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
TARGET ?= target
# What `make demo IMAGE=…` pulls instead of the image that it makes itself.
IMAGE ?=
# Arguments of the benchmark: `make bench BENCH="fanout --runs 3"`.
BENCH ?=
FUZZ_SECONDS ?= 60

# A shim is started for each container, and the command line for each command: without libraries to find and link, that
# costs a third less, and each shim holds less memory of its own. Where the C library is not there as an archive (libc.a),
# they are linked as all else.
define STATIC
@$(CARGO) rustc --release -p $(1) --bin $(2) -- -C target-feature=+crt-static || { \
	echo 'note: $(2) is linked dynamically: there is no static C library here'; \
	$(CARGO) build --release -p $(1) --bin $(2); }
endef

BINARIES = sampan sampan-monitord sampan-engine sampan-shim

.PHONY: all demo test check bench fuzz install clean

all:
	$(CARGO) build --release -p sampan-monitord -p sampan-engine --bin sampan-monitord --bin sampan-engine
	$(call STATIC,sampan-engine,sampan-shim)
	$(call STATIC,sampan-client,sampan)

demo: all
	tests/demo.sh $(TARGET)/release "$(IMAGE)"

# Unit tests, and end-to-end tests with real processes, a real registry and real peers.
test:
	tests/install-deps.sh
	$(CARGO) build --workspace --bins
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
		$(CARGO) nextest run --workspace && $(CARGO) test --workspace --doc; \
	else \
		$(CARGO) test --workspace; \
	fi

# Form, lints and documentation; warnings are errors.
check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps

bench: all
	tests/install-deps.sh
	$(CARGO) build --release -p sampan-tests --bins
	$(TARGET)/release/bench $(BENCH)

fuzz:
	$(CARGO) build --release -p sampan-tests --bin fuzz
	FUZZ_SECONDS=$(FUZZ_SECONDS) $(TARGET)/release/fuzz

install: all
	$(CARGO) run --release -p sampan-client --example generate -- $(TARGET)/share
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/systemd/system $(DESTDIR)$(PREFIX)/lib/sysusers.d
	install -d $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/man/man8
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/zsh/site-functions
	install -d $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	install -m 755 $(BINARIES:%=$(TARGET)/release/%) $(DESTDIR)$(PREFIX)/bin
	for unit in systemd/*.service systemd/*.socket; do \
		sed 's|/usr/bin/sampan|$(PREFIX)/bin/sampan|' $$unit >$(DESTDIR)$(PREFIX)/lib/systemd/system/$${unit#systemd/} || exit 1; \
	done
	install -m 644 systemd/sampan.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/sampan.conf
	install -m 644 $(TARGET)/share/man/*.1 $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 644 docs/man/*.8 $(DESTDIR)$(PREFIX)/share/man/man8
	install -m 644 $(TARGET)/share/completions/bash/* $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	install -m 644 $(TARGET)/share/completions/zsh/* $(DESTDIR)$(PREFIX)/share/zsh/site-functions
	install -m 644 $(TARGET)/share/completions/fish/* $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d

clean:
	$(CARGO) clean
