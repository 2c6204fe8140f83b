/** The four questions about a clip. */

import { h } from "../../studio/js/dom.js";

const MARKS = [
  [1, "Bad"],
  [2, "Poor"],
  [3, "Fair"],
  [4, "Good"],
  [5, "Excellent"],
];
const SCALES = {
  video: "How good is the picture?",
  sound: "How good is the sound?",
  match: "How well do picture and sound match?",
};
const ORIGINS = [
  [true, "Real"],
  [false, "Machine-made"],
];

/** `given`: answers of an earlier vote, or null. `onChange()` is called at each answer. */
export class Questions {
  constructor(given, onChange) {
    const scales = Object.entries(SCALES).map(([name, words]) => question(name, words, MARKS, given?.[name], true));
    const origin = question("real", "Is the clip real or made by a machine?", ORIGINS, given?.real, false);
    this.element = h("fieldset", { class: "questions", disabled: true, onchange: onChange }, ...scales, origin);
    this.element.setAttribute("aria-label", "Questions about the clip");
  }

  enable() {
    this.element.disabled = false;
  }

  /** The answers, or null if one is missing. */
  answers() {
    const chosen = [...this.element.querySelectorAll("input:checked")];
    if (chosen.length < Object.keys(SCALES).length + 1) return null;
    return Object.fromEntries(chosen.map((input) => [input.name, JSON.parse(input.value)]));
  }
}

function question(name, words, choices, given, numbered) {
  const choice = ([value, label]) =>
    h(
      "label",
      { class: "segment" },
      h("input", { type: "radio", name, value: String(value), checked: value === given }),
      numbered ? h("span", {}, String(value)) : null,
      numbered ? h("small", {}, label) : h("span", {}, label),
    );
  return h(
    "fieldset",
    { class: "question" },
    h("legend", {}, words),
    h("div", { class: "segments scale" }, choices.map(choice)),
  );
}
