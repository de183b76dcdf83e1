#!/usr/bin/env bash
# The story of a message queue whose partitions are shared as MetaQ's are: consumers join until
# there are more of them than partitions, one is killed, a broker is killed and comes back, and
# at the end every message that a broker had acknowledged was consumed.
#
#   producers (2) ──► brokers (2): Redis servers, each     ──► consumers (6): rota worker, which runs
#   producer.py       with partitions, which are streams       consumer.py for each of its partitions
#        ▲                      │ broker.py                            │ ▲
#        │ the items, watched   ▼ items                    checkpoints ▼ │ who owns which partition
#        └─────────────────── the pool `orders`: rota coordinator ───────┘
#
# It starts everything on loopback with temporary data, and leaves nothing behind.
#
#   examples/partitions/run.sh       needs `rota` in the PATH, or ROTA_BIN, redis-server,
#                                    and kazoo and redis for Python in ${PYTHON:-python3}
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
rota=${ROTA_BIN:-rota}
python=${PYTHON:-python3}
needs() { echo "$*" >&2; exit 2; }
command -v "$rota" >/dev/null || needs "no rota binary: run 'make build', then ROTA_BIN=target/release/rota $0"
command -v redis-server >/dev/null || needs "no redis-server: install Debian's package of that name"
"$python" -c 'import kazoo, redis' 2>/dev/null || needs "$python has no kazoo or no redis: run 'pip install kazoo redis'," \
    "or 'sh tests/set-up.sh' and then PYTHON=target/kazoo/venv/bin/python $0"

home=$(mktemp -d)
mkdir "$home/sent" "$home/consumed"
declare -A pids=()
# For the commands of the workers.
export PYTHON=$python CONSUMER=$here/consumer.py CONSUMED=$home/consumed
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

finish() {
    for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
    # What a worker ran ends with it, but not in the same moment.
    local deadline=$((SECONDS + 5))
    until rm -rf "$home" 2>/dev/null || ((SECONDS >= deadline)); do sleep 0.1; done
}
trap finish EXIT

say() { printf '\n== %s\n' "$*"; }

fail() {
    echo "$*" >&2
    echo "what was said last:" >&2
    tail -n 5 "$home"/*.log >&2
    exit 1
}

# within SECONDS WHAT COMMAND...: polls until the command succeeds, and fails if it never does.
within() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        ((SECONDS < deadline)) || fail "$what: this did not happen in time"
        sleep 0.1
    done
}

# Sets `free` to a port that is free now and was not given before.
declare -a taken=()
free_port() {
    local port
    while :; do
        # Below those that outgoing connections get (from 32768 on Linux): such a one could
        # take the broker's port while the broker is down.
        port=$((20000 + RANDOM % 12000))
        [[ " ${taken[*]-} " == *" $port "* ]] && continue
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { taken+=("$port"); free=$port; return; }
    done
}

# start NAME COMMAND...
start() {
    local name=$1
    shift
    "$@" >>"$home/$name.log" 2>&1 &
    pids[$name]=$!
    disown
}

is_gone() { ! kill -0 "${pids[$1]}" 2>/dev/null; }

# Ends NAME... with the signal, and sees them gone.
end() {
    local signal=$1 name
    shift
    for name in "$@"; do
        kill "-$signal" "${pids[$name]}" 2>/dev/null || fail "$name had ended by itself"
    done
    for name in "$@"; do
        within 15 "$name ends" is_gone "$name"
        unset "pids[$name]"
    done
}

# A Redis server: NAME.
broker() {
    mkdir -p "$home/$1"
    # What is acknowledged is on the disk.
    start "$1" redis-server --bind 127.0.0.1 --port "${port[$1]}" --dir "$home/$1" \
        --appendonly yes --appendfsync always --save ''
}

# Keeps the broker's partitions in the pool while it answers: NAME PARTITION...
register() {
    local name=$1
    shift
    start "$name-items" "$python" "$here/broker.py" "$zookeeper" orders "127.0.0.1:${port[$name]}" "$@"
}

# Sends until it is told to stop: NAME.
producer() {
    start "$1" "$python" "$here/producer.py" "$zookeeper" orders "$1" "$home/sent/$1"
}

# A worker that runs one consumer.py for each partition that it owns: NAME.
consumer() {
    # shellcheck disable=SC2016
    start "$1" "$rota" worker --pool orders --name "$1" --session-timeout 3s \
        --exec 'exec "$PYTHON" "$CONSUMER" "$CONSUMED"'
}

items() { "$rota" item list orders | awk 'NR > 1 { printf "%s%s", sep, $1; sep = " " }'; }
are_items() { [[ $(items) == "$*" ]]; }

table() { "$rota" table show orders 2>/dev/null; }
owners() { table | awk 'NR > 1 { printf "%s%s=%s", sep, $1, $2; sep = " " }'; }
are_owners() { [[ $(owners) == "$*" ]]; }

# Waits until the table is: PARTITION=OWNER...
shared() {
    within 20 "the table becomes $*" are_owners "$*"
    table
    "$rota" member list orders | awk 'NR > 1 && $5 == 0 { print "idle:", $1 }'
}

# How many messages a partition got, and how many were consumed. Nobody may have written yet.
sent() { { cat "$home"/sent/* 2>/dev/null || true; } | grep -c "^acknowledged $1 " || true; }
consumed() { { cat "$home/consumed/$1".* 2>/dev/null || true; } | wc -l; }
has_at_least() { (($("$1" "$2") >= $3)); }

# Waits until each of the partitions got 20 messages more, and 20 more were consumed.
go_on() {
    local partition
    local -A sent=() consumed=()
    for partition in "$@"; do
        sent[$partition]=$(($(sent "$partition") + 20))
        consumed[$partition]=$(($(consumed "$partition") + 20))
    done
    for partition in "$@"; do
        within 20 "producers go on with $partition" has_at_least sent "$partition" "${sent[$partition]}"
        within 20 "consumers go on with $partition" has_at_least consumed "$partition" "${consumed[$partition]}"
    done
    echo "messages come and go in: $*"
}

b1=(b1-0 b1-1 b1-2)
b2=(b2-0 b2-1)

say "a coordinator, a pool, and two brokers whose partitions are its items"
declare -A port=()
for name in http peer zookeeper b1 b2; do
    free_port
    port[$name]=$free
done
zookeeper=127.0.0.1:${port[zookeeper]}
export ROTA_SERVERS=127.0.0.1:${port[http]}
start coordinator "$rota" coordinator --id 1 --data "$home/coordinator" \
    --http "$ROTA_SERVERS" --peer "127.0.0.1:${port[peer]}" --zookeeper "$zookeeper"
"$rota" pool create orders --kind named --strategy range >/dev/null || fail "the pool was not made"
broker b1
broker b2
register b1 "${b1[@]}"
register b2 "${b2[@]}"
within 20 "the brokers' partitions are items" are_items "${b1[*]} ${b2[*]}"
"$rota" item list orders

say "two producers send, two consumers share the partitions in runs"
producer p1
producer p2
consumer c1
consumer c2
shared b1-0=c1 b1-1=c1 b1-2=c1 b2-0=c2 b2-1=c2
go_on "${b1[@]}" "${b2[@]}"

say "a third consumer"
consumer c3
shared b1-0=c1 b1-1=c1 b1-2=c2 b2-0=c2 b2-1=c3
go_on "${b1[@]}" "${b2[@]}"

say "three more: one has nothing to do, until it is needed"
consumer c4
consumer c5
consumer c6
shared b1-0=c1 b1-1=c2 b1-2=c3 b2-0=c4 b2-1=c5
go_on "${b1[@]}" "${b2[@]}"

say "c1 is killed: when its session is over, its partition passes on"
end KILL c1
shared b1-0=c2 b1-1=c3 b1-2=c4 b2-0=c5 b2-1=c6
go_on "${b1[@]}" "${b2[@]}"

say "the broker b2 is killed: its partitions go, the others go on"
end KILL b2
shared b1-0=c2 b1-1=c3 b1-2=c4
go_on "${b1[@]}"

say "the broker is back: so are its partitions, with all that was in them"
broker b2
shared b1-0=c2 b1-1=c3 b1-2=c4 b2-0=c5 b2-1=c6
go_on "${b1[@]}" "${b2[@]}"

say "who had b1-0, and why"
"$rota" why orders b1-0

say "the producers stop, the consumers finish"
end TERM p1 p2
"$python" "$here/account.py" wait "$home/sent" "$home/consumed" 30 || fail "not all was consumed"
end TERM c2 c3 c4 c5 c6
end TERM b1-items b2-items b1 b2 coordinator
"$python" "$here/account.py" print "$home/sent" "$home/consumed" c1:b1-0
