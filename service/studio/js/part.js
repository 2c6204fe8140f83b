/** A part of a timeline: it is moved by the pointer, and its ends by the pointer or the arrow keys. */

import { h } from "./dom.js";
import { drag, isDragged } from "./timeline.js";

const [BY_POINTER, BY_KEYS] = [10, 100]; // steps of a second
const LEAST = 0.1; // seconds
const KEYS = { ArrowLeft: -0.1, ArrowDown: -0.1, ArrowRight: 0.1, ArrowUp: 0.1, PageDown: -1, PageUp: 1 };

/** `name`: what the part is, for screen readers; `onChange(start, end)` in seconds when the user changes it. */
export class Part {
  constructor(timeline, name, onChange) {
    this.timeline = timeline;
    this.onChange = onChange;
    this.start = 0;
    this.end = 0;
    this.handles = ["start", "end"].map((edge) => this.#handle(edge, `${name}: ${edge === "start" ? "begin" : "end"}`));
    this.element = h("div", { class: "part", "data-part": true }, this.handles);
    this.element.addEventListener("pointerdown", (event) => this.#press(event));
  }

  /** Show the part from `start` to `end`. */
  show(start, end) {
    this.start = start;
    this.end = end;
    const { duration } = this.timeline;
    const left = Math.min(start, duration);
    this.element.classList.toggle("whole", start <= 0 && end >= duration);
    this.element.style.insetInlineStart = this.timeline.percent(left);
    this.element.style.inlineSize = this.timeline.percent(Math.min(end, duration) - left);
    for (const [handle, value, least, most] of [
      [this.handles[0], start, 0, end],
      [this.handles[1], end, start, duration],
    ]) {
      handle.setAttribute("aria-valuemin", least.toFixed(2));
      handle.setAttribute("aria-valuemax", most.toFixed(2));
      handle.setAttribute("aria-valuenow", value.toFixed(2));
      handle.setAttribute("aria-valuetext", `${value.toFixed(1)} seconds`);
    }
  }

  #handle(edge, label) {
    const handle = h("div", { class: `handle handle-${edge}`, role: "slider", tabindex: "0", "aria-label": label });
    handle.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      event.stopPropagation();
      handle.focus();
      drag(event, (x) => this.#moveTo(edge, this.timeline.seconds(x), BY_POINTER));
    });
    handle.addEventListener("keydown", (event) => this.#key(event, edge));
    return handle;
  }

  #press(event) {
    if (event.button !== 0) return;
    event.stopPropagation();
    const began = event.clientX;
    const grip = this.timeline.seconds(began) - this.start;
    let moved = false;
    drag(
      event,
      (x) => {
        moved ||= isDragged(began, x);
        if (moved) this.#shift(this.timeline.seconds(x) - grip - this.start, BY_POINTER);
      },
      () => moved || this.timeline.on.seek(this.timeline.seconds(began)),
    );
  }

  #key(event, edge) {
    const by = KEYS[event.key];
    const to = { Home: 0, End: this.timeline.duration }[event.key];
    if (by === undefined && to === undefined) return;
    event.preventDefault();
    if (event.shiftKey && by !== undefined) this.#shift(by, BY_KEYS);
    else this.#moveTo(edge, to ?? this[edge] + by, BY_KEYS);
  }

  #moveTo(edge, seconds, steps) {
    const { duration } = this.timeline;
    if (edge === "start") this.onChange(rounded(clamp(seconds, 0, this.end - LEAST), duration, steps), this.end);
    else this.onChange(this.start, rounded(clamp(seconds, this.start + LEAST, duration), duration, steps));
  }

  #shift(by, steps) {
    const { duration } = this.timeline;
    const length = this.end - this.start;
    const start = rounded(clamp(this.start + by, 0, duration - length), duration, steps);
    this.onChange(start, rounded(start + length, duration, 1000));
  }
}

/** Whole steps, except for the end of the file. */
function rounded(seconds, duration, steps) {
  return seconds >= duration ? duration : Math.round(seconds * steps) / steps;
}

function clamp(value, least, most) {
  return Math.min(Math.max(value, least), Math.max(least, most));
}
