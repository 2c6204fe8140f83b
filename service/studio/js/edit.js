/** What an edit changes: a retake, an extension, or a region of the picture. */

import { h, icon } from "./dom.js";
import { Extend } from "./extend.js";
import { Region } from "./region.js";
import { Retake } from "./retake.js";

const WAYS = {
  retake: { words: "Retake", symbol: "repeat", of: Retake },
  extend: { words: "Extend", symbol: "plus", of: Extend },
  region: { words: "Region", symbol: "frame", of: Region },
};

/** Fills `place`. `onChange()` when the edit has changed. */
export class Edit {
  #way = "retake";
  #opened = null;

  constructor(place, onChange) {
    this.place = place;
    this.ways = Object.fromEntries(Object.entries(WAYS).map(([name, { of }]) => [name, new of(onChange)]));
    this.onChange = onChange;
    const choices = Object.entries(WAYS).map(([value, { words, symbol }]) =>
      h(
        "label",
        { class: "segment" },
        h("input", { type: "radio", name: "edit", value, onchange: () => this.choose(value) }),
        icon(symbol),
        h("span", {}, words),
      ),
    );
    this.choices = h("fieldset", { class: "segments" }, h("legend", { class: "hidden" }, "What to do"), choices);
    place.append(this.choices, ...Object.values(this.ways).map(({ element }) => element));
    this.choose("retake");
  }

  /** Retake, extend or region. */
  choose(way) {
    this.#way = way;
    this.choices.querySelector(`[value=${way}]`).checked = true;
    this.#show();
    this.onChange();
  }

  /** Show the edit in `source`, or nothing. */
  show(on, source) {
    this.place.hidden = !on;
    source.edit(on ? this : null);
    const opened = source.opened;
    if (opened?.timeline !== this.#opened?.timeline) {
      for (const each of Object.values(this.ways)) each.detach();
      this.#opened = opened;
      if (opened) {
        this.ways.retake.open(opened.timeline, () => opened.media.currentTime);
        this.ways.extend.open(opened.timeline);
        this.ways.region.open(opened.timeline, opened.media, opened.screen);
      }
    }
    this.#show();
  }

  /** Forget what was chosen: another film is edited. */
  reset() {
    for (const each of Object.values(this.ways)) each.reset();
  }

  /** The pointer draws on the timeline. */
  draw(track, from, to) {
    this.#current.draw?.(track, from, to);
  }

  drawn() {
    this.#current.drawn?.();
  }

  /** Seconds that the service adds at most. */
  set most(seconds) {
    this.ways.extend.most = seconds;
  }

  /** The parameters of the edit. */
  get value() {
    return { [this.#way]: this.#current.value() };
  }

  /** The mask picture that goes with it, or null. */
  get mask() {
    return this.#way === "region" ? this.ways.region.mask : null;
  }

  /** Whether its new sound meets the film's own. */
  get mixes() {
    return this.#current.mixes;
  }

  /** Whether it makes pictures. */
  get draws() {
    return this.#way !== "retake" || this.#current.draws;
  }

  /** Seconds that are made anew. */
  made() {
    return this.#current.made();
  }

  /** Seconds from the first to the last that is made anew. */
  extent() {
    return this.#current.extent();
  }

  /** Show what is wrong with it; returns the element to focus, or null. */
  check() {
    return this.#current.check();
  }

  /** Whether the error of this field is shown here. */
  has(field) {
    return field === "mask" || field.split(".")[0] in this.ways;
  }

  /** Show the service's error for a field such as `retake.audio.0`; returns the element to focus. */
  fail(field, words) {
    const way = field === "mask" ? "region" : field.split(".")[0];
    if (way !== this.#way) this.choose(way);
    return this.#current.fail(field, words);
  }

  /** Take the edit of a job with these parameters. */
  fill(parameters, mask = null) {
    const way = Object.keys(WAYS).find((name) => parameters[name]) ?? "retake";
    this.choose(way);
    if (parameters[way]) this.#current.fill(parameters[way], mask);
  }

  get #current() {
    return this.ways[this.#way];
  }

  #show() {
    for (const [name, each] of Object.entries(this.ways)) each.shown = name === this.#way && !this.place.hidden;
  }
}
