# Everything here needs Go and nothing else (the race detector also needs a C compiler; without one, tests run without it).

MODULES := . metaetcdtest tests tests/kubernetes tests/etcdsuite examples examples/apiserver sim

GOLANGCI_LINT := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

# Packages tested at the same time: server tests are heavy, and time limits are meant for two cores.
P ?= 2
TIMEOUT ?= 45m
RACE ?= $(if $(shell command -v $$(go env CC) 2>/dev/null),-race)
LIBRARY := github.com/metaetcd/metaetcd,github.com/metaetcd/metaetcd/internal/...

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## a tour in ten seconds: a coordinator and three members in one process
	@cd examples && go run ./quickstart

.PHONY: test
test: ## all tests of all modules, race detector on
ifeq ($(RACE),)
	@echo "no C compiler: testing without the race detector" >&2
endif
	@set -e; for m in $(MODULES); do \
		echo "== test $$m"; \
		(cd $$m && go test $(RACE) -count=1 -p $(P) -timeout $(TIMEOUT) ./...); \
	done

.PHONY: sim
sim: ## the simulator of the protocol (SIM='-n 20000 -x 30 -f xDecFirst' takes a rule away: it must be caught)
	@cd sim && go run . $(or $(SIM),-n 2000 -x 30 -maxloss 2)

.PHONY: lint
lint: ## gofumpt, go vet, staticcheck and the linters of .golangci.yml, and tidy go.mod files
	@set -e; for m in $(MODULES); do \
		echo "== lint $$m"; \
		(cd $$m && go mod tidy -diff && $(GOLANGCI_LINT) run --allow-parallel-runners ./...); \
	done

.PHONY: fmt
fmt: ## format the code as lint wants it
	@set -e; for m in $(MODULES); do (cd $$m && $(GOLANGCI_LINT) fmt ./...); done

.PHONY: cover
cover: ## statement coverage of the library by all modules' tests
	@set -e; dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; for m in . tests; do \
		(cd $$m && go test -count=1 -p $(P) -timeout $(TIMEOUT) -coverpkg=$(LIBRARY) ./... -args -test.gocoverdir="$$dir"); \
	done; go tool covdata percent -i="$$dir"; \
	go tool covdata textfmt -i="$$dir" -o coverage.out; go tool cover -func=coverage.out | tail -n 1

.PHONY: kubernetes
kubernetes: ## Kubernetes' own storage tests, on a plain etcd and on a meta cluster: pass counts and differences
	@cd tests/kubernetes && go run ./upstream $(KUBERNETES)

.PHONY: etcdsuite
etcdsuite: ## etcd's own integration tests, on a plain etcd and on a meta cluster (ETCDSUITE='-side meta -race -v common')
	@cd tests/etcdsuite && go run . $(ETCDSUITE)

.PHONY: versions
versions: ## conformance, recipes and client tests on every supported version of etcd (VERSIONS='-of 3.5,3.7 -run TestModel')
	@cd tests && go run ./versions $(VERSIONS)

.PHONY: bench
bench: ## the meta cluster against one plain etcd: one table (BENCH='-run put -rounds 9', see -help)
	@cd tests && go run ./bench $(BENCH)

.PHONY: bench-before
bench-before: ## the meta cluster at another commit and at this one, in turns (BEFORE=HEAD~10 BENCH='-run put')
	@set -e; dir=$$(mktemp -d); trap 'git worktree remove --force "$$dir/tree"; rm -rf "$$dir"' EXIT; \
	git worktree add --quiet --detach "$$dir/tree" $(or $(BEFORE),HEAD~1); \
	(cd "$$dir/tree/tests" && go build -o "$$dir/before" ./bench); (cd tests && go build -o "$$dir/after" ./bench); \
	for round in 1 2 3; do for at in before after; do \
		echo "== $$at"; "$$dir/$$at" -side meta $(BENCH); \
	done; done

.PHONY: bench-kubernetes
bench-kubernetes: ## what an apiserver's storage does, meta cluster against one plain etcd: one table (BENCH='-help')
	@cd tests/kubernetes && go run ./bench $(BENCH)

.PHONY: bench-processes
bench-processes: ## a writer beside 1 to 50 nearly idle processes, meta cluster against one plain etcd (PROCESSES='-help')
	@cd tests && go run ./bench/processes $(PROCESSES)

.PHONY: bench-resume
bench-resume: ## watchers after an outage and from the past, first reads of the past, meta cluster against one plain etcd (RESUME='-help')
	@cd tests && go run ./bench/resume $(RESUME)

.PHONY: bench-scale
bench-scale: ## 1, 2 and 4 members against one etcd, disks throttled alike (Linux, root, cgroup v1; SCALE='-help')
	@cd tests && go run ./bench/scale $(SCALE)
