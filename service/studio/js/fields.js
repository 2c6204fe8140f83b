/** One control for each parameter, built from the limits of the API. */

import { h, icon, markField } from "./dom.js";
import { allowed } from "./limits.js";
import { label } from "./words.js";

const MIXES = {
  replace: "is replaced",
  under: "stays; the new one is under it",
  over: "stays; the new one is over it",
  gains: "is mixed with gains",
};

/** A labelled control: `name`, `element`, `value` (undefined: the service's default), `problem()`, `fail(words)`. */
export class Control {
  constructor(field, onchange) {
    this.field = field;
    this.name = field.name;
    this.id = `field-${field.name}`;
    this.hint = h("p", { class: "hint", id: `${this.id}-hint` }, field.description);
    this.error = h("p", { class: "error", id: `${this.id}-error` });
    this.input = this.make(field);
    this.input.addEventListener("input", () => {
      this.fail("");
      onchange(this);
    });
    this.input.setAttribute("aria-describedby", `${this.id}-hint ${this.id}-error`);
    this.element = h("div", { class: `field field-${field.name}` }, this.arrange(), this.hint, this.error);
  }

  arrange() {
    return [h("label", { for: this.id }, label(this.name)), this.input];
  }

  /** Say `words` of the chosen value; null removes them. */
  remark(words) {
    if (!this.said) {
      this.said = h("p", { class: "remark", id: `${this.id}-remark` });
      this.element.append(this.said);
      this.input.setAttribute("aria-describedby", `${this.id}-remark ${this.input.getAttribute("aria-describedby")}`);
    }
    this.said.textContent = words ?? "";
  }

  /** Show `words` as the error; an empty string removes it. */
  fail(words) {
    markField(this.input, this.error, words);
  }

  /** Mark the value as impossible together with others; `words` undefined: it is possible. Shown at once. */
  refuse(words) {
    if (words !== this.refused || words) this.fail(words ?? "");
    this.refused = words;
  }

  /** The error in the entered value, or null. */
  problem() {
    return this.refused ?? null;
  }

  get shown() {
    return !this.element.hidden;
  }

  set shown(on) {
    this.element.hidden = !on;
  }
}

class NumberControl extends Control {
  make({ type, minimum, maximum, default: standard }) {
    const step = type === "integer" ? 1 : "any";
    const placeholder = standard === undefined ? "automatic" : null;
    const mode = type === "integer" ? "numeric" : "decimal";
    return h("input", {
      id: this.id,
      type: "number",
      min: minimum,
      max: maximum,
      step,
      value: standard,
      placeholder,
      inputmode: mode,
      autocomplete: "off",
    });
  }

  arrange() {
    if (this.field.type !== "integer" || this.name === "seed") return super.arrange();
    const step = (by) => () => {
      const { minimum = -Infinity, maximum = Infinity } = this.field;
      const from =
        this.input.value === "" ? (this.field.minimum ?? 0) - Math.min(by, 0) : Number(this.input.value) + by;
      this.input.value = String(Math.min(maximum, Math.max(minimum, from)));
      this.input.dispatchEvent(new Event("input"));
    };
    const side = (symbol, words, by) =>
      h(
        "button",
        { type: "button", class: "step", "aria-label": `${label(this.name)}: ${words}`, onclick: step(by) },
        icon(symbol),
      );
    const stepper = h(
      "div",
      { class: "stepper" },
      side("minus", "one less", -1),
      this.input,
      side("plus", "one more", 1),
    );
    return [h("label", { for: this.id }, label(this.name)), stepper];
  }

  get value() {
    return this.input.value === "" ? undefined : Number(this.input.value);
  }

  set value(value) {
    this.input.value = value ?? this.field.default ?? "";
  }

  problem() {
    const { badInput, rangeOverflow, rangeUnderflow, stepMismatch } = this.input.validity;
    const wrong = badInput || rangeOverflow || rangeUnderflow || stepMismatch;
    return wrong ? `This takes ${allowed(this.field)}.` : super.problem();
  }
}

class SeedControl extends NumberControl {
  make(field) {
    const input = super.make(field);
    input.placeholder = "drawn for you";
    return input;
  }

  arrange() {
    const draw = () => {
      const [high, low] = crypto.getRandomValues(new Uint32Array(2));
      this.input.value = String((high * 2 ** 32 + low) % (this.field.maximum + 1));
      this.input.dispatchEvent(new Event("input"));
    };
    const dice = h(
      "button",
      { type: "button", class: "step", "aria-label": "Draw a new seed", title: "Draw a new seed", onclick: draw },
      icon("dice"),
    );
    return [h("label", { for: this.id }, label(this.name)), h("div", { class: "stepper" }, this.input, dice)];
  }
}

class ChoiceControl extends Control {
  make(field) {
    const select = h("select", { id: this.id });
    this.fill(select, field.options ?? []);
    return select;
  }

  /** Offer these options only. */
  offer(options) {
    const before = this.value;
    this.fill(this.input, options);
    if (options.includes(before)) this.value = before;
  }

  fill(select, options) {
    const standard = this.field.default;
    const automatic = standard === undefined && this.name !== "model" ? [h("option", { value: "" }, "automatic")] : [];
    select.replaceChildren(...automatic, ...options.map((name) => h("option", { value: name }, name)));
    if (options.includes(standard)) select.value = standard;
  }

  get value() {
    return this.input.value || undefined;
  }

  set value(value) {
    this.input.value = value ?? this.field.default ?? "";
    if (this.input.selectedIndex < 0) this.input.selectedIndex = 0;
  }
}

class SwitchControl extends Control {
  make(field) {
    return h("input", { id: this.id, type: "checkbox", role: "switch", checked: field.default ?? true });
  }

  arrange() {
    return h("div", { class: "switch" }, this.input, h("label", { for: this.id }, label(this.name)));
  }

  get value() {
    return this.input.checked;
  }

  set value(value) {
    this.input.checked = value ?? this.field.default ?? true;
  }
}

/** One line of the user's own words, with examples to choose from. */
class TextControl extends Control {
  make({ longest }) {
    const input = h("textarea", {
      id: this.id,
      rows: this.name === "prompt" ? 3 : 2,
      maxlength: longest,
      enterkeyhint: "done",
      autocomplete: "off",
    });
    input.addEventListener("input", () => {
      if (/[\r\n]/.test(input.value)) input.value = input.value.replace(/[\r\n]+/g, " ");
    });
    input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.isComposing) return;
      event.preventDefault();
      input.form.requestSubmit();
    });
    return input;
  }

  arrange() {
    this.examples = h("ul", { class: "examples", "aria-label": "Example prompts", hidden: true });
    return [...super.arrange(), this.examples];
  }

  /** Offer these examples. */
  offer(examples) {
    const choose = (words) => () => {
      this.input.value = words;
      this.input.dispatchEvent(new Event("input"));
      if (!matchMedia("(pointer: coarse)").matches) this.input.focus(); // it would open a phone's keyboard
    };
    this.examples.hidden = examples.length === 0;
    this.examples.replaceChildren(
      ...examples.map((words) =>
        h("li", {}, h("button", { type: "button", class: "example", onclick: choose(words) }, words)),
      ),
    );
  }

  get value() {
    return this.input.value.trim() || undefined;
  }

  set value(value) {
    this.input.value = value ?? "";
  }
}

/** How the new sound and the file's own are mixed: a choice, or two gains in decibels. */
class MixControl extends Control {
  make({ default: standard = "replace", gains }) {
    const gain = (name, words) => {
      const { minimum: min, maximum: max } = gains[name];
      const attributes = { type: "number", min, max, step: "any", value: 0, inputmode: "text" };
      const input = h("input", { id: `${this.id}-${name}`, "aria-describedby": `${this.id}-error`, ...attributes });
      input.addEventListener("input", () => this.input.dispatchEvent(new Event("input")));
      return { input, element: h("div", { class: "field" }, h("label", { for: input.id }, words), input) };
    };
    this.gains = { own: gain("own", "Own sound (dB)"), new: gain("new", "New sound (dB)") };
    const options = Object.entries(MIXES).map(([value, words]) => h("option", { value }, words));
    const select = h("select", { id: this.id }, options);
    select.value = standard;
    return select;
  }

  arrange() {
    const gains = Object.values(this.gains).map(({ element }) => element);
    this.pair = h("div", { class: "fields", hidden: true }, gains);
    this.input.addEventListener("input", () => this.#follow());
    return [...super.arrange(), this.pair];
  }

  get value() {
    if (this.input.value !== "gains") return this.input.value;
    return Object.fromEntries(Object.entries(this.gains).map(([name, { input }]) => [name, Number(input.value)]));
  }

  set value(value) {
    const gains = typeof value === "object" && value;
    this.input.value = gains ? "gains" : (value ?? "replace");
    for (const [name, { input }] of Object.entries(this.gains)) input.value = String((gains && gains[name]) || 0);
    this.#follow();
  }

  problem() {
    const { minimum, maximum } = this.field.gains.own;
    const wrong = Object.values(this.gains).some(({ input }) => input.value === "" || !input.validity.valid);
    return !this.pair.hidden && wrong ? `The gains are numbers from ${minimum} to ${maximum}.` : super.problem();
  }

  #follow() {
    this.pair.hidden = this.input.value !== "gains";
  }
}

/** The control for a field; `onchange(control)` whenever the user changes it. */
export function control(field, onchange) {
  if (field.name === "seed") return new SeedControl(field, onchange);
  if (field.type === "text") return new TextControl(field, onchange);
  if (field.type === "mix") return new MixControl(field, onchange);
  if (field.type === "boolean") return new SwitchControl(field, onchange);
  if (field.type === "string") return new ChoiceControl(field, onchange);
  return new NumberControl(field, onchange);
}
