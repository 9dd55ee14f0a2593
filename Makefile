PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test test-slurm lint cases reference bench bench-calibration bench-networks bench-cohort chaos lock clean

demo: $(INSTALLED)            ## simulate a brain, fit it, write maps and report to demo-out/
	$(BIN)/mrsi demo --out demo-out

test: lint                    ## what CI runs
	out=$$(mktemp -d) && $(BIN)/mrsi demo --shape 10 10 2 --out $$out/demo && rm -r $$out
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test-slurm: $(INSTALLED)      ## a SLURM of one node, and runs on it; installs it where root
	if [ "$$(id -u)" = 0 ] && ! command -v slurmctld >/dev/null; then \
	  apt-get install -y --no-install-recommends slurm-wlm munge; fi
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/slurm -n 0

reference: $(INSTALLED)       ## write docs/stages.md from the settings of the stages
	$(BIN)/python -m mrsi_engine.cli.reference docs/stages.md
cases: $(INSTALLED)           ## files as people have them: run every case and print the table
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/cases -n 0 --cases-table

bench: $(INSTALLED)           ## measure speed, and corrections against published figures
	$(BIN)/python tests/benchmarks/bench.py --out bench.json
	$(BIN)/python tests/benchmarks/bench_fpc.py
	$(BIN)/python tests/benchmarks/bench_water.py
	$(BIN)/python tests/benchmarks/bench_lipid.py
	$(BIN)/python tests/benchmarks/bench_router.py
	PYTHONPATH=. $(BIN)/python tests/benchmarks/bench_gpu.py

bench-calibration: $(INSTALLED)  ## are the error bars true? tables, and figures in calibration/
	$(BIN)/python tests/benchmarks/bench_calibration.py --out calibration

bench-networks: $(INSTALLED)  ## train on the published simulation and measure, an hour of a core
	$(BIN)/python tests/benchmarks/bench_networks.py --out networks

bench-cohort: $(INSTALLED)    ## what a cohort costs beside its kernels; figures in cohort-bench/
	OMP_NUM_THREADS=1 PYTHONPATH=. $(BIN)/python tests/benchmarks/bench_fixed_cost.py
	OMP_NUM_THREADS=1 PYTHONPATH=. $(BIN)/python tests/benchmarks/bench_cohort.py --out cohort-bench
	OMP_NUM_THREADS=1 PYTHONPATH=. $(BIN)/python tests/benchmarks/bench_cohort_engine.py

SEED ?= 1
chaos: $(INSTALLED)           ## 100 SIGKILLs, frozen workers and full disks over 30 scans; SEED=1
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos.chaos --seed $(SEED)

lock:                         ## write constraints.txt and constraints-cuda.txt again; needs uv
	.ci/lock

clean:
	rm -rf .venv demo-out bench.json calibration networks cohort-bench

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes --requirement constraints.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@
