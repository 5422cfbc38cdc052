import { BEAT_SECONDS } from '../../gpu-worker/settings.ts'

/** Folder on the instance's own NVMe; empty after every stop, hence filled at every start. */
export const MODEL_DIR = '/mnt/model'
/** Ranged reads at once. 36 GB come at some 10 Gbit/s and more by them, and at 1 by one after the other. */
const PARALLEL_READS = 64

export interface WorkerStart {
  readonly region: string
  readonly modelBucket: string
  /** Folder of the checkpoint within the bucket. */
  readonly modelPrefix: string
  readonly secretArn: string
  /** Lines of the worker's environment that are no secret. */
  readonly env: Readonly<Record<string, string>>
}

/**
 * What an instance does at its start, as root; driver, CUDA, Node and the worker are in its image. The weights stay in
 * the page cache after the copy, so that the sessions find them in memory. A start that fails leaves the lifecycle hook
 * without its answer, and the group takes another instance.
 */
export function workerUserData(start: WorkerStart): string {
  const env = Object.entries({ ...start.env, MODEL_DIR, PROVIDER: 'cuda', IMDS: '1' })
  return [
    '#!/bin/bash',
    'set -euo pipefail',
    // A card that the driver does not see would make a worker that draws nothing.
    'nvidia-smi --query-gpu=name,memory.total --format=csv,noheader',
    "device=$(lsblk -dpno NAME,MODEL | awk '/Instance Storage/ { print $1; exit }')",
    'test -b "$device"',
    'mkfs.xfs -f -K "$device"',
    `mkdir -p ${MODEL_DIR} && mount -o noatime "$device" ${MODEL_DIR}`,
    'aws configure set default.s3.preferred_transfer_client crt',
    `aws configure set default.s3.max_concurrent_requests ${PARALLEL_READS}`,
    'aws configure set default.s3.multipart_chunksize 16MB',
    `aws s3 sync --only-show-errors s3://${start.modelBucket}/${start.modelPrefix} ${MODEL_DIR}`,
    'umask 077',
    'cat > /etc/glyphpress/worker.env <<"END"',
    ...env.map(([name, value]) => `${name}=${value}`),
    'END',
    // DATABASE_URL, GATEWAY_URL and POKE_SECRET; read at the start and never part of this text.
    `aws secretsmanager get-secret-value --region ${start.region} --secret-id ${start.secretArn}` +
      ` --query SecretString --output text | jq -r 'to_entries[] | "\\(.key)=\\(.value)"' >> /etc/glyphpress/worker.env`,
    'systemctl enable --now glyphpress-worker',
    '',
  ].join('\n')
}

/** The group waits so long for a worker that has drawn its first picture. Five times the planned cold start. */
export const LAUNCH_TIMEOUT_SECONDS = 900
/** And so long for one that leaves: a job at most, by the slowest size, and a beat. */
export const LEAVE_TIMEOUT_SECONDS = 300 + BEAT_SECONDS
