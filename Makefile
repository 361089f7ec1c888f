# Joist's targets; `make help` lists them. Everything lands in build/.

GO      ?= go
COUNT   ?= 10
CUTS    ?= 200
# Tests that run at a time in e2e and soak: most have one machine of 3 GiB and
# one processor.
LANES   ?= 2
export PATH := $(PATH):/usr/local/go/bin
# go.mod names the toolchain; an older Go (1.21 or newer) fetches it.
export GOTOOLCHAIN ?= auto
# The checkout may belong to another user, whom git does not trust: no VCS stamp.
GOBUILD = CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false
E2E     = JOIST_NEED_TOOLS=1 $(GO) test ./test/e2e -parallel $(LANES) -v

.DEFAULT_GOAL := help
.PHONY: help iso netboot disk template template-old joist run test check e2e bench clean soak fuzz go-version

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

iso: joist ## the installable image, build/joist-<version>-amd64.iso (no root needed)
	build/bin/joist build iso --out build

netboot: joist ## the folder for machines that start from the network, build/netboot/
	build/bin/joist build netboot --out build

disk: joist ## images of a disk that becomes a node when it starts, build/joist-<version>-amd64.{raw.zst,qcow2}
	build/bin/joist build disk --out build

template: joist ## a Debian for containers, build/debian-13-standard_<version>-1_amd64.tar.zst
	build/bin/joist build template debian --out build

template-old: joist ## the same of Debian 12
	build/bin/joist build template debian-12 --out build

run: joist ## a node in a virtual machine, API on https://localhost:8006 (FRESH=1: install anew)
	@GO=$(GO) MAKE=$(MAKE) scripts/run.sh

test: go-version ## rules, unit tests, the image and short end-to-end tests, with times
	scripts/test.sh

check: go-version ## formatting, vet and the tree's rules
	$(GO) vet ./...
	$(GO) test ./internal/archtest -count=1

e2e: iso netboot template template-old ## the end-to-end tests that "make test" leaves out (hours without hardware virtualisation; LANES=2)
	scripts/tools.sh
	$(E2E) -count=1 -skip '^TestShort' -timeout 180m

soak: iso netboot template template-old ## the end-to-end tests again and again until one fails (COUNT=10), and power cuts (CUTS=200)
	scripts/tools.sh
	JOIST_CUTS=$(CUTS) $(E2E) -count=1 -run '^TestPowerCut(ZFS)?$$' -timeout 0
	$(E2E) -count=$(COUNT) -failfast -timeout 0

bench: iso template ## all benchmarks; figures into build/figures-build.md and build/figures.md
	scripts/tools.sh bench
	JOIST_BENCH=1 JOIST_BENCH_BOOT=1 JOIST_BENCH_INSTALLED=1 $(GO) test ./test/bench -run TestBuildFigures -count=1 -v -timeout 180m
	$(GO) test -run '^$$' -bench . ./...
	$(E2E) -count=1 -run '^Test(Layout)?Figures$$' -timeout 90m

fuzz: go-version ## every fuzz target, FUZZTIME each (10m)
	scripts/fuzz.sh

clean: ## remove build/ but not downloaded packages, which are outside of it
	rm -rf build

joist: go-version
	$(GOBUILD) -o build/bin/joist ./cmd/joist

go-version:
	@scripts/go-version.sh $(GO)
