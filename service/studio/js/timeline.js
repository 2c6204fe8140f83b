/** A time axis with the frames and the sound of a file, on which parts are chosen. */

import { drawFilmstrip } from "./filmstrip.js";
import { h } from "./dom.js";
import { drawWaveform, waveformOfFile } from "./waveform.js";

const PAIRS = 300;
const DRAWN = 5; // pixels that a pointer moves before it draws rather than clicks

/**
 * Tracks one above the other. `on.seek(seconds)` for a click on a track, and `on.draw(track, from, to)` while the
 * pointer draws a part on the track of this name ("picture" or "sound"), with `on.drawn(track)` at its end.
 */
export class Timeline {
  #stop = new AbortController();

  constructor(label, on) {
    this.on = on;
    this.duration = 0;
    this.now = h("div", { class: "timeline-now", hidden: true });
    this.tracks = new Map();
    /** The file itself, to which parts of all tracks are added. */
    this.axis = h("div", { class: "axis" }, this.now);
    this.element = h("div", { class: "timeline", role: "group", "aria-label": label }, this.axis);
  }

  /** Show `file`, which the browser plays from `url` and which lasts `duration` seconds. `picture`: it is a video. */
  load(file, url, duration, picture) {
    this.duration = duration;
    if (picture) this.#drawPicture(this.#track("picture"), url);
    this.#drawSound(this.#track("sound"), file);
  }

  /** The element of a track, to which parts are added; undefined where the file has none. */
  track(name) {
    return this.tracks.get(name);
  }

  /** Mark the position of the player. */
  at(seconds) {
    this.now.hidden = !this.duration;
    this.now.style.insetInlineStart = this.percent(seconds);
  }

  percent(seconds) {
    return `${(100 * Math.min(Math.max(seconds, 0), this.duration)) / this.duration}%`;
  }

  /** The time below a position of the pointer, within the file. */
  seconds(clientX) {
    return Math.min(this.duration, Math.max(0, this.beyond(clientX)));
  }

  /** The time below a position of the pointer, which may be before or after the file. */
  beyond(clientX) {
    const { left, width } = this.axis.getBoundingClientRect();
    return ((clientX - left) / width) * this.duration;
  }

  /** Leave so many seconds free on both sides of the file. */
  widen(room) {
    this.axis.style.marginInline = `${(100 * room) / (this.duration + 2 * room)}%`;
  }

  /** Stop drawing. */
  close() {
    this.#stop.abort();
  }

  #track(name) {
    const canvas = h("canvas", { class: `strip strip-${name}`, "aria-hidden": "true" });
    const track = h("div", { class: `track track-${name}` }, canvas);
    track.addEventListener("pointerdown", (event) => this.#press(event, name));
    this.tracks.set(name, track);
    this.axis.insertBefore(track, this.now);
    return track;
  }

  #press(event, name) {
    if (event.button !== 0 || event.target.closest("[data-part]")) return;
    const began = event.clientX;
    let drawing = false;
    drag(
      event,
      (x) => {
        drawing ||= isDragged(began, x);
        const ends = [this.seconds(began), this.seconds(x)].sort((one, other) => one - other);
        if (drawing) this.on.draw(name, ...ends);
      },
      () => (drawing ? this.on.drawn?.(name) : this.on.seek(this.seconds(began))),
    );
  }

  async #drawPicture(track, url) {
    try {
      await drawFilmstrip(track.firstChild, url, this.duration, this.#stop.signal);
    } catch (error) {
      if (error instanceof Error && !(error instanceof DOMException)) throw error;
      // The frames cannot be read here: the axis stays empty.
    }
  }

  async #drawSound(track, file) {
    const pairs = await waveformOfFile(file, PAIRS);
    if (this.#stop.signal.aborted) return;
    if (!pairs) {
      track.firstChild.replaceWith(h("p", { class: "strip strip-sound quiet" }, "No waveform"));
      return;
    }
    const observer = new ResizeObserver(() => track.isConnected && drawWaveform(track.firstChild, pairs));
    observer.observe(track.firstChild);
    this.#stop.signal.addEventListener("abort", () => observer.disconnect());
  }
}

/** Whether the pointer has moved so far that this is no click. */
export function isDragged(began, x) {
  return Math.abs(x - began) > DRAWN;
}

/** Follow the pointer that was pressed in `event`: `onMove(clientX, clientY)`, and `onEnd()` when it is released. */
export function drag(event, onMove, onEnd = () => {}) {
  event.preventDefault(); // selects no text
  const place = event.currentTarget;
  const stop = new AbortController();
  place.setPointerCapture(event.pointerId);
  const end = () => {
    stop.abort();
    onEnd();
  };
  const options = { signal: stop.signal };
  place.addEventListener("pointermove", ({ clientX, clientY }) => onMove(clientX, clientY), options);
  place.addEventListener("pointerup", end, options);
  place.addEventListener("pointercancel", end, options);
}
