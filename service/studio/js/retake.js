/** The spans of sound and picture that a retake makes again. */

import { button, h, icon } from "./dom.js";
import { Part } from "./part.js";
import { clock, tenths } from "./words.js";

const NEW_SPAN = 0.5; // seconds
const OF = { sound: ["sound"], picture: ["picture"], both: ["picture", "sound"] };
const WORDS = { sound: "Sound", picture: "Picture", both: "Both" };
const FIELDS = { sound: "audio", picture: "video" };

/** `onChange()` when the spans have changed. The timeline comes with `open`. */
export class Retake {
  #spans = [];
  #drawing = null;
  #made = 0;

  constructor(onChange) {
    this.onChange = onChange;
    this.timeline = null;
    this.list = h("ul", { class: "spans", "aria-label": "Spans to make again" });
    this.error = h("p", { class: "error", role: "status" });
    this.element = h(
      "div",
      { class: "edit-part" },
      h("p", { class: "quiet" }, "Draw spans on the waveform or the frames. Everything else stays as it is."),
      this.list,
      button("Add a span", "plus", () => this.#addHere()),
      this.error,
    );
  }

  /** Work on this timeline; `now()` is the player's position. */
  open(timeline, now) {
    this.timeline = timeline;
    this.now = now;
    for (const span of this.#spans) this.#place(span);
    this.#follow();
  }

  /** Leave the timeline; the spans stay. */
  detach() {
    this.timeline = null;
    for (const span of this.#spans) this.#place(span);
  }

  /** Remove all spans. */
  reset() {
    for (const span of [...this.#spans]) this.#remove(span);
  }

  set shown(on) {
    this.element.hidden = !on;
    for (const { parts } of this.#spans) for (const part of parts) part.element.hidden = !on;
  }

  /** The pointer draws on a track of the timeline. */
  draw(track, from, to) {
    this.#drawing ??= this.#add(track, from, to);
    this.#change(this.#drawing, tenths(from), Math.max(tenths(from) + 0.1, tenths(to)));
  }

  drawn() {
    this.#drawing = null;
  }

  /** Take the spans of a job. */
  fill({ audio = [], video = [] }) {
    this.reset();
    const same = (one, other) => one[0] === other[0] && one[1] === other[1];
    for (const span of audio) this.#add(video.some((each) => same(each, span)) ? "both" : "sound", ...span);
    for (const span of video) if (!audio.some((each) => same(each, span))) this.#add("picture", ...span);
  }

  /** The parameter `retake`. */
  value() {
    const lists = Object.entries(FIELDS).map(([track, name]) => [name, this.#of(track).map(ends)]);
    return Object.fromEntries(lists.filter(([, spans]) => spans.length));
  }

  /** The length of the shortest part of the clip that has all spans, in seconds; 0 without spans. */
  extent() {
    if (!this.#spans.length) return 0;
    return Math.max(...this.#spans.map(({ end }) => end)) - Math.min(...this.#spans.map(({ start }) => start));
  }

  get mixes() {
    return this.#of("sound").length > 0;
  }

  get draws() {
    return this.#of("picture").length > 0;
  }

  /** Seconds that are made again. */
  made() {
    return this.#spans.reduce((sum, { start, end }) => sum + Math.max(0, end - start), 0);
  }

  /** Show every problem; returns the input of the first one, or null. */
  check() {
    let first = null;
    for (const span of this.#spans) {
      const words = this.#problem(span);
      mark(span, words);
      if (words) first ??= span.from;
    }
    this.error.textContent = this.#spans.length ? "" : "Draw a span first, or add one.";
    return first ?? (this.#spans.length ? null : this.element.querySelector("button"));
  }

  /** Show the service's error for `field`, such as `retake.audio.0`; returns its input, or null if it has none. */
  fail(field, words) {
    const [, name, index] = field.split(".");
    const track = Object.keys(FIELDS).find((each) => FIELDS[each] === name);
    const span = track && this.#of(track)[Number(index)];
    if (span) mark(span, words);
    else this.error.textContent = words;
    return span ? span.from : this.element.querySelector("button");
  }

  #of(track) {
    const mine = this.#spans.filter(({ of }) => OF[of].includes(track));
    return mine.sort((one, other) => one.start - other.start);
  }

  #addHere() {
    const { duration } = this.timeline ?? { duration: NEW_SPAN };
    const start = tenths(Math.max(0, Math.min(this.now?.() ?? 0, duration - NEW_SPAN)));
    this.#add("sound", start, Math.min(duration, start + NEW_SPAN)).from.focus();
  }

  #add(of, start, end) {
    const number = ++this.#made;
    const span = { of, start, end, parts: [], number };
    const input = (edge, words) => {
      const field = h("input", {
        type: "number",
        min: 0,
        step: "any",
        inputmode: "decimal",
        id: `span-${number}-${edge}`,
        "aria-label": `Span ${number}: ${words}, in seconds`,
        "aria-describedby": `span-${number}-error`,
      });
      field.addEventListener("input", () => {
        span[edge] = Number(field.value);
        this.#show(span, field);
        this.#follow();
      });
      return field;
    };
    span.from = input("start", "begin");
    span.to = input("end", "end");
    span.choice = h(
      "select",
      { "aria-label": `Span ${number}: what is made again` },
      Object.entries(WORDS).map(([value, words]) => h("option", { value }, words)),
    );
    span.choice.value = of;
    span.choice.addEventListener("change", () => {
      span.of = span.choice.value;
      this.#place(span);
      this.#follow();
    });
    span.error = h("p", { class: "error", id: `span-${number}-error` });
    span.row = h(
      "li",
      { class: "span" },
      span.choice,
      span.from,
      h("span", { "aria-hidden": "true" }, "–"),
      span.to,
      h(
        "button",
        {
          type: "button",
          class: "step",
          "aria-label": `Remove span ${number}`,
          onclick: () => {
            this.#remove(span);
            this.element.querySelector(":scope > button").focus();
          },
        },
        icon("close"),
      ),
      span.error,
    );
    this.list.append(span.row);
    this.#spans.push(span);
    this.#place(span);
    this.#follow();
    return span;
  }

  #remove(span) {
    this.#spans.splice(this.#spans.indexOf(span), 1);
    for (const part of span.parts) part.element.remove();
    span.row.remove();
    this.#follow();
  }

  /** Put the span's parts on the tracks that it belongs to. */
  #place(span) {
    for (const part of span.parts) part.element.remove();
    const tracks = this.timeline ? OF[span.of].map((name) => [name, this.timeline.track(name)]) : [];
    span.parts = tracks
      .filter(([, track]) => track)
      .map(([name, track]) => {
        const part = new Part(this.timeline, `Span ${span.number}, ${name}`, (start, end) =>
          this.#change(span, start, end),
        );
        track.append(part.element);
        return part;
      });
    this.#show(span);
  }

  #change(span, start, end) {
    Object.assign(span, { start, end });
    this.#show(span);
    this.#follow();
  }

  #show(span, except) {
    for (const [field, value] of [
      [span.from, span.start],
      [span.to, span.end],
    ])
      if (field !== except) field.value = String(Math.round(value * 1000) / 1000);
    for (const part of span.parts) part.show(span.start, Math.max(span.start, span.end));
  }

  #follow() {
    this.error.textContent = "";
    for (const span of this.#spans) mark(span, this.#problem(span));
    this.onChange();
  }

  #problem(span) {
    const { duration } = this.timeline ?? {};
    if (!(span.end > span.start)) return "It must end after it begins.";
    if (duration && span.end > duration + 0.005) return `The file ends at ${clock(duration)}.`;
    const tracks = OF[span.of];
    const others = this.#spans.filter((other) => other !== span && OF[other.of].some((track) => tracks.includes(track)));
    const touched = others.find((other) => other.start < span.end && span.start < other.end);
    return touched ? `It overlaps span ${touched.number}.` : null;
  }
}

function mark(span, words) {
  span.error.textContent = words ?? "";
  for (const input of [span.from, span.to])
    if (words) input.setAttribute("aria-invalid", "true");
    else input.removeAttribute("aria-invalid");
}

function ends({ start, end }) {
  return [start, end].map((value) => Math.round(value * 1000) / 1000);
}
