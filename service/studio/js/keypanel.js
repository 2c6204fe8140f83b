/** The field for an API key, shown when the service asks for one; and the button that forgets it. */

import { forgetKey, key, keepKey } from "./key.js";

/**
 * Make the panel work. `onKey()` is called when a key was entered; forgetting one loads the page anew, so that nothing
 * of what it showed stays.
 * @returns {{ask: (problem: Problem) => void, settle: () => void}} `ask` when a request was refused, `settle` when none
 * is any more
 */
export function keyPanel(onKey) {
  const panel = document.getElementById("key-panel");
  const field = document.getElementById("key");
  const error = document.getElementById("key-error");
  const forget = document.getElementById("forget-key");

  panel.addEventListener("submit", (event) => {
    event.preventDefault();
    const value = field.value.trim();
    if (!/^[\x21-\x7e]+$/.test(value)) {
      refuse("A key is a single word without spaces, as the service printed it.");
      return;
    }
    keepKey(value);
    field.value = "";
    onKey();
  });
  forget.addEventListener("click", () => {
    forgetKey();
    location.assign(location.pathname);
  });

  function refuse(words) {
    error.textContent = words;
    field.setAttribute("aria-invalid", "true");
    field.focus();
  }

  return {
    ask() {
      const opened = panel.hidden;
      panel.hidden = false;
      document.body.classList.add("locked");
      if (key()) {
        forgetKey();
        refuse("Unknown key. Enter another one.");
      } else if (opened) {
        field.focus();
      }
      forget.hidden = true;
    },
    settle() {
      panel.hidden = true;
      document.body.classList.remove("locked");
      error.textContent = "";
      field.removeAttribute("aria-invalid");
      forget.hidden = !key();
    },
  };
}
