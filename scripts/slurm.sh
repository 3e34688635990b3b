#!/usr/bin/env bash
# A sweep on every node of a Slurm job, which queues itself again until all is trained. The options are those of `run`:
#   sbatch --nodes=4 --gpus-per-node=8 --time=12:00:00 scripts/slurm.sh --profile paper --device cuda --gpu-share 0.5
#SBATCH --job-name=sdd
#SBATCH --exclusive
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
PYTHON=${PYTHON:-.venv/bin/python}
MARGIN=${MARGIN:-300} # seconds that the last epochs have to end and to be saved, before the job's time is up

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
address=${nodes[0]}:$((20000 + SLURM_JOB_ID % 20000)) # a port of its own, should two jobs share a node
others=$((${#nodes[@]} - 1))
# Whoever reaches Ray's ports and has this can run anything as you. It is no option, since those show in `ps`.
RAY_AUTH_TOKEN=$("$PYTHON" -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token

ray=("$PYTHON" -m ray.scripts.scripts)
on() { # on which nodes, and what `ray start` is told there; Ray opens its folder to all, so it lies in one of ours
    srun --overlap --cpus-per-task="$SLURM_CPUS_ON_NODE" "${@:1:3}" \
        bash -c 'exec "$@" --temp-dir="$(mktemp -d /tmp/sdd-XXXXXX)/ray"' - "${ray[@]}" start "${@:4}" \
        --num-cpus="$SLURM_CPUS_ON_NODE" --include-log-monitor=false --disable-usage-stats --block &
}
trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT
on --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" --head --port="${address#*:}" --include-dashboard=false
# Until it listens, or has ended. (Ray's own check takes the seconds that a start has from a machine that is busy.)
while kill -0 $! 2>/dev/null && ! (: <"/dev/tcp/${address/://}") 2>/dev/null; do sleep 1; done
if ((others)); then on --nodes=$others --ntasks=$others --exclude="${nodes[0]}" --address="$address"; fi

budget=$((SLURM_JOB_END_TIME - $(date +%s) - MARGIN))
((budget > 0)) || budget=1
status=0
"$PYTHON" -m sdd_utils run "$@" --cluster "$address" --time-budget "${budget}s" || status=$?
if ((status == 75)); then scontrol requeue "$SLURM_JOB_ID"; fi # 75: stopped by the budget, and there is more to do
exit $status
