/** Messages to the user: problems with advice, short notes, and announcements for screen readers. */

import { Problem } from "./api.js";
import { h, icon } from "./dom.js";
import { advice, label } from "./words.js";

const NOTE_STAYS = 4000;

/** Announce `text` to screen readers, without interrupting them. */
export function announce(text) {
  document.getElementById("announcer").textContent = text;
}

/** Show a short confirmation that disappears by itself. */
export function note(text) {
  const place = document.getElementById("notes");
  const line = h("p", { class: "note" }, icon("check"), text);
  place.replaceChildren(line);
  setTimeout(() => line.remove(), NOTE_STAYS);
}

/**
 * A problem and its advice. `except`: names of fields that show their own errors.
 * @returns {HTMLElement}
 */
export function problemBox(problem, except = []) {
  const said = (error) => except.includes(error.field) || problem.message.includes(error.allowed);
  const others = problem.errors.filter((error) => !said(error));
  return h(
    "div",
    { class: "problem", role: "alert", tabindex: "-1" },
    icon("alert"),
    h(
      "div",
      {},
      h("p", { class: "problem-what" }, ended(problem.message)),
      others.length > 0 &&
        h(
          "ul",
          {},
          others.map((error) => h("li", {}, `${label(error.field || "request")}: ${ended(error.allowed)}`)),
        ),
      h("p", {}, advice(problem)),
      problem.requestId && problem.status >= 500 && h("p", { class: "quiet" }, `Request id ${problem.requestId}`),
    ),
  );
}

/** `error` if it is a Problem; anything else is a fault of this page and is rethrown. */
export function asProblem(error) {
  if (error instanceof Problem) return error;
  throw error;
}

function ended(text) {
  return /[.!?…]$/.test(text) ? text : `${text}.`;
}
