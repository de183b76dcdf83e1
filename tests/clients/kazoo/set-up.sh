#!/bin/sh
# Makes what the tests in Python need, in target/kazoo: a virtual environment with
# kazoo and pytest, and kazoo's source archive, which holds its test suite; and redis,
# for examples/partitions. It is made once, and anew when this file has changed or its
# interpreter is gone.
set -eu

cd "$(dirname "$0")/../../.."
home=$PWD/target/kazoo
kazoo=kazoo-2.11.0
redis=redis-6.4.0
recipe=$(cksum <tests/clients/kazoo/set-up.sh)

if [ "$(cat "$home/ready" 2>/dev/null)" = "$recipe" ] && "$home/venv/bin/python" -c '' 2>/dev/null; then
    exit 0
fi

fail() {
    echo "tests in Python: $1" >&2
    exit 1
}

# What pip says is kept for when it fails.
pip() {
    "$home/venv/bin/python" -m pip --disable-pip-version-check --no-input "$@" >"$home/pip.log" 2>&1 && return
    cat "$home/pip.log" >&2
    fail "pip could not do '$1', see above; it needs the Python package index or a mirror of it"
}

echo "setting up $kazoo, pytest and $redis in target/kazoo" >&2
rm -rf "$home"
mkdir -p "$home"
python3 -m venv "$home/venv" || fail "no virtual environment could be made: is python3-venv installed?"
pip install pytest pytest-timeout pyOpenSSL==24.2.1 objgraph mock \
    javaobj-py3 pyasn1 pyasn1_modules pycryptodomex
pip install "redis==${redis#redis-}"
# Not with all that it asks for: twofish must be compiled, and nothing here uses it.
pip install --no-deps pyjks
pip download --no-deps --no-binary kazoo --dest "$home" "kazoo==${kazoo#kazoo-}"
tar -xzf "$home/$kazoo.tar.gz" -C "$home" || fail "$kazoo.tar.gz could not be unpacked"
pip install --no-deps "$home/$kazoo"
[ -d "$home/$kazoo/kazoo/tests" ] || fail "the archive of $kazoo has no tests in it"
"$home/venv/bin/python" -c 'import kazoo.testing, pytest, pytest_timeout, objgraph, mock, redis' ||
    fail "something is missing from target/kazoo/venv, see above"
echo "$recipe" >"$home/ready"
