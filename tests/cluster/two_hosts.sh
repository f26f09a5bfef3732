#!/usr/bin/env bash
# Two hosts on this machine: two network namespaces joined by a link. Needs root and iproute2.
#
#   tests/cluster/two_hosts.sh start|stop NAME        make them, or remove them with all inside
#   tests/cluster/two_hosts.sh cut|join NAME          take the link down, or up again
#   tests/cluster/two_hosts.sh train NAME A|B ARGS…   torchrun with ARGS in one of them, to its end
#
# By hand, from the repository's root, in two terminals:
#   tests/cluster/two_hosts.sh start demo
#   tests/cluster/two_hosts.sh train demo A src/train.py model=demo_feature_cleaner …
#   tests/cluster/two_hosts.sh train demo B src/train.py model=demo_feature_cleaner …
#   tests/cluster/two_hosts.sh cut demo
set -euo pipefail
action=${1:?start, stop, cut, join or train} name=${2:?a name}
host_a=$name-a host_b=$name-b
address_a=10.77.0.1 address_b=10.77.0.2

start() {
  ip netns add "$host_a"
  ip netns add "$host_b"
  ip link add link0 netns "$host_a" type veth peer name link0 netns "$host_b"
  ip -n "$host_a" address add "$address_a/24" dev link0
  ip -n "$host_b" address add "$address_b/24" dev link0
  for host in "$host_a" "$host_b"; do
    ip -n "$host" link set lo up
    ip -n "$host" link set link0 up
    # How often TCP tries to reach a silent host, here for 13 s. With the usual 15 times a torchrun
    # that was cut off (not its workers, which end at their timeout) stays for a quarter of an hour.
    ip netns exec "$host" bash -c 'echo 5 >/proc/sys/net/ipv4/tcp_retries2'
  done
}

stop() {
  local host pid
  for host in "$host_a" "$host_b"; do
    for pid in $(ip netns pids "$host" 2>/dev/null); do
      kill -KILL "$pid" 2>/dev/null || true
    done
    ip netns delete "$host" 2>/dev/null || true
  done
}

cut() {
  ip -n "$host_b" link set link0 down
}

join() {
  ip -n "$host_b" link set link0 up
}

train() { # host names do not resolve here, so each side is told its address and who is host
  local host=$host_b address=$address_b is_host=0
  if [[ $1 == A ]]; then
    host=$host_a address=$address_a is_host=1
  fi
  shift
  export GLOO_SOCKET_IFNAME=link0 TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 # as jobs/common.sh
  exec ip netns exec "$host" torchrun --nnodes 2 --nproc_per_node "${NPROC:-1}" \
    --max-restarts "${MAX_RESTARTS:-0}" --rdzv_id "$name" --rdzv_backend c10d \
    --rdzv_endpoint "$address_a:29400" --local-addr "$address" \
    --rdzv-conf "is_host=$is_host,join_timeout=${JOIN_TIMEOUT:-120},read_timeout=15" "$@"
}

"$action" "${@:3}"
