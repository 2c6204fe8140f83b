/** Draws a waveform from the minimum and maximum of each section. */

const drawn = new Map();

document.addEventListener("theme", () => {
  for (const [canvas, pairs] of drawn) if (canvas.isConnected) drawWaveform(canvas, pairs);
});

/** Draw `pairs` ([min, max] in -1 … 1) over the whole `canvas` in its text colour; redrawn when that changes. */
export function drawWaveform(canvas, pairs) {
  for (const before of drawn.keys()) if (!before.isConnected) drawn.delete(before);
  drawn.set(canvas, pairs);
  const ratio = devicePixelRatio || 1;
  const width = Math.max(1, canvas.clientWidth);
  const height = Math.max(1, canvas.clientHeight);
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.fillStyle = getComputedStyle(canvas).color;
  const step = width / pairs.length;
  const bar = Math.max(1, step * 0.7);
  pairs.forEach(([low, high], index) => {
    const top = ((1 - Math.min(1, high)) / 2) * height;
    const bottom = ((1 - Math.max(-1, low)) / 2) * height;
    context.fillRect(index * step, top, bar, Math.max(1, bottom - top));
  });
}

/** The sound at `url` as `parts` pairs. Throws if it cannot be fetched or decoded. */
export async function waveformOf(url, parts, signal) {
  const answer = await fetch(url, { signal });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  const context = new OfflineAudioContext(1, 1, 48_000);
  const sound = await context.decodeAudioData(await answer.arrayBuffer());
  const samples = sound.getChannelData(0);
  return Array.from({ length: parts }, (_, part) => {
    const of = samples.subarray(
      Math.floor((part * samples.length) / parts),
      Math.floor(((part + 1) * samples.length) / parts),
    );
    return of.reduce(([low, high], sample) => [Math.min(low, sample), Math.max(high, sample)], [0, 0]);
  });
}
