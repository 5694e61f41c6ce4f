#!/usr/bin/env bash
# The trainer on several machines without a scheduler. On each of them, with the same values and the same shared folder:
#   NODES=2 GPUS=8 FIRST=gpu-1 bash torchrun.sh --config math --config strategy/fsdp2 ...
# FIRST is the machine whose rank 0 saves the run; RUN names the run, and its folder.
set -euo pipefail
: "${NODES:?number of machines}" "${FIRST:?name of the first machine}"
GPUS=${GPUS:-8}
exec torchrun --nnodes "$NODES" --nproc-per-node "$GPUS" \
  --rdzv-backend c10d --rdzv-endpoint "$FIRST:29500" --rdzv-id "${RUN:-run-1}" \
  -m ovd_lightning fit "$@" --trainer.num_nodes "$NODES" --trainer.devices "$GPUS"
