# berth's few commands. Everything is done by scripts that can be run by hand, too.
SHELL := /bin/bash
.DEFAULT_GOAL := help

.PHONY: help demo demo-down build test unit e2e runtime-test bench fuzz vm-test deb clean-state

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 14

demo: ## build all, set up certificates, run nginx in a container, fetch its page
	@deploy/quickstart.sh up

demo-down: ## take the demo away again, whole
	@deploy/quickstart.sh down

build: ## the release binaries
	@cargo build --release -p berth -p berth-oci --bins

test: ## install what the tests need, and run them all
	@tests/check.sh

unit: ## the tests beside the code only
	@tests/check.sh unit

e2e: ## real binaries on a real kernel only
	@tests/check.sh e2e

runtime-test: ## the end-to-end tests with crun and runc as the default runtime, MODULES="run exec" (all that run containers)
	@tests/runtimes.sh

bench: ## measure berth beside the floor and the peers: make bench SECTIONS=start,exec
	@tests/bench/run.sh

fuzz: ## every fuzz target, SECONDS_EACH=60
	@tests/fuzz.sh $${SECONDS_EACH:-60}

vm-test: ## the binaries in a VM with nothing but cgroup v2, VM_KERNEL=6.1 or 6.12 (both)
	@tests/vm-test.sh

deb: build ## a Debian package
	@deploy/deb.sh

clean-state: ## stop the test registry and remove what tests and bench have made
	@tests/fixtures/registry.sh stop
	@rm -rf "$${BERTH_TEST_DIR:-/var/tmp/berth-test}"
