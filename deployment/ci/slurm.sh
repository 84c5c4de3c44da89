#!/usr/bin/env bash
# A Slurm of one node on this machine, for tests: deployment/ci/slurm.sh start|stop [FOLDER]   (as root)
# Needs Debian's slurmctld, slurmd, slurm-client and munge, and installs nothing. Everything it makes is in FOLDER:
# configuration, key, sockets, logs. "start" prints the line that makes sbatch and its like find this Slurm.
set -euo pipefail
command=${1:-} folder=${2:-/tmp/dpm-slurm}

start() {
    [ "$(id -u)" = 0 ] || { echo "slurm.sh: has to run as root" >&2; exit 1; }
    for program in munged slurmctld slurmd sbatch; do
        command -v "$program" >/dev/null || { echo "slurm.sh: no $program here" >&2; exit 1; }
    done
    stop
    mkdir -p "$folder"/{state,spool,log,munge}
    chmod 755 "$folder" "$folder"/munge
    node=$(hostname -s)
    cat > "$folder/slurm.conf" <<CONFIG
ClusterName=dpm
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_min_interval=100000,batch_sched_delay=0
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(getconf _NPROCESSORS_ONLN) RealMemory=$(($(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1100)) State=UNKNOWN
PartitionName=all Nodes=$node Default=YES MaxTime=INFINITE State=UP
CONFIG
    export SLURM_CONF=$folder/slurm.conf
    head -c 128 /dev/urandom > "$folder/munge/key"
    chmod 600 "$folder/munge/key"
    chown -R munge:munge "$folder/munge"
    setpriv --reuid munge --regid munge --clear-groups munged --socket="$folder/munge/socket" --key-file="$folder/munge/key" \
        --pid-file="$folder/munge/munged.pid" --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
    slurmctld -c
    slurmd
    for _ in $(seq 100); do
        if sinfo --noheader --format=%t 2>/dev/null | grep -qx idle; then
            echo "export SLURM_CONF=$folder/slurm.conf"
            return
        fi
        sleep 0.2
    done
    echo "slurm.sh: the node is not idle after 20 s; see $folder/log" >&2
    exit 1
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

stop() {
    # What this script started, by the process numbers that it kept; jobs first, since nobody else would end them.
    if [ -f "$folder/slurmctld.pid" ] && kill -0 "$(cat "$folder/slurmctld.pid")" 2>/dev/null; then
        export SLURM_CONF=$folder/slurm.conf
        timeout 10 scancel --full --user=root 2>/dev/null || true
        for _ in $(seq 50); do
            [ -n "$(timeout 10 squeue --noheader 2>/dev/null)" ] || break
            sleep 0.2
        done
    fi
    for file in "$folder"/slurmd.pid "$folder"/slurmctld.pid "$folder"/munge/munged.pid; do
        [ -f "$file" ] || continue
        process=$(cat "$file")
        kill "$process" 2>/dev/null || continue
        for _ in $(seq 50); do
            kill -0 "$process" 2>/dev/null || break
            sleep 0.1
        done
    done
    rm -rf "$folder"/{state,spool,munge}
}

case $command in
    start) start ;;
    stop) stop ;;
    *) echo "usage: slurm.sh start|stop [FOLDER]" >&2; exit 2 ;;
esac
