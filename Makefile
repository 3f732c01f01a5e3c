# What developers do, and what .ci/run consists of: one command each. `make` lists them.
#
#   T   which: a filter for tests, a release and scenarios for systems, a fuzz target
#   M   a release and scenarios for machines
sudo := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
target := $(or $(CARGO_TARGET_DIR),target)
tools := $(CURDIR)/target/tools
SECONDS := 60

.PHONY: help unit e2e system machine table lint deny packages fuzz

help: ## list these commands
	@sed -n 's/^\([a-z0-9]*\):[^#]*## \(.*\)/    make \1\t\2/p' Makefile | expand -t 20

unit: ## unit tests, and files that documents name; needs no root
	cargo test --locked --workspace --lib --test docs

e2e: ## all tests, or T=umask_is_inherited
	$(sudo) tests/run.sh $(T)

system: ## booted systems: all, or T='debian13 nftables'
	$(sudo) tests/systems/run.sh $(T)

machine: ## booted in qemu with their own kernels: all, or M='debian13 main'
	$(sudo) tests/machines/run.sh $(M)

table: ## nftables text: of section T of the configuration CONFIG=FILE, or T=openvpn-kill of src/root/table/golden
ifdef CONFIG
	@cargo build --quiet --locked -p runns-exec-root
	@said=$$($(sudo) $(target)/debug/runns-exec-root build --dry-run --config '$(CONFIG)' -s '$(T)') && \
		printf '%s\n' "$$said" | sed -n '/^table /,/^}/p'
else ifdef T
	@cat 'src/root/table/golden/$(T).nft'
else
	@ls src/root/table/golden | sed 's/\.nft$$//'
endif

lint: deny ## formatting, clippy, documentation, licences, shell scripts
	cargo fmt --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --document-private-items --locked --quiet
	shellcheck install/*.sh install/debian/p* tests/*.sh tests/systems/*.sh tests/systems/scenarios/*.sh tests/machines/*.sh tests/machines/scenarios/*.sh fuzz/run.sh .ci/run
	shellcheck --shell=bash tests/support/*.sh benches/*.sh

# Licences and sources of the crates; known vulnerabilities where their database can be reached.
deny: export PATH := $(PATH):$(tools)/bin
deny:
	command -v cargo-deny || cargo install --quiet --locked --debug --root $(tools) cargo-deny
	cargo deny --log-level error check licenses bans sources
	@if timeout 60 cargo deny --log-level off fetch db >/dev/null 2>&1; then \
		cargo deny check advisories; \
	else \
		echo 'note: the database of advisories cannot be reached; they are not checked' >&2; \
	fi

packages: ## the packages, as the distributions' own tools see them
	rm -rf $(target)/packages
	install/package.sh $(target)/packages
	lintian --fail-on error $(target)/packages/*.deb
	rpmlint --rpmlintrc install/rpm/runns-exec.rpmlintrc $(target)/packages/*.rpm

fuzz: ## each fuzz target, or T=record, for SECONDS=60
	fuzz/run.sh $(SECONDS) $(T)
