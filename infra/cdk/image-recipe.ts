/** Of package.json; a test holds the two together. */
export const NODE_VERSION = '22.23.3'
/** The line that onnxruntime-node is built against. */
export const CUDA_MAJOR = '13'

const NVIDIA_REPOSITORY =
  'https://developer.download.nvidia.com/compute/cuda/repos/amzn2023/x86_64/cuda-amzn2023.repo'
const APP = '/opt/glyphpress'
const PROVIDER = `${APP}/node_modules/onnxruntime-node/bin/napi-v6/linux/x64/libonnxruntime_providers_cuda.so`

/**
 * What is baked into the machine image, as a component of EC2 Image Builder: whatever is not weights. Nothing is
 * downloaded when an instance starts but those.
 *
 * @param release where the packed repository lies, such as `s3://bucket/releases/glyphpress.tar.gz`
 */
export function imageComponent(release: string): string {
  const build = [
    'set -euo pipefail',
    'dnf install -y --allowerasing jq tar gzip xfsprogs gcc make kernel-devel kernel-modules-extra dnf-plugins-core',
    `dnf config-manager --add-repo ${NVIDIA_REPOSITORY}`,
    'dnf module install -y nvidia-driver:open-dkms',
    `dnf install -y cuda-cudart-${CUDA_MAJOR}-0 libcublas-${CUDA_MAJOR}-0 libcufft-${CUDA_MAJOR}-0 libcudnn9-cuda-${CUDA_MAJOR}`,
    // Before each start of the worker, so that the first session does not wait for it.
    'systemctl enable nvidia-persistenced',
    'useradd --system --home-dir /var/lib/glyphpress --create-home --groups video,render glyphpress || true',
    `mkdir -p ${APP} /etc/glyphpress`,
    `aws s3 cp --only-show-errors ${release} - | tar -xz -C ${APP}`,
    `curl -fsSL https://nodejs.org/dist/v${NODE_VERSION}/node-v${NODE_VERSION}-linux-x64.tar.xz | tar -xJ -C /usr/local --strip-components=1`,
    `cd ${APP} && npm ci --omit=dev --no-fund --no-audit`,
    // The provider for the card, which the package from npm leaves out. Its script knows no other word than cuda12, and
    // fetches what its version was built against.
    `cd ${APP} && node node_modules/onnxruntime-node/script/install.js --onnxruntime-node-install=cuda12`,
    `mkdir -p ${APP}/node_modules/.bin && ln -sf /usr/local/bin/node ${APP}/node_modules/.bin/node`,
    `cp ${APP}/infra/systemd/glyphpress-worker.service /etc/systemd/system/`,
    'npm cache clean --force',
    'dnf clean all',
  ]
  const validate = [
    'set -euo pipefail',
    'nvidia-smi',
    // Every library that the provider wants is found.
    `! ldd ${PROVIDER} | grep 'not found'`,
    `test "$(node --version)" = v${NODE_VERSION}`,
    'systemd-analyze verify /etc/systemd/system/glyphpress-worker.service',
  ]
  const phase = (name: string, commands: string[]) => ({
    name,
    steps: [{ name, action: 'ExecuteBash', inputs: { commands } }],
  })
  // JSON is YAML.
  return JSON.stringify({
    schemaVersion: 1,
    phases: [phase('build', build), phase('test', validate)],
  })
}
