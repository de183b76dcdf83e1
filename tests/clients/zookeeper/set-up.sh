#!/bin/sh
# Puts ZooKeeper 3.9 and Curator 5, which Debian does not have, into target/zookeeper-3.9: the
# jars that PySpark's source archive carries. The archive is large and is fetched once; only
# these jars are kept. They are fetched anew when this file has changed.
set -eu

cd "$(dirname "$0")/../../.."
home=$PWD/target/zookeeper-3.9
archive=pyspark-4.3.0
recipe=$(cksum <tests/clients/zookeeper/set-up.sh)
jars='zookeeper-3.9.5 zookeeper-jute-3.9.5 curator-client-5.9.0 curator-framework-5.9.0
    curator-recipes-5.9.0 guava-33.6.0-jre slf4j-api-2.0.17 metrics-core-4.2.37 snappy-java-1.1.10.8
    netty-buffer-4.2.13.Final netty-codec-4.2.13.Final netty-codec-base-4.2.13.Final
    netty-common-4.2.13.Final netty-handler-4.2.13.Final netty-resolver-4.2.13.Final
    netty-transport-4.2.13.Final netty-transport-classes-epoll-4.2.13.Final
    netty-transport-native-unix-common-4.2.13.Final'

[ "$(cat "$home/ready" 2>/dev/null)" != "$recipe" ] || exit 0

fail() {
    echo "ZooKeeper 3.9: $1" >&2
    exit 1
}

echo "fetching $archive for ZooKeeper 3.9.5 and Curator 5.9.0, in target/zookeeper-3.9" >&2
rm -rf "$home"
mkdir -p "$home"
# pip, since it knows where the package index is.
python3 -m venv "$home/venv" || fail "no virtual environment could be made: is python3-venv installed?"
"$home/venv/bin/python" -m pip --disable-pip-version-check --no-input download --no-deps --no-binary pyspark \
    --dest "$home" "pyspark==${archive#pyspark-}" >"$home/pip.log" 2>&1 || {
    cat "$home/pip.log" >&2
    fail "$archive could not be fetched, see above; pip needs the Python package index or a mirror of it"
}
members=""
for jar in $jars; do
    members="$members $archive/deps/jars/$jar.jar"
done
# shellcheck disable=SC2086
tar -xzf "$home/$archive.tar.gz" -C "$home" --strip-components=3 $members ||
    fail "$archive.tar.gz has not all the jars"
rm -rf "$home/$archive.tar.gz" "$home/venv"
echo "$recipe" >"$home/ready"
