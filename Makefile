# make build   the static binary, bin/sekisho
# make run     builds it and shows it at work: sekisho demo
# make test    everything that is tested; installs the peers it needs as root on Debian
# make soak    ten minutes of everything at once: load, faults and attacks (SOAKTIME=30m for longer)
# make soak-rounds   the long versions of the other tests, again and again: SOAK rounds
# make fuzz    each fuzz target for FUZZTIME
# make bench   what it costs beside sshd, into docs/performance.md; takes an hour or so
# make microbench  the benchmarks of all packages
# make vulncheck  known vulnerabilities of what is called; asks https://vuln.go.dev, or GOVULNDB
# make install the program, the systemd units, and the user of the service, as root

GO       ?= go
FUZZTIME ?= 30s
SOAKTIME ?= 10m
SOAK     ?= 5

GOVULNCHECK = v1.9.0

packages = $(shell $(GO) list ./... | grep -v /e2e$$)

.PHONY: build run test peers vet unit e2e soak soak-rounds fuzz bench microbench clean vulncheck install

build:
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/sekisho ./cmd/sekisho

install: build
	install -D -m 755 bin/sekisho $(DESTDIR)/usr/local/bin/sekisho
	install -D -m 644 -t $(DESTDIR)/etc/systemd/system packaging/systemd/sekisho.service packaging/systemd/sekisho.socket
	install -D -m 644 -t $(DESTDIR)/usr/lib/sysusers.d packaging/sysusers.d/sekisho.conf
	@if [ -z "$(DESTDIR)" ]; then systemd-sysusers sekisho.conf && systemctl daemon-reload; fi

run: build
	@bin/sekisho demo

test: peers vet unit e2e
	@echo "make test: all is well"

# What the end-to-end tests run against: OpenSSH, MariaDB, rsync, curl.
peers:
	@echo "== peers: are the programs here that the tests run against?"
	@e2e/peers.sh

vet:
	@echo "== vet: go vet and gofmt"
	$(GO) vet ./...
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "gofmt -w" $$unformatted; exit 1; fi

# Fuzz targets run on their seeds here.
unit:
	@echo "== unit: each package, with the race detector"
	CGO_ENABLED=1 $(GO) test -race -timeout 15m $(packages)

# Which tests use the server built with -race and which the static one, the
# package's comment says.
e2e: peers
	@echo "== e2e: stock clients, real peers, the binary"
	CGO_ENABLED=1 $(GO) test -race -count=1 -timeout 15m ./e2e

# Each fault a thousand times, which takes some minutes, and then the mixed load,
# which ends by itself: memory, goroutines and descriptors stay where they are,
# the log verifies, every forward has one end.
soak: peers
	@echo "== soak: a thousand of each fault"
	SEKISHO_SOAK=1 $(GO) test -count=1 -timeout 30m -run 'FaultsAre|ClientsWhoseNetworkVanished|HostsFileThat' ./bastion
	@echo "== soak: load, faults and attacks for $(SOAKTIME)"
	SEKISHO_SOAK=1 SEKISHO_SOAK_TIME=$(SOAKTIME) $(GO) test -count=1 -v -timeout 25h -run MixedLoad ./e2e

# Gigabytes in bulk, hundreds of kill -9 under fire, and each package with the
# race detector, SOAK times: an hour and more.
soak-rounds: peers
	SEKISHO_SOAK=1 $(GO) test -count=$(SOAK) -v -timeout 60m -run 'Bulk|ManyForwards|Killed|NetworkIsGone|DeadServer' -skip 'UnderFire|MixedLoad' ./e2e
	SEKISHO_SOAK=1 $(GO) test -count=1 -v -timeout 60m -run UnderFire ./e2e
	CGO_ENABLED=1 $(GO) test -race -count=$(SOAK) -timeout 60m $(packages)

fuzz:
	@for package in $(packages); do \
		for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz'); do \
			echo "== $$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$package || exit 1; \
		done; \
	done

# Sekisho, sshd and its library's own handler in turns. BENCH adds flags, such as
# -rounds 3; for a part of it, and for two builds side by side, see go doc ./bench.
bench:
	@echo "== peers: is OpenSSH here?"
	@e2e/peers.sh --openssh
	$(GO) run ./bench -doc docs/performance.md -plots docs/performance $(BENCH)

microbench:
	$(GO) test -run '^$$' -bench . -benchmem $(packages)

# It is no part of test, which needs no network. Status 3 is that something was
# found; with any other, nothing was looked at.
vulncheck:
	GOBIN=$(CURDIR)/bin $(GO) install golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK)
	@bin/govulncheck $(if $(GOVULNDB),-db $(GOVULNDB)) ./...; status=$$?; \
	if [ $$status -ne 0 ] && [ $$status -ne 3 ]; then \
		echo "make vulncheck: nothing was checked: is $(or $(GOVULNDB),https://vuln.go.dev) reachable? GOVULNDB=URL names another" >&2; \
	fi; exit $$status

clean:
	rm -rf bin
