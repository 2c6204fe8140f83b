/** The field for an API key, shown if the service requires one, and the button that forgets it. */

import { forgetKey, key, keepKey } from "./key.js";

/**
 * Set up the panel. `onKey()` is called when a key was entered. Forgetting a key reloads the page, so that nothing that
 * it showed remains.
 * @returns {{ask: (problem: Problem) => void, settle: () => void}} call `ask` when a request was refused, `settle` when
 * requests succeed
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
