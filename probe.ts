import { createGraph } from './gpu-worker/onnx/graph.ts'
import { openSession } from './gpu-worker/pipeline/session.ts'
import { countLiveHandles } from './gpu-worker/onnxruntime/c-handles.ts'
for (let i=0;i<3;i++){
  const g = createGraph({ name: 'probe', compute: 'float32' })
  const x = g.input('x', 'float32', ['n'])
  g.output(g.op('Add', [x, x]), 'y', 'float32', ['n'])
  g.output(g.op('Shape', [x]), 's', 'int64', [1])
  const s = await openSession(g.toBytes(), { backend: 'capi', threads: 2 })
  console.log(await s.run({ x: { data: new Float32Array([1,2]), shape: [2] } }))
  console.log(await s.run({ x: { data: new Float32Array(0), shape: [0] } }, ['y']))
  await s.run({ z: { data: new Float32Array(0), shape: [0] } }, ['y']).catch(e=>console.log(e.message))
  await s.run({ x: { data: new Float32Array(0), shape: [0] } }, ['q']).catch(e=>console.log(e.message))
  console.log(countLiveHandles())
  await s.close()
  console.log(countLiveHandles())
}
await openSession(new Uint8Array(10), { backend: 'capi', threads: 2 }).catch(e=>console.log(e.message))
await openSession(new Uint8Array(10), { backend: 'capi', provider:'cuda' }).catch(e=>console.log(e.message))
console.log(countLiveHandles())
