#!/bin/bash
# A stage as a Slurm job:  sbatch docker/project/slurm.sh train --preset=demo
# Preempted, at its time limit or with its node lost it goes in line again, and goes on in its run from its last epoch,
# on any node that sees the same store (MLFLOW_TRACKING_URI) and work folder (ADAPTF_WORK, or ./work of where it was submitted).
#SBATCH --job-name=adaptf
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=1-00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120

# `adaptf` and not `mlflow run`, which dies of SIGTERM at once, and Slurm would kill the stage while it ends its runs.
adaptf "$@" &
stage=$!

# Who is preempted is put in line again by Slurm, and who is cancelled shall not be. The time limit is ours to see to.
again=no
trap 'kill -TERM $stage' TERM
trap 'again=yes; kill -TERM $stage' USR1

wait $stage
code=$?
while kill -0 $stage 2>/dev/null; do # a trap ends `wait` before the stage has ended
    wait $stage
    code=$?
done

if [ $again = yes ] && [ $code -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
