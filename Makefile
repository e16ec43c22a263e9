# The front door. Every target works from a fresh clone: it installs what it lacks, or says in a line what to
# install (deploy/setup.sh). `make` alone lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Go's own installer puts it there and leaves the PATH to the reader.
export PATH := $(PATH):/usr/local/go/bin

VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unversioned)
LDFLAGS  := -s -w -X main.version=$(VERSION)
# Without cgo the binaries are static, as they are in the images; one build cache then serves both.
GOBUILD  := CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)'

# What to test, and with what: `make test PKGS=./pkg/audit/... RUN=Writer`, `make test RACE=`.
PKGS     ?= ./...
RUN      ?=
RACE     ?= -race
TESTFLAGS ?=
# How long each fuzz target runs.
FUZZTIME ?= 30s
# Of make bench: SHORT=1 PROFILE=1 ONLY=expression.
SHORT    ?=
PROFILE  ?=
ONLY     ?=
# The stock CLI that the end-to-end tests run, besides their own client.
CONVOX   ?= $(shell command -v convox 2>/dev/null)

.PHONY: help
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: console ## build bin/proxy, bin/admin with the web console, bin/rack (in memory) and bin/demo
	@deploy/setup.sh go
	@mkdir -p bin
	$(GOBUILD) -o bin/ ./cmd/proxy ./cmd/admin ./pkg/racktest/cmd/rack ./deploy/demo
	$(GOBUILD) -modfile=s3.mod -o bin/ github.com/versity/versitygw/cmd/versitygw

# What the console is built of. It is built anew when any of it changes.
CONSOLE_SOURCES = $(shell find pkg/console/src pkg/console/build pkg/console/*.json pkg/console/*.ts pkg/console/index.html pkg/adminapi/client/ts/api.ts -type f 2>/dev/null)

.PHONY: console
console: pkg/console/dist/app/index.html ## build the web console, which admin embeds

pkg/console/node_modules/.package-lock.json: pkg/console/package-lock.json
	@deploy/setup.sh node
	cd pkg/console && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

pkg/console/dist/app/index.html: pkg/console/node_modules/.package-lock.json $(CONSOLE_SOURCES)
	cd pkg/console && npm run build

.PHONY: demo
demo: demo-setup ## a gateway, a rack and people of each role on this machine; Ctrl-C stops it (DEMO_LEVEL=maximum: with the values of a security level)
	@exec bin/demo run

.PHONY: demo-up
demo-up: demo-setup ## the same in the background: returns when it is ready
	@bin/demo up

.PHONY: demo-down
demo-down: ## stop the demo that demo-up started, and wait until it has stopped
	@if [ -x bin/demo ]; then bin/demo down; else echo 'The demo is not running.'; fi

.PHONY: demo-clean
demo-clean: ## stop the demo and forget its data, tokens and certificates
	@if [ -d .demo ]; then $(MAKE) demo-setup && bin/demo clean; else echo 'There is no demo here.'; fi

.PHONY: demo-setup
demo-setup:
	@deploy/setup.sh go postgres
	@echo 'Building…'
	@$(MAKE) build >/dev/null

.PHONY: test
test: console ## unit, table, fuzz seeds, golden matrix, the console's logic, and the real binaries over a real PostgreSQL
	@deploy/setup.sh go compiler postgres node
	cd pkg/console && npm run check && npm test
	go test $(RACE) -timeout 20m $(if $(RUN),-run '$(RUN)') $(TESTFLAGS) $(PKGS)
ifeq ($(PKGS)$(RUN),./...)
	@$(MAKE) validate
endif

.PHONY: validate
validate: ## the chart, manifests, Terraform modules and alert rules, by the tools that will read them (part of make test)
	@deploy/setup.sh go postgres
	cd deploy/validate && go test -timeout 20m $(if $(RUN),-run '$(RUN)') $(TESTFLAGS) ./...

.PHONY: e2e
e2e: console ## the scenarios of the CLI and of the console end to end; with the stock CLI too when there is one (CONVOX=path)
	@deploy/setup.sh go postgres chromium
	@deploy/e2e.sh '$(CONVOX)' $(TESTFLAGS)

.PHONY: screenshots
screenshots: console ## photograph every page of the console, light and dark, desktop and phone, into .screenshots
	@deploy/setup.sh go postgres chromium
	@mkdir -p .screenshots
	SCREENSHOTS=$(CURDIR)/.screenshots go test -tags browser -count=1 -timeout 30m -run 'TestScreenshots|TestTheStepUpPage' ./deploy/e2e/console

.PHONY: lint
lint: pkg/console/node_modules/.package-lock.json ## formatting, vet, golangci-lint, the console's types, scripts, and known vulnerabilities where the list can be had
	@deploy/setup.sh go shellcheck lint
	@deploy/lint.sh

.PHONY: bench
bench: ## speed and size beside a bare reverse proxy, as a table and in .bench/results.json (SHORT=1: two minutes)
	@deploy/setup.sh go postgres
	@mkdir -p .bench bin
	@$(GOBUILD) -o bin/ ./cmd/proxy ./cmd/admin ./deploy/bench
	@bin/bench -bin bin -out .bench/results.json $(if $(SHORT),-short) $(if $(PROFILE),-profile) $(if $(ONLY),-only '$(ONLY)')
	@$(if $(SHORT)$(ONLY),true,$(MAKE) bench-console)

.PHONY: bench-console
bench-console: console ## how soon the console can be used on a slow machine, and how ten thousand events scroll
	@deploy/setup.sh go postgres chromium
	@mkdir -p .bench
	@BENCH_RESULTS=$(CURDIR)/.bench/results.json go test -v -tags browser -count=1 -timeout 30m -run TestTheConsoleAtSize ./deploy/e2e/console

.PHONY: faults
faults: ## kill, hang, cut and fill up whatever can be, again and again, and count what was lost (six minutes)
	@deploy/setup.sh go compiler postgres
	FAULTS=long go test -count=1 -v -timeout 60m $(if $(RUN),-run '$(RUN)') $(TESTFLAGS) ./deploy/faults

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (30s) each
	@deploy/setup.sh go postgres
	@deploy/fuzz.sh '$(FUZZTIME)' '$(PKGS)'

.PHONY: generate
generate: ## write again what is made from the code: golden files, the schema's snapshot, docs/configuration.md
	@deploy/setup.sh go postgres
	go test $$(grep -rlE 'flag\.Bool\("update"' --include='*_test.go' cmd deploy pkg sql | xargs -n1 dirname | sort -u | sed 's|^|./|') -update

.PHONY: pin
pin: ## write the digests of the base images into the Dockerfiles and .env.example; needs a registry
	@deploy/pin.sh

.PHONY: sbom
sbom: ## what the binaries are made of: bin/sbom.json (CycloneDX) and bin/licences.md
	@deploy/setup.sh go
	@mkdir -p bin
	$(GOBUILD) -buildvcs=false -o bin/ ./cmd/proxy ./cmd/admin
	@go run ./deploy/sbom -version '$(VERSION)' bin/proxy bin/admin >bin/sbom.json
	@go run ./deploy/sbom -licences bin/proxy bin/admin >bin/licences.md
	@echo 'bin/sbom.json, bin/licences.md'

.PHONY: clean
clean: ## remove what was built; the demo's data stays (make demo-clean)
	rm -rf bin .bench .cache .screenshots pkg/console/dist/app pkg/console/node_modules
