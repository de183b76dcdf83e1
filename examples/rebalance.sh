#!/usr/bin/env bash
# The story of a pool on the command line: join, add, kill, drain, with the
# table's version and the moves after each. It starts a cluster of three on
# loopback with temporary data, and leaves nothing behind.
#
#   examples/rebalance.sh            needs `rota` in the PATH, or ROTA_BIN
set -euo pipefail

rota=${ROTA_BIN:-rota}
command -v "$rota" >/dev/null || { echo "no rota binary: run 'make build', then ROTA_BIN=target/release/rota $0" >&2; exit 2; }
command -v curl >/dev/null || { echo "this needs curl" >&2; exit 2; }

home=$(mktemp -d)
declare -A pids=()

finish() {
    for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
    rm -rf "$home"
}
trap finish EXIT

say() { printf '\n== %s\n' "$*"; }

# Sets `free` to a port that is free now and was not given before.
declare -a taken=()
free_port() {
    local port
    while :; do
        # Below those that outgoing connections get (from 32768 on Linux).
        port=$((20000 + RANDOM % 12000))
        [[ " ${taken[*]-} " == *" $port "* ]] && continue
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { taken+=("$port"); free=$port; return; }
    done
}

declare -a http=() peers=()
for id in 1 2 3; do
    free_port
    http[id]=127.0.0.1:$free
    free_port
    peers[id]=127.0.0.1:$free
done
founders="1=${peers[1]},2=${peers[2]},3=${peers[3]}"
export ROTA_SERVERS="${http[1]},${http[2]},${http[3]}"

worker() {
    "$rota" worker --pool mail --name "$1" --session-timeout 2s \
        --exec 'echo progress working; exec sleep 1000' >"$home/$1.log" 2>&1 &
    pids[$1]=$!
    disown
}

# Polls until the pool has so many members, no vacant bucket and nothing moving.
settled() {
    local deadline=$((SECONDS + 30)) line
    while ((SECONDS < deadline)); do
        line=$(curl -fsS "http://${http[1]}/v1/pools/mail" || true)
        if [[ $line == *"\"members\":$1,"* && $line == *'"vacant":0,'* && $line == *'"moving":0}'* ]]; then return; fi
        sleep 0.1
    done
    echo "the pool did not come to rest: $line" >&2
    exit 1
}

tell() {
    "$rota" pool show mail
    "$rota" member list mail
    "$rota" plan show mail
}

say "three coordinators, from three command lines"
for id in 1 2 3; do
    "$rota" coordinator --id $id --data "$home/$id" --http "${http[id]}" --peer "${peers[id]}" --zookeeper off \
        --peers "$founders" >"$home/coordinator-$id.log" 2>&1 &
    pids[coordinator-$id]=$!
    disown
done
deadline=$((SECONDS + 20))
for id in 1 2 3; do
    until curl -fsS "http://${http[id]}/readyz" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || { echo "server $id is not ready:" >&2; cat "$home/coordinator-$id.log" >&2; exit 1; }
        sleep 0.1
    done
done
"$rota" cluster show

say "a pool of 64 buckets, and two workers"
"$rota" pool create mail --buckets 64
worker w1
worker w2
settled 2
tell

say "w3 joins: the fewest possible buckets move to it"
worker w3
settled 3
tell

say "w2 is killed: when its session is over, its buckets are with the others"
kill -9 "${pids[w2]}"
unset 'pids[w2]'
settled 2
tell

say "w1 is drained: what would move, then the moves"
"$rota" drain mail w1 --dry-run
"$rota" drain mail w1
tell

say "who owns a key, by the command line and by curl"
"$rota" table owner mail alice@example.org
curl -fsS "http://${http[2]}/v1/pools/mail/owner?key=alice@example.org"
echo

say "the leader is killed: another leads, and the table is the same"
before=$(curl -fsS "http://${http[1]}/v1/pools/mail/table" | cksum)
leader=$(curl -fsS "http://${http[1]}/v1/cluster" | sed 's/.*"leader":\([0-9]*\).*/\1/')
kill -9 "${pids[coordinator-$leader]}"
unset "pids[coordinator-$leader]"
left=$((leader % 3 + 1))
deadline=$((SECONDS + 20))
until [[ $(curl -fsS "http://${http[left]}/v1/cluster" | sed 's/.*"leader":\([0-9a-z]*\).*/\1/') =~ ^[0-9]+$ ]] &&
    curl -fsS "http://${http[left]}/v1/pools?consistent=true" >/dev/null; do
    ((SECONDS < deadline)) || { echo "no leader was elected" >&2; exit 1; }
    sleep 0.1
done
after=$(curl -fsS "http://${http[left]}/v1/pools/mail/table" | cksum)
[[ $before == "$after" ]] || { echo "the table is another one now" >&2; exit 1; }
echo "the same table"
"$rota" status

say "done"
