/** Questions and texts in front of the page; the browser's own <dialog> keeps the focus and closes on Escape. */

import { button, h } from "./dom.js";

/** Ask before something that cannot be undone. @returns {Promise<boolean>} */
export function confirmed(question, explanation, yes) {
  return new Promise((resolve) => {
    const agree = button(yes, "trash", () => dialog.close("yes"), { class: "button danger" });
    const dialog = open(question, h("p", {}, explanation), [button("Keep it", null, () => dialog.close("no")), agree]);
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"));
  });
}

/** Put `text` on the clipboard; where the browser does not let us, show it selected. @returns {Promise<boolean>} */
export async function copied(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // No clipboard outside a secure context, or not allowed: the user can still copy by hand.
    const area = h("textarea", { readonly: true, rows: 6, "aria-label": what });
    area.value = text;
    const dialog = open(what, area, [button("Close", null, () => dialog.close())]);
    area.select();
    return false;
  }
}

function open(title, content, buttons) {
  const dialog = h(
    "dialog",
    { "aria-labelledby": "dialog-title" },
    h("h2", { id: "dialog-title" }, title),
    content,
    h("div", { class: "row end" }, buttons),
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}
