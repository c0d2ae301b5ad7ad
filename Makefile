# Everything a person types here. Each target prepares what it needs.
.DEFAULT_GOAL := help
.PHONY: help setup check test test-slow perf demo site lab-up lab-status lab-down

PYTHON ?= python3
FLEET ?=
VENV := .venv/bin
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Make .venv and .build/collections (done by every other target)
	@$(PYTHON) tests/setup_workspace.py

demo: setup ## From nothing to GPU pods: lab up, site twice, GPU pods, a table; the lab stays up
	@$(VENV)/python tests/demo.py

test: setup ## All gates, journey, molecule and contracts, on a fresh lab that is taken down at the end
	@$(VENV)/python tests/gates test

check: setup ## Gates and unit tests only, under two minutes
	@$(VENV)/python tests/gates check

test-slow: setup ## What takes long: the honesty and kill tests with all their tries, measurements
	@$(VENV)/python tests/gates slow

perf: setup ## Measure a run that changes nothing against plain Ansible, on the lab that is up
	@$(VENV)/python tests/perf

site: setup ## Run the site playbook on the lab that is up
	@$(VENV)/ansible-playbook -i inventories/lab playbooks/site.yml

lab-up: setup ## Build and start the lab (FLEET=file for another one than tests/lab/fleets/default.yml)
	@$(VENV)/python tests/lab up $(if $(FLEET),--fleet $(FLEET))

lab-status: setup ## What runs in the lab
	@$(VENV)/python tests/lab status

lab-down: setup ## Stop the lab and leave nothing behind
	@$(VENV)/python tests/lab down
