/** Seconds that are added before and after the clip. */

import { h, markField, numberField } from "./dom.js";
import { drag } from "./timeline.js";
import { tenths } from "./words.js";

const SIDES = { before: "Seconds added before", after: "Seconds added after" };
const KEYS = { ArrowUp: 0.1, ArrowDown: -0.1, PageUp: 1, PageDown: -1 };
const OUTWARD = { before: "ArrowLeft", after: "ArrowRight" };
const INWARD = { before: "ArrowRight", after: "ArrowLeft" };

/** `most`: seconds that the service adds at most; `onChange()` when they change. The timeline comes with `open`. */
export class Extend {
  #seconds = { before: 0, after: 0 };
  #bars = {};

  constructor(onChange) {
    this.onChange = onChange;
    this.most = 60;
    this.timeline = null;
    this.inputs = {};
    this.errors = {};
    this.element = h(
      "div",
      { class: "edit-part" },
      h("p", { class: "quiet" }, "The clip goes on, picture and sound. Pull the handles at its ends."),
      h(
        "div",
        { class: "fields" },
        Object.keys(SIDES).map((side) => this.#field(side)),
      ),
    );
    this.reset();
  }

  open(timeline) {
    this.timeline = timeline;
    for (const side of Object.keys(SIDES)) {
      this.#bars[side] = this.#bar(side);
      timeline.element.append(this.#bars[side]);
    }
    this.#show();
  }

  detach() {
    for (const bar of Object.values(this.#bars)) bar.remove();
    this.#bars = {};
    this.timeline = null;
  }

  reset() {
    this.fill({ after: 1 });
  }

  set shown(on) {
    this.element.hidden = !on;
    for (const bar of Object.values(this.#bars)) bar.hidden = !on;
    if (on) this.#show();
    else this.timeline?.widen(0);
  }

  fill({ before = 0, after = 0 }) {
    this.#set("before", before);
    this.#set("after", after);
  }

  /** The parameter `extend`. */
  value() {
    return Object.fromEntries(Object.entries(this.#seconds).filter(([, seconds]) => seconds > 0));
  }

  extent() {
    return this.#seconds.before + this.#seconds.after;
  }

  get mixes() {
    return false; // its sound is beside the own one
  }

  made() {
    return this.extent();
  }

  check() {
    const wrong = Object.keys(SIDES).find((side) => this.#problem(side));
    if (!wrong && this.extent() > 0) return null;
    if (!wrong) this.#mark("after", "Add seconds before or after the clip.");
    return this.inputs[wrong ?? "after"];
  }

  fail(field, words) {
    const side = field.split(".")[1] in SIDES ? field.split(".")[1] : "after";
    this.#mark(side, words);
    return this.inputs[side];
  }

  #field(side) {
    const { input, error, element } = numberField(`extend-${side}`, SIDES[side]);
    input.addEventListener("input", () => this.#set(side, Number(input.value), input));
    this.inputs[side] = input;
    this.errors[side] = error;
    return element;
  }

  #bar(side) {
    const handle = h("div", {
      class: `handle handle-${side === "before" ? "start" : "end"}`,
      role: "slider",
      tabindex: "0",
      "aria-label": SIDES[side],
      "aria-valuemin": 0,
    });
    handle.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      handle.focus();
      drag(event, (x) => {
        const at = this.timeline.beyond(x);
        this.#set(side, tenths(Math.min(this.most, side === "before" ? -at : at - this.timeline.duration)));
      });
    });
    handle.addEventListener("keydown", (event) => {
      const by = { ...KEYS, [OUTWARD[side]]: 0.1, [INWARD[side]]: -0.1 }[event.key];
      const to = { Home: 0, End: this.most }[event.key];
      if (by === undefined && to === undefined) return;
      event.preventDefault();
      this.#set(side, Math.min(this.most, to ?? tenths(this.#seconds[side] + by)));
    });
    return h("div", { class: `growth growth-${side}` }, handle);
  }

  #set(side, seconds, except) {
    this.#seconds[side] = Math.max(0, seconds);
    if (this.inputs[side] !== except) this.inputs[side].value = String(this.#seconds[side]);
    for (const each of Object.keys(SIDES)) this.#mark(each, this.#problem(each) ?? "");
    this.#show();
    this.onChange();
  }

  #problem(side) {
    const { before, after } = this.#seconds;
    if (Number(this.inputs[side].value) < 0) return "This takes 0 or more.";
    const most = `This service adds at most ${this.most} s.`;
    if (this.#seconds[side] > this.most) return most;
    return side === "after" && before + after > this.most ? most : null;
  }

  #mark(side, words) {
    markField(this.inputs[side], this.errors[side], words);
  }

  #show() {
    if (!this.timeline || this.element.hidden) return;
    const { before, after } = this.#seconds;
    const { duration } = this.timeline;
    const room = Math.max(2, duration / 3, Math.min(before, this.most), Math.min(after, this.most));
    this.timeline.widen(room);
    for (const [side, seconds] of Object.entries(this.#seconds)) {
      const bar = this.#bars[side];
      const share = (value) => `${(100 * value) / (duration + 2 * room)}%`;
      bar.style.inlineSize = share(Math.min(seconds, room));
      bar.style[side === "before" ? "insetInlineEnd" : "insetInlineStart"] = share(room + duration);
      const handle = bar.firstChild;
      handle.setAttribute("aria-valuemax", String(this.most));
      handle.setAttribute("aria-valuenow", String(seconds));
      handle.setAttribute("aria-valuetext", `${seconds.toFixed(1)} seconds`);
    }
  }
}
