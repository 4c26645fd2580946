# One command per habit. Each target sets up what it needs, uv itself when it is missing.
UV := $(or $(shell command -v uv),.tools/bin/uv)
WORKERS ?= $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) * 3 / 2 )))
export PATH := $(CURDIR)/.tools/bin:$(PATH)

.PHONY: setup run test check bench bench-load rehearse build deploy update docs test-docker constraints

setup: $(UV)  ## the environment, with the versions of constraints.txt
	$(UV) sync --quiet

.tools/bin/uv:
	python3 -m venv .tools && .tools/bin/pip install --quiet --constraint constraints.txt uv

run: setup  ## the stack on this machine: a chat page and a console page
	$(UV) run stepgram local

test: setup  ## every test; several processes side by side, each with a stack of its own
	$(UV) run pytest --numprocesses $(WORKERS) --dist loadscope --no-loadscope-reorder $(ARGS)

check: setup  ## style, types, templates, definitions, generated files
	$(UV) run ruff format --check .
	$(UV) run ruff check .
	$(UV) run mypy
	$(UV) run cfn-lint template.yaml
	$(UV) run python -m tests.definitions
	$(UV) run cog --check -p "import sys; sys.path.insert(0, '.')" $(GENERATED)

bench: setup  ## how long things take, as a table and JSON
	$(UV) run python -m tests.bench $(ARGS)

bench-load: setup  ## 200 chats x 10 messages at once with faults; loopback only, some minutes
	$(UV) run python -m tests.bench.load $(ARGS)

rehearse: setup  ## would this deploy work? the real packages play a turn under Lambda's limits, on this machine
	$(UV) run python -m stepgram.rehearsal.rehearse $(ARGS)

build: setup  ## what goes to AWS (the agent's image needs Docker)
	$(SAM) build

deploy: build  ## to AWS the first time: asks, and keeps the answers in samconfig.toml
	$(SAM) deploy --guided

update: build  ## to AWS again, with the answers that were kept and no question
	$(SAM) deploy --no-confirm-changeset

docs: setup  ## rewrite the generated parts of the documentation; the pictures need Chromium
	$(UV) run python -m docs.pictures
	$(UV) run cog -r -p "import sys; sys.path.insert(0, '.')" $(GENERATED)

test-docker: setup  ## the definitions on AWS's stepfunctions-local image; needs Docker, not run by CI
	$(UV) run pytest tests/docker $(ARGS)

constraints: $(UV)  ## write the pinned versions anew; UPGRADE=--upgrade takes the newest the project allows
	$(UV) lock --quiet $(UPGRADE)
	$(UV) export $(EXPORT) --all-groups > constraints.txt && echo "uv==$$($(UV) --version | cut -d' ' -f2)" >> constraints.txt
	$(UV) export $(EXPORT) --only-group functions > functions/requirements.txt
	$(UV) export $(EXPORT) --only-group agent > functions/agent/requirements.txt
	$(UV) run cog -r pyproject.toml

EXPORT := --quiet --no-hashes --no-header --no-annotate --no-emit-project --format requirements-txt
SAM := $(UV) tool run --constraints tests/deploy/constraints-sam.txt --from aws-sam-cli sam
GENERATED := pyproject.toml README.md README.zh-CN.md docs/*.md
