/** Creates elements. Text is never parsed as markup. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element with attributes, listeners (`onclick: f`) and children (elements or text; null, undefined and false are
 * left out).
 * @returns {HTMLElement}
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** One of the symbols at the end of index.html, drawn in the colour of the text. @returns {SVGElement} */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** A button with a symbol before its text. */
export function button(words, symbol, onclick, attributes = {}) {
  return h(
    "button",
    { type: "button", class: "button", onclick, ...attributes },
    symbol && icon(symbol),
    h("span", {}, words),
  );
}

/** A labelled field for a number of at least 0: the `input`, the `error` below it, and the `element` that holds both. */
export function numberField(id, words) {
  const input = h("input", {
    id,
    type: "number",
    min: 0,
    step: "any",
    inputmode: "decimal",
    "aria-describedby": `${id}-error`,
  });
  const error = h("p", { class: "error", id: `${id}-error` });
  return { input, error, element: h("div", { class: "field" }, h("label", { for: id }, words), input, error) };
}

/** Show `words` as the error of a field; an empty text removes it. */
export function markField(input, error, words) {
  error.textContent = words;
  if (words) input.setAttribute("aria-invalid", "true");
  else input.removeAttribute("aria-invalid");
}

/** Whether the user prefers reduced motion. */
export function calm() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}
