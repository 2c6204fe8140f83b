/** The region of the picture that is made again: a rectangle or a mask picture, over a span of the clip. */

import { button, h, markField, numberField } from "./dom.js";
import { Part } from "./part.js";
import { Rectangle } from "./rectangle.js";
import { picker } from "./source.js";
import { clock, tenths } from "./words.js";

const SIDES = { x: "Left", y: "Top", width: "Width", height: "Height" };
const MIDDLE = { x: 0.35, y: 0.35, width: 0.3, height: 0.3 };
const SPAN = { start: "From second", end: "To second" };

/** `onChange()` when something has changed. The timeline and the picture come with `open`. */
export class Region {
  #box = MIDDLE;
  #span = { start: undefined, end: undefined };
  #rectangle = null;
  #part = null;
  #cover = null;
  #timeline = null;

  constructor(onChange) {
    this.onChange = onChange;
    /** The mask picture, or null. */
    this.mask = null;
    this.inputs = {};
    this.errors = {};
    this.sides = h(
      "div",
      { class: "fields sides" },
      Object.entries(SIDES).map(([name, words]) => this.#field(name, `${words} %`)),
    );
    this.maskPlace = h("div", { class: "row" });
    this.sound = h(
      "select",
      { id: "region-audio" },
      h("option", { value: "keep" }, "stays"),
      h("option", { value: "new" }, "is made with it"),
    );
    this.sound.addEventListener("change", () => this.onChange());
    this.error = h("p", { class: "error", role: "status" });
    this.element = h(
      "div",
      { class: "edit-part" },
      h("p", { class: "quiet" }, "Draw a rectangle on the picture, or use a mask picture: white is made again."),
      this.sides,
      this.maskPlace,
      h(
        "div",
        { class: "fields" },
        Object.entries(SPAN).map(([name, words]) => this.#field(name, words)),
      ),
      h("div", { class: "field" }, h("label", { for: "region-audio" }, "The sound"), this.sound),
      this.error,
    );
    this.inputs.start.placeholder = "the begin";
    this.inputs.end.placeholder = "the end";
    this.#showBox();
    this.setMask(null);
  }

  /** Work on the picture of `media` inside `screen`, and on this timeline. */
  open(timeline, media, screen) {
    this.#timeline = timeline;
    this.#part = new Part(timeline, "Span of the region", (start, end) => this.#setSpan(start, end));
    timeline.axis.append(this.#part.element);
    if (media.videoWidth) {
      this.#rectangle = new Rectangle(media, (box) => this.#setBox(box));
      this.#cover = h("img", { class: "mask-cover", alt: "" });
      this.#rectangle.element.append(this.#cover);
      screen.append(this.#rectangle.element);
    }
    this.setMask(this.mask);
    this.#showBox();
    this.#showSpan();
  }

  detach() {
    this.#rectangle?.close();
    this.#part?.element.remove();
    this.#rectangle = this.#part = this.#timeline = this.#cover = null;
  }

  reset() {
    this.fill(MIDDLE, null);
  }

  set shown(on) {
    this.element.hidden = !on;
    if (this.#part) this.#part.element.hidden = !on;
    if (this.#rectangle) this.#rectangle.element.hidden = !on;
  }

  /** The pointer draws on the timeline. */
  draw(_, from, to) {
    this.#setSpan(tenths(from), tenths(to));
  }

  drawn() {}

  fill({ audio = "keep", start, end, ...box }, mask) {
    this.sound.value = audio;
    if (box.width !== undefined) this.#setBox(box);
    this.#span = { start: start ?? undefined, end: end ?? undefined };
    this.setMask(mask);
    this.#showSpan();
  }

  /** The parameter `region`; the mask is sent beside it. */
  value() {
    const span = Object.fromEntries(Object.entries(this.#span).filter(([, seconds]) => seconds !== undefined));
    return { ...(this.mask ? {} : this.#box), ...span, audio: this.sound.value };
  }

  extent() {
    const { start = 0, end = this.#timeline?.duration ?? 0 } = this.#span;
    return Math.max(0, end - start);
  }

  get mixes() {
    return this.sound.value === "new";
  }

  made() {
    return this.extent();
  }

  check() {
    const wrong = [...Object.keys(SIDES), ...Object.keys(SPAN)].find((name) => this.#problem(name));
    this.#markAll();
    return wrong ? this.inputs[wrong] : null;
  }

  fail(field, words) {
    const name = field.split(".")[1];
    if (this.errors[name]) this.#mark(name, words);
    else this.error.textContent = words;
    return this.inputs[name] ?? this.maskPlace.querySelector("button");
  }

  /** Use a mask picture instead of the rectangle; null: the rectangle. */
  setMask(file) {
    if (this.#cover?.src) URL.revokeObjectURL(this.#cover.src);
    this.mask = file;
    this.sides.hidden = Boolean(file);
    if (this.#rectangle) {
      this.#rectangle.frame.hidden = Boolean(file);
      this.#cover.hidden = !file;
      if (file) this.#cover.src = URL.createObjectURL(file);
      else this.#cover.removeAttribute("src");
    }
    this.maskPlace.replaceChildren(
      file
        ? h("p", { class: "quiet mask-name" }, `Mask: ${file.name}`)
        : picker("Use a mask picture", "film", "image/png", (chosen) => this.#chooseMask(chosen)),
    );
    if (file) this.maskPlace.append(button("Use a rectangle", "close", () => this.#chooseMask(null)));
  }

  #chooseMask(file) {
    this.setMask(file);
    this.maskPlace.querySelector("button").focus();
    this.onChange();
  }

  #field(name, words) {
    const { input, error, element } = numberField(`region-${name}`, words);
    input.addEventListener("input", () => {
      const value = input.value === "" ? undefined : Number(input.value);
      if (name in SPAN) this.#span[name] = value;
      else this.#box[name] = (value ?? 0) / 100;
      if (name in SPAN) this.#showSpan(input);
      else this.#showBox(input);
      this.#markAll();
      this.onChange();
    });
    this.inputs[name] = input;
    this.errors[name] = error;
    return element;
  }

  #setBox(box) {
    this.#box = { ...box };
    this.#showBox();
    this.#markAll();
    this.onChange();
  }

  #showBox(except) {
    for (const name of Object.keys(SIDES)) {
      const input = this.inputs[name];
      if (input !== except) input.value = String(Math.round(this.#box[name] * 1e4) / 100);
    }
    this.#rectangle?.show(this.#box);
  }

  /** A span of the whole clip needs no numbers. */
  #setSpan(start, end) {
    const { duration } = this.#timeline;
    this.#span = { start: start <= 0 ? undefined : start, end: end >= duration ? undefined : end };
    this.#showSpan();
    this.#markAll();
    this.onChange();
  }

  #showSpan(except) {
    for (const name of Object.keys(SPAN))
      if (this.inputs[name] !== except) this.inputs[name].value = String(this.#span[name] ?? "");
    const { start = 0, end = this.#timeline?.duration ?? 0 } = this.#span;
    this.#part?.show(start, Math.max(start, end));
  }

  #problem(name) {
    const { x, y, width, height } = this.#box;
    if (!this.mask && name in SIDES) {
      if (name === "width" || name === "height") {
        const [from, size] = name === "width" ? [x, width] : [y, height];
        if (!(size > 0)) return "This takes more than 0.";
        return from + size > 1.0001 ? `Beyond the picture: at most ${Math.round((1 - from) * 1e4) / 100}.` : null;
      }
      return this.#box[name] >= 0 && this.#box[name] < 1 ? null : "This takes a number from 0 to 99.";
    }
    if (name in SIDES) return null;
    const { duration } = this.#timeline ?? {};
    const { start = 0, end } = this.#span;
    if (name === "start" && duration && start >= duration) return `The file ends at ${clock(duration)}.`;
    if (name === "end" && end !== undefined && end <= start) return "It must end after it begins.";
    return name === "end" && duration && end > duration + 0.005 ? `The file ends at ${clock(duration)}.` : null;
  }

  #markAll() {
    for (const name of Object.keys(this.inputs)) this.#mark(name, this.#problem(name) ?? "");
    this.error.textContent = "";
  }

  #mark(name, words) {
    markField(this.inputs[name], this.errors[name], words);
  }
}
