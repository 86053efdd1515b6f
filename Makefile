# Two commands do it all: `make demo` and `make test`. See README.md.
#
# Everything lands in bin/ (git-ignored). Tools are pinned in go.mod and built
# from the module cache; what the system must have is checked by scripts/need.sh.

GO        ?= go
VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS   := -s -w -X gururmm/internal/version.Version=$(VERSION)
GOBUILD   := CGO_ENABLED=0 $(GO) build -trimpath -ldflags "$(LDFLAGS)"
# The agent is small (docs/decisions/0009-size.md): no HTTP/2, which it never speaks,
# and no inlining in what is not ours.
GOAGENT   := $(GOBUILD) -tags nethttpomithttp2 -gcflags=all=-l -gcflags=gururmm/...=
# SQLite is C that was translated: it is not ours to watch for races, and watched it
# takes most of the time that the server's tests have. Its Go driver is watched. No pattern
# for more: generic code that is shared with what is watched would go unwatched there.
GOTEST    := CGO_ENABLED=1 $(GO) test -race -gcflags=modernc.org/sqlite/lib=-race=false

.PHONY: all build agents packages demo test check quick days nodes e2e windows systemd test-packages faults figures scenarios bench fuzz clean

all: build

build: ## the three programs, in bin/
	@sh scripts/need.sh go git
	@for v in GOOS GOARCH; do \
		if [ "$$($(GO) env $$v)" != "$$($(GO) env GOHOST$${v#GO})" ]; then \
			echo "$$v=$$($(GO) env $$v) is not this machine's: bin/ is for the machine that builds. For others:" >&2; \
			echo "  make agents VERSION=v1.2.3 PLATFORMS=$$($(GO) env GOOS)/$$($(GO) env GOARCH)" >&2; exit 1; \
		fi; \
	done
	$(GOBUILD) -o bin/ ./cmd/gururmm ./cmd/gururmm-lab
	$(GOAGENT) -o bin/ ./cmd/gururmm-agent

# What an update is made of: endpoints take a program for their own platform only.
PLATFORMS ?= linux/amd64 linux/arm64 windows/amd64 windows/arm64 darwin/amd64 darwin/arm64

agents: ## the agent for each platform, to be signed: make agents VERSION=v1.2.3
	@sh scripts/need.sh go git
	@set -e; for p in $(PLATFORMS); do \
		os=$${p%/*} arch=$${p#*/} out=bin/agents/$(VERSION)/gururmm-agent-$${p%/*}-$${p#*/}; \
		if [ $$os = windows ]; then out=$$out.exe; fi; \
		echo $$out; GOOS=$$os GOARCH=$$arch $(GOAGENT) -o $$out ./cmd/gururmm-agent; \
	done

# Reproducible: the same source and SOURCE_DATE_EPOCH give the same bytes. SIGN_KEY names a
# private release key, SIGN_PASSWORD_FILE its password, if it has one; what there is besides: go run ./installer --help.
packages: ## deb, rpm, pkg and msi with checksums, SBOM, signatures: make packages VERSION=1.2.3
	@sh scripts/need.sh go msibuild gcab
	CGO_ENABLED=0 $(GO) run -trimpath ./installer --version "$(VERSION)" $(if $(SIGN_KEY),--sign-key "$(SIGN_KEY)") $(if $(SIGN_PASSWORD_FILE),--sign-password-file "$(SIGN_PASSWORD_FILE)") $(if $(MAINTAINER),--maintainer "$(MAINTAINER)")

demo: build ## the main job, live, in about half a minute
	./bin/gururmm-lab demo --bin bin

# The endpoint under systemd, and then under Wine, mostly waits, for a watchdog above all:
# each runs beside tests of this machine's own. Each line they print is whole.
test: check ## everything CI runs
	@rm -f bin/systemd.untested
	@$(MAKE) --no-print-directory -j2 quick systemd
	@$(MAKE) --no-print-directory -j2 e2e windows
	@$(MAKE) --no-print-directory -j2 days nodes
	@untested=$$(cat bin/systemd.untested bin/windows.untested 2>/dev/null || true); \
	if [ -n "$$untested" ]; then echo "$$untested"; echo "all other tests passed"; else echo "all tests passed"; fi

check: ## formatting, vet on every platform, staticcheck, the systemd unit
	@sh scripts/need.sh go git gcc
	@out=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "not gofmt-ed:"; echo "$$out"; exit 1; fi
	$(GO) vet ./...
	$(GO) vet -tags faults ./...
	GOOS=windows $(GO) vet ./cmd/gururmm-agent ./agent/... ./oob/... ./session/... ./internal/...
	GOOS=darwin $(GO) vet ./cmd/gururmm-agent ./agent/... ./oob/... ./session/... ./internal/...
	$(GO) tool staticcheck ./...
	sh scripts/units.sh
	bash scripts/wine-verdict-test.sh

# They wait more than they compute: more of them at once than there are cores.
quick: ## all tests but those with whole systems
	@sh scripts/need.sh go git gcc bash python3 ps initdb msibuild msiinfo gcab openssl osslsigncode
	sh scripts/inmemory.sh env $(GOTEST) -p 4 -timeout 8m $$($(GO) list ./... | grep -v -e /lab$$ -e /lab/virtual$$ -e /lab/bench$$)

# The days in virtual time are about timing and run three bubbles of a million
# events: without the race detector, which watches the same code in e2e.
days: ## an idle day, one with stripped pings, one with a suspend
	@sh scripts/need.sh go git
	$(GO) test -timeout 5m ./lab/virtual

# So many agents in one process, and what is measured, are not for the race detector either.
nodes: ## three nodes with 500 agents; each section of the benchmark, for a moment
	@sh scripts/need.sh go git initdb
	sh scripts/inmemory.sh $(GO) test -timeout 5m -run '^TestThreeNodes$$' ./lab
	$(GO) test -timeout 5m ./lab/bench

e2e: ## real server, proxies and agents; each fault, each kill
	@sh scripts/need.sh go git gcc bash python3 ps initdb nginx nginx-stream haproxy
	sh scripts/inmemory.sh env $(GOTEST) -timeout 20m ./lab

# Without root on a Debian this says that it did not run; with CI set it fails. A Wine
# that breaks off again and again is said, and fails nothing: docs/decisions/0011.
windows: ## the Windows build under Wine: unit tests, agent, service
	bash scripts/windows.sh

# The same holds here: root on a Debian, or it says that it did not run; with CI set it fails.
systemd: ## the service under a real systemd: watchdog, restarts, sandbox
	bash scripts/systemd.sh

# Not part of `make test`: it builds releases and takes minutes. Root on a Debian, or it says that it
# did not run; with CI set it fails.
test-packages: ## the packages' life under a real systemd: install, upgrade, remove, purge
	bash scripts/packages.sh

faults: build ## the programs with the seams for faults, in bin/faults/
	CGO_ENABLED=0 $(GO) build -trimpath -tags faults -o bin/faults/ ./cmd/gururmm ./cmd/gururmm-agent

figures: faults ## what an endpoint costs and how soon it is served again, measured
	./bin/gururmm-lab figures --bin bin --faults bin/faults

scenarios: faults ## hundreds of faults in a real system, each named by the diagnosis or not
	./bin/gururmm-lab scenarios --faults bin/faults

bench: build ## the server beside raw TCP, NATS and JetStream, and small parts by themselves
	@sh scripts/need.sh go initdb
	$(GO) test -run '^$$' -bench . -benchmem ./selfcheck ./wire
	$(GO) test -run '^$$' -bench 'Accepted|Life' -benchtime 20000x ./server/store
	$(GO) test -run '^$$' -bench BusyDay ./cmd/gururmm
	./bin/gururmm-lab bench

fuzz: ## a minute for each fuzz target
	@for p in $$($(GO) list ./...); do for f in $$($(GO) test -list '^Fuzz' $$p | grep ^Fuzz); do \
		echo "$$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime 60s $$p || exit 1; done; done

clean:
	rm -rf bin
