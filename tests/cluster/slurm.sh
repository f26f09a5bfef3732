#!/usr/bin/env bash
# A real SLURM on this one machine: `tests/cluster/slurm.sh start|stop DIR`. Two nodes, n1 and n2,
# are two slurmd here. Needs root, and Debian's slurm-wlm and munge, neither of them running.
# DIR holds all state; for SLURM's commands: export SLURM_CONF=DIR/slurm.conf
set -euo pipefail
action=${1:?start or stop} folder=${2:?a folder}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
socket=$folder/munge/munge.socket
export SLURM_CONF=$folder/slurm.conf

configure() {
  local cores
  cores=$(nproc)
  mkdir -p "$folder"/{munge,state,spool.n1,spool.n2}
  chmod 711 "$folder"
  dd if=/dev/urandom of="$folder/munge/key" bs=1024 count=1 status=none
  chmod 600 "$folder/munge/key"
  chown -R munge:munge "$folder/munge"
  chmod 755 "$folder/munge"
  cat >"$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool.%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,bf_interval=2
JobRequeue=1
KillWait=10
ReturnToService=2
NodeName=n1 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=16818 CPUs=$cores RealMemory=1024
NodeName=n2 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=16819 CPUs=$cores RealMemory=1024
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
CONF
}

start() {
  configure
  runuser -u munge -- munged --key-file="$folder/munge/key" --socket="$socket" \
    --pid-file="$folder/munge/pid" --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
  slurmctld
  slurmd -N n1
  slurmd -N n2
  for _ in $(seq 60); do
    [[ $(sinfo --noheader --format %D --states idle 2>/dev/null) == 2 ]] && return
    sleep 0.5
  done
  echo "error: the nodes did not come up; see $folder/*.log" >&2
  return 1
}

stop() { # by the ids that the daemons wrote down
  local file pid
  scancel --user root 2>/dev/null || true
  sleep 1
  for file in "$folder"/slurmd.n[12].pid "$folder"/slurmctld.pid "$folder"/munge/pid; do
    [[ -r $file ]] || continue
    pid=$(<"$file")
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 40); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.25
    done
    kill -KILL "$pid" 2>/dev/null || true
  done
}

"$action"
