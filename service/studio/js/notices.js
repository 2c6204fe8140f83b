/** Telling the user: problems with what to do about them, short notes, and what only a screen reader says. */

import { Problem } from "./api.js";
import { h, icon } from "./dom.js";
import { advice, label } from "./words.js";

const NOTE_STAYS = 4000;

/** Have a screen reader say `text` when it is done with what it is saying. */
export function announce(text) {
  document.getElementById("announcer").textContent = text;
}

/** A short note that goes away by itself: something was done. */
export function note(text) {
  const place = document.getElementById("notes");
  const line = h("p", { class: "note" }, icon("check"), text);
  place.replaceChildren(line);
  setTimeout(() => line.remove(), NOTE_STAYS);
}

/**
 * A problem in words with what to do. `except`: names of fields that show their own errors.
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

/** `error` as a Problem; what is no problem of the service is a fault of this page, and thrown on. */
export function asProblem(error) {
  if (error instanceof Problem) return error;
  throw error;
}

function ended(text) {
  return /[.!?…]$/.test(text) ? text : `${text}.`;
}
