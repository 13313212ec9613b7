/** In bytes. Only after garbage was collected (`collector` of src/memory.ts) is it what is held. */
export function memoryInUse(): number {
  const { arrayBuffers, heapUsed } = process.memoryUsage();
  return arrayBuffers + heapUsed;
}
