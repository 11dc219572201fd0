# Everything here works after a bare clone with Go, make and git.

GO       ?= go
PREFIX   ?= /usr/local
# The folder with the built programs.
BIN      ?= bin
PROGRAMS := kvd kvctl kvsidekick kvagent kvconfd
UNITS    := $(notdir $(wildcard units/*.service))

# A tag names a release; without one it is the commit that tells builds apart.
VERSION := $(shell git describe --tags --match 'v*' --dirty 2>/dev/null | sed 's/^v//')
ifeq ($(VERSION),)
VERSION := 0.1.0-dev+$(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
endif

STATICCHECK := $(GO) tool -modfile=tools/go.mod staticcheck
GOTESTSUM   := $(GO) tool -modfile=tools/go.mod gotestsum
# The race detector needs a C compiler. Without one the tests run all the same, and say so.
RACE = $(shell command -v cc >/dev/null 2>&1 && echo -race)

.DEFAULT_GOAL := help
.PHONY: help build demo bench test check diff fuzz soak soak-model soak-crash soak-loss soak-diff soak-cluster soak-registration soak-converge lint vet staticcheck fmt parts clean install uninstall

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build the five static binaries into bin/
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-X github.com/kvd-io/kvd/pkg/program.version=$(VERSION)' -o bin/ $(addprefix ./cmd/,$(PROGRAMS))

demo: build ## show the whole chain working: registration, proxy, death, expiry, a lost leader (about 30 s)
	@sh e2e/install-parts.sh haproxy
	bin/kvctl demo

bench: ## measure kvd beside etcd and a do-nothing handler (about 30 min); BENCH='-run get' for a part
	@sh e2e/install-parts.sh etcd wrk docker busybox ip haproxy
	$(GO) run ./e2e/bench $(BENCH)

test: parts lint build check ## install what the tests need, then vet, staticcheck and all tests; names every skip

check: ## run all tests with the race detector, against the binaries in bin/
	@test -n "$(RACE)" || echo "no C compiler: running without the race detector"
	KVD_BIN=$(CURDIR)/bin $(GOTESTSUM) --format pkgname --format-icons text -- $(RACE) -count=1 -p 3 -timeout 10m ./...

diff: ## send the random operations of one SEED to etcd and to kvd and compare; OPS=1000
	$(GO) test ./e2e/diff -count=1 -v -run TestSequences -seed $(or $(SEED),1) -seeds 1 -ops $(or $(OPS),1000)

fuzz: ## run every fuzz target for FUZZTIME (10m), one after the other; FUZZ="FuzzDecode ..." chooses
	@GO='$(GO)' sh e2e/fuzz.sh $(FUZZ)

SOAK ?= model crash loss diff cluster registration converge
soak: $(addprefix soak-,$(SOAK)) ## run the long suites, 15 to 60 minutes each; SOAK="model cluster" chooses

soak-model:
	KVD_MODEL_OPERATIONS=1000000 $(GO) test ./daemon/store -run TestMachineBehavesLikeThePlainModelOnAnyLog -rapid.checks=1000 -count=1 -v -timeout 2h
	$(GO) test ./daemon/store -run TestHoweverALogIsCut -rapid.checks=20000 -count=1 -timeout 1h
	$(GO) test ./daemon/watch -run 'TestHubDelivers|TestWhoReads|TestALiveWatch|TestAWatchOnAFollower' -rapid.checks=20000 -count=1 -timeout 1h

soak-crash:
	KVD_WAL_SEEDS=$(or $(SEEDS),0-170) $(GO) test ./daemon/wal -run TestAfterACrashAtAnyMomentTheLog -count=1 -v -timeout 2h

soak-loss:
	KVD_LOSS_ROUNDS=500 $(GO) test ./e2e/loss -run TestKillingAMemberBetweenAnyTwoWrites -count=1 -v -timeout 2h

soak-diff:
	$(GO) test ./e2e/diff -run TestSequences -seeds 205 -ops 1000 -pairs 4 -count=1 -v -timeout 2h

soak-cluster:
	KVD_CLUSTER_FAULTS=$(or $(FAULTS),200) $(GO) test ./e2e/nemesis -run TestNothingIsLost -count=1 -v -timeout 2h
	KVD_STALE_ROUNDS=$(or $(ROUNDS),200) $(GO) test ./e2e/nemesis -run TestAPausedLeader -count=1 -v -timeout 2h

soak-registration:
	KVD_MOVES=$(or $(MOVES),500) $(GO) test ./e2e/moves -count=1 -v -timeout 2h
	KVD_REGISTRATION_CONTAINERS=$(or $(CONTAINERS),300) $(GO) test ./e2e/registration -run TestTheRegistryEquals -count=1 -v -timeout 2h
	KVD_SYSTEMD_ROUNDS=$(or $(ROUNDS),10) KVD_SYSTEMD_OUTAGE=60s KVD_SYSTEMD_WITHIN=2s $(GO) test ./e2e/systemd -run WhateverHappens -count=1 -v -timeout 2h

soak-converge:
	KVD_CONVERGE_FOR=$(or $(FOR),1h) KVD_CONVERGE_WITHIN=$(or $(WITHIN),1s) $(GO) test ./e2e/converge -run TestWhateverBreaks -count=1 -v -timeout 3h

lint: vet staticcheck ## gofmt, vet and staticcheck
	@unformatted=$$(gofmt -l $$(git ls-files '*.go' 2>/dev/null || find . -name '*.go')); \
	test -z "$$unformatted" || { echo "not formatted (try: make fmt):"; echo "$$unformatted"; exit 1; }

vet: ## go vet
	$(GO) vet ./...

staticcheck: ## staticcheck
	$(STATICCHECK) ./...

fmt: ## format the sources
	gofmt -w $$(git ls-files '*.go')

parts: ## install what the tests use (as root on Debian), or say what is missing
	@sh e2e/install-parts.sh

clean: ## remove what the targets above have built
	rm -rf bin

install: build ## install programs, units and docs below $(DESTDIR)$(PREFIX)
	install -d $(addprefix $(DESTDIR)$(PREFIX)/,bin lib/systemd/system lib/sysusers.d share/doc/kvd)
	install -m 0755 $(addprefix $(BIN)/,$(PROGRAMS)) $(DESTDIR)$(PREFIX)/bin
	install -m 0644 units/*.service $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed -i 's|/usr/bin/kv|$(PREFIX)/bin/kv|; s|/usr/share/|$(PREFIX)/share/|' $(addprefix $(DESTDIR)$(PREFIX)/lib/systemd/system/,$(UNITS))
	install -m 0644 units/kvd.sysusers.conf $(DESTDIR)$(PREFIX)/lib/sysusers.d/kvd.conf
	cp -R docs/. units/49-kvconfd.rules templates $(DESTDIR)$(PREFIX)/share/doc/kvd
	rm -rf $(DESTDIR)$(PREFIX)/share/doc/kvd/templates/*.go $(DESTDIR)$(PREFIX)/share/doc/kvd/templates/testdata $(DESTDIR)$(PREFIX)/share/doc/kvd/templates/*/golden

uninstall: ## remove them from there; settings and data stay
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/bin/,$(PROGRAMS))
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/lib/systemd/system/,$(UNITS)) $(DESTDIR)$(PREFIX)/lib/sysusers.d/kvd.conf
	rm -rf $(DESTDIR)$(PREFIX)/share/doc/kvd
