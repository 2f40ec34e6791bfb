# GNU make. `make` alone lists the targets.
SHELL := /bin/sh

# Tests read published test vectors and sample data from the folder beside the checkout, where there is one.
ifneq ($(wildcard ../shared/vectors),)
export PRIVAULT_VECTORS ?= $(abspath ../shared/vectors)
endif
ifneq ($(wildcard ../shared/data),)
export PRIVAULT_DATA ?= $(abspath ../shared/data)
endif

TOOL    := scripts/tool.sh
REDOCLY := scripts/tools/node_modules/.bin/redocly

.DEFAULT_GOAL := help
.PHONY: help run build test lint lint-go lint-api bench bench-small check fmt generate schema vuln secrets breaking clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

# exec: Ctrl-C, and a SIGTERM sent to make, reach the server itself, which stops its Postgres before it ends; make waits.
# Without the SDKs of cloud KMS, which would double the time of a first build; a development server has a local key.
run: ## start a development server with its own Postgres (ARGS="--listen ...")
	CGO_ENABLED=0 go build -tags nocloud -trimpath -o bin/privault ./cmd/privault
	@scripts/postgres.sh
	@exec ./bin/privault dev $(ARGS)

build: ## build ./bin/privault, with everything but PKCS#11
	CGO_ENABLED=0 go build -trimpath -o bin/privault ./cmd/privault

# The race detector is C, so it needs cgo and a C compiler. PKG and ARGS narrow a run: make test PKG=./vault ARGS='-run Hold'
PKG ?= ./...
# PKCS#11 is tested against SoftHSM2, wherever it is; with CI set, its absence is a failure.
SOFTHSM := $(firstword $(PRIVAULT_TEST_SOFTHSM) $(wildcard /usr/lib/softhsm/libsofthsm2.so))
NOHSM   := no SoftHSM2 (Debian: apt-get install softhsm2): PKCS\#11 is not tested
test: ## run all tests on a real Postgres, with the race detector
	@command -v $$(go env CC | cut -d' ' -f1) >/dev/null || { echo "make test: the race detector needs a C compiler (Debian: apt-get install gcc libc6-dev)" >&2; exit 1; }
	@scripts/postgres.sh
	$(if $(SOFTHSM),,$(if $(CI),$(error $(NOHSM)),@echo "make test: $(NOHSM)" >&2))
	CGO_ENABLED=1 go test -race -count=1 -timeout 30m $(if $(SOFTHSM),-tags pkcs11) $(ARGS) $(PKG)
	go test -tags nocloud -count=1 -run 'NoCloud|OpenUnknown' ./kms

lint: lint-go lint-api ## formatting, vet and linters (.golangci.yml), and openapi.yaml (.redocly.yaml)

lint-go:
	$(TOOL) golangci-lint run

lint-api: $(REDOCLY)
	REDOCLY_TELEMETRY=off REDOCLY_SUPPRESS_UPDATE_NOTICE=true $(REDOCLY) lint --config .redocly.yaml --format stylish openapi.yaml

$(REDOCLY): scripts/tools/package-lock.json
	npm ci --prefix scripts/tools --ignore-scripts --no-audit --no-fund
	@touch $@

# Both show the ratios that are kept, of the same sizes. Keep new ones, made on a machine that does nothing else, with
#   make bench ARGS="--json docs/performance.json --markdown docs/performance.md"
#   make bench-small ARGS="--json docs/performance-small.json"
bench = ./bin/privault bench --size=$(1) $(addprefix --compare=,$(wildcard $(2))) $(addprefix --commit=,$(shell git describe --always --dirty --abbrev=12 2>/dev/null)) $(ARGS)
bench: build ## measure everything beside bare Postgres, for most of an hour
	@scripts/postgres.sh
	$(call bench,full,docs/performance.json)

bench-small: build ## measure a little of it
	@scripts/postgres.sh
	$(call bench,small,docs/performance-small.json)

# lint comes with gofmt and go vet. tidy and stale outputs come first: they take seconds.
check: ## everything that must hold before a change lands
	go mod tidy -diff
	scripts/unchanged.sh $(MAKE) --no-print-directory generate schema
	$(MAKE) --no-print-directory lint
	go vet -tags nocloud ./...
	CGO_ENABLED=1 go vet -tags pkcs11 ./kms
	$(MAKE) --no-print-directory build
	$(MAKE) --no-print-directory test

fmt: ## format the Go code
	$(TOOL) golangci-lint fmt

generate: ## run go generate
	go generate ./...

schema: ## write migrations/schema.sql from a freshly migrated database
	@scripts/postgres.sh
	go run ./scripts/schema

# Not in check: it needs the vulnerability database, over the network or from a folder that GOVULNDB names (file:///...).
vuln: ## look for known vulnerabilities in what the binary calls
	$(TOOL) govulncheck $(if $(GOVULNDB),-db $(GOVULNDB)) ./...

secrets: ## look for credentials in the history
	$(TOOL) gitleaks git --no-banner --redact .

BASE ?= origin/main
breaking: ## list breaking changes of openapi.yaml since BASE
	$(TOOL) oasdiff breaking --fail-on ERR $(BASE):openapi.yaml openapi.yaml

# .privault stays: it holds the development server's data and keys.
clean: ## remove what was built
	rm -rf bin .cache/bin scripts/tools/node_modules coverage.out
