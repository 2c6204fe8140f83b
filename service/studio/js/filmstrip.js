/** Draws frames of a video side by side. */

const HEIGHT = 48; // pixels of the page
const MOST = 24; // frames

/** Fill `canvas` with frames of the video at `url`, evenly over `duration` seconds. Stops early by `signal`. */
export async function drawFilmstrip(canvas, url, duration, signal) {
  const video = document.createElement("video");
  Object.assign(video, { muted: true, preload: "auto", playsInline: true, src: url });
  try {
    await arrival(video, "loadeddata", signal);
    const ratio = devicePixelRatio || 1;
    const width = canvas.clientWidth || 300;
    const count = Math.min(MOST, Math.max(1, Math.round(width / ((HEIGHT * video.videoWidth) / video.videoHeight))));
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(HEIGHT * ratio);
    const context = canvas.getContext("2d");
    for (let index = 0; index < count; index++) {
      const seeked = arrival(video, "seeked", signal);
      video.currentTime = ((index + 0.5) / count) * duration;
      await seeked;
      drawCover(context, video, (index * canvas.width) / count, canvas.width / count, canvas.height);
    }
  } finally {
    video.removeAttribute("src");
    video.load(); // releases the decoder
  }
}

/** Draw the middle of `video` so that it fills the box at `left`. */
function drawCover(context, video, left, width, height) {
  const scale = Math.max(width / video.videoWidth, height / video.videoHeight);
  const [w, h] = [width / scale, height / scale];
  context.drawImage(video, (video.videoWidth - w) / 2, (video.videoHeight - h) / 2, w, h, left, 0, width, height);
}

/** Resolves at the next `event` of `media`; rejects if the media cannot be read, or `signal` aborts. */
function arrival(media, event, signal) {
  return new Promise((resolve, reject) => {
    const stop = new AbortController();
    const end = (then) => (reason) => {
      stop.abort();
      then(reason);
    };
    const options = { signal: stop.signal };
    media.addEventListener(event, end(resolve), options);
    media.addEventListener("error", end(() => reject(media.error)), options);
    signal.addEventListener("abort", end(() => reject(new DOMException("Not drawn.", "AbortError"))), options);
    if (signal.aborted) end(() => reject(new DOMException("Not drawn.", "AbortError")))();
  });
}
