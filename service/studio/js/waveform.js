/** Draws a waveform from the minimum and maximum of each section. */

const LARGEST_FILE = 128e6; // bytes
const QUIETEST = 0.01; // peak of a sound that is enlarged to full height
const COARSE = 8000; // samples per second: decoded minutes need memory
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
  return pairsOf(await answer.arrayBuffer(), parts, 48_000);
}

/** The sound of a file as `parts` pairs, its loudest sample at full height; null if it is too large to be decoded here, or has no sound. */
export async function waveformOfFile(file, parts) {
  if (file.size > LARGEST_FILE) return null;
  try {
    const pairs = await pairsOf(await file.arrayBuffer(), parts, COARSE);
    const peak = Math.max(QUIETEST, ...pairs.map(([low, high]) => Math.max(-low, high)));
    return pairs.map((pair) => pair.map((sample) => sample / peak));
  } catch (error) {
    if (error instanceof DOMException) return null; // no sound, or none that this browser can decode
    throw error;
  }
}

async function pairsOf(bytes, parts, rate) {
  const sound = await new OfflineAudioContext(1, 1, rate).decodeAudioData(bytes);
  const channels = Array.from({ length: sound.numberOfChannels }, (_, index) => sound.getChannelData(index));
  return Array.from({ length: parts }, (_, part) => {
    const [from, to] = [part, part + 1].map((border) => Math.floor((border * sound.length) / parts));
    let [low, high] = [0, 0];
    for (const samples of channels)
      for (let index = from; index < to; index++) {
        low = Math.min(low, samples[index]);
        high = Math.max(high, samples[index]);
      }
    return [low, high];
  });
}
