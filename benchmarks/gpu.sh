#!/usr/bin/env bash
# The operator benchmark, the CUDA tests, the plans' resources and the serving benchmark, on a GPU, in
# under 9 minutes.
#
#     benchmarks/gpu.sh [FOLDER]
#
# Needs an NVIDIA GPU and, in `python3` or $PYTHON, torch with CUDA, Triton and the packages below;
# it installs nothing, and does without `make setup`. FOLDER, or build/gpu-TIME, gets report.md and
# the logs, which have what was measured as it comes. Each part has a limit of time, after which the
# next one runs.
#
# Exits with 1 where a test failed or a target was missed, and with 2 where something is missing.
set -uo pipefail
[ $# -le 1 ] || { echo "usage: benchmarks/gpu.sh [FOLDER]" >&2; exit 2; }
results=${1:+$(realpath -m "$1")}
cd "$(dirname "$0")/.." || exit 2
results=${results:-$PWD/build/gpu-$(date +%Y%m%d-%H%M%S)}
python=${PYTHON:-python3}

OPERATOR_SECONDS=270 TESTS_SECONDS=90 RESOURCES_SECONDS=50 SERVING_SECONDS=90
LAST_ROW_SECONDS=25 # of the operator's, in which no further row begins

"$python" - <<'END' || exit 2
import sys
from importlib import import_module

PACKAGES = {
    "google.protobuf": "protobuf",
    "google.rpc.status_pb2": "googleapis-common-protos",
    "grpc": "grpcio",
    "grpc_health.v1": "grpcio-health-checking",
    "grpc_reflection.v1alpha": "grpcio-reflection",
    "grpc_status": "grpcio-status",
    "hypothesis": "hypothesis",
    "ml_dtypes": "ml-dtypes",
    "numpy": "numpy",
    "prometheus_client": "prometheus-client",
    "pydantic": "pydantic",
    "pydantic_settings": "pydantic-settings",
    "pynvml": "nvidia-ml-py",
    "pytest": "pytest",
    "pytest_asyncio": "pytest-asyncio",
    "safetensors": "safetensors",
    "structlog": "structlog",
    "torch": "torch",
    "tqdm": "tqdm",
    "triton": "triton",
}
missing = []
for module, package in PACKAGES.items():
    try:
        import_module(module)
    except ImportError as error:
        missing.append(f"{package} ({error})")
if missing:
    sys.exit("\n".join([f"missing in {sys.executable}:", *missing]))
import torch

if not torch.cuda.is_available():
    sys.exit(f"no GPU: torch {torch.__version__} finds no GPU of NVIDIA's that it can use")
END

# Where the project is not installed, its packages come from here; the server asks for its version.
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
mkdir "$site/bilstm.dist-info"
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
printf 'Metadata-Version: 2.1\nName: bilstm\nVersion: %s\n' "$version" \
	>"$site/bilstm.dist-info/METADATA"
export PYTHONPATH="$PWD/proto:$PWD/client:$PWD/server${PYTHONPATH:+:$PYTHONPATH}:$site"
export PYTHONUNBUFFERED=1

failed=0
report=$results/report.md
mkdir -p "$results"
: >"$report"

part() { # TITLE SECONDS NAME COMMAND…
	echo "== $1 ($SECONDS s)" >&2
	printf '\n## %s\n\n' "$1" >>"$report"
	timeout --kill-after=5 "$2" "${@:4}" >"$results/$3.md" 2>"$results/$3.log"
	local code=$?
	cat "$results/$3.md" >>"$report"
	[ $code -eq 0 ] && return
	failed=1
	echo "Code $code (124, 137: out of time); see $3.log." >>"$report"
}

part "The operator" $OPERATOR_SECONDS operator \
	"$python" -m benchmarks.gpu --check --seconds $((OPERATOR_SECONDS - LAST_ROW_SECONDS))
# After the operator, which has compiled most of what they need, and the most plans last.
mapfile -t tests < <(grep -l 'mark\.gpu' tests/test_*.py | sort --reverse)
part "CUDA tests" $TESTS_SECONDS tests "$python" -m pytest -q -m gpu -W default "${tests[@]}"
part "Resources of the plans" $RESOURCES_SECONDS resources \
	"$python" -m benchmarks.gpu.resources --type bfloat16 --check
part "The service" $SERVING_SECONDS serving \
	"$python" -m benchmarks.gpu.serving --seconds 2 --rounds 2 --check

cat "$report"
echo "== $SECONDS s; all of it is in $results" >&2
exit $failed
