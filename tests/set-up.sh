#!/bin/sh
# Installs what the tests need beyond the Rust toolchain, when it is missing.
set -eu

# Installs the Debian packages in $missing.
install_missing() {
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "the tests need:$missing; install them by hand, this is no Debian machine" >&2
        exit 1
    fi
    run=""
    [ "$(id -u)" -eq 0 ] || run="sudo"
    case "$missing " in *" redis-server "*) keep_redis_down ;; esac
    $run apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive $run apt-get install -y -qq --no-install-recommends $missing
    # Nor with the machine.
    case "$missing " in *" redis-server "*) $run update-rc.d redis-server disable ;; esac
}

# Debian's package starts a server of its own when it is installed. The tests start theirs,
# on ports of their own, and nothing else is to be left listening. Where a policy is there
# already (in containers), it forbids every service.
keep_redis_down() {
    policy=/usr/sbin/policy-rc.d
    [ ! -e "$policy" ] || return 0
    trap '$run rm -f "$policy"' EXIT
    printf '#!/bin/sh\ncase "$*" in *redis-server*) exit 101 ;; esac\n' | $run tee "$policy" >/dev/null
    $run chmod 755 "$policy"
}

missing=""
# What tells that a package is there, a command or one of its files, and the package.
for pair in curl:curl openssl:openssl cc:gcc javac:default-jdk-headless redis-server:redis-server \
    /usr/share/zookeeper/bin/zkCli.sh:zookeeper \
    /usr/share/java/curator-recipes.jar:libcurator-recipes-java \
    /usr/share/java/slf4j-nop.jar:libslf4j-java \
    /usr/include/zookeeper/zookeeper.h:libzookeeper-mt-dev \
    /usr/share/doc/libfaketime:libfaketime; do
    sign="${pair%%:*}"
    [ -e "$sign" ] || command -v "$sign" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
done
# What only the benchmark compares with.
if [ "${1:-}" = etcd ]; then
    command -v etcd >/dev/null 2>&1 || missing="$missing etcd-server"
fi
# Debian's python3 comes without what makes virtual environments.
python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || missing="$missing python3-venv"

if [ -n "$missing" ]; then
    install_missing
fi
sh "$(dirname "$0")/clients/kazoo/set-up.sh"
sh "$(dirname "$0")/clients/zookeeper/set-up.sh"
