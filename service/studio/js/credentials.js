/** What a file says about its making: its Content Credentials, read by the service (`POST /verify`). */

import { api } from "./api.js";
import { button, h, icon } from "./dom.js";
import { announce, asProblem, problemBox } from "./notices.js";
import { actionWords, GENERATED, SOURCE_CREDENTIALS, VERDICTS } from "./words.js";

/** A button that checks one file, and the report. `load()`: the file; nothing is fetched or sent before. */
export class Credentials {
  #load;
  #reading = new AbortController();

  constructor(load) {
    this.#load = load;
    this.check = button("Check its credentials", "seal", () => this.#read(), {
      class: "button quiet-button",
      title: "Sends the file to the service, which does not keep it",
    });
    this.element = h("section", { class: "credentials", "aria-label": "Content Credentials" }, this.check);
  }

  /** Stop reading. */
  close() {
    this.#reading.abort();
  }

  async #read() {
    const { signal } = this.#reading;
    this.check.disabled = true;
    this.element.setAttribute("aria-busy", "true");
    this.element.replaceChildren(this.check, h("p", { class: "quiet" }, "Reading the file…"));
    let shown;
    try {
      const report = await api.verify(await this.#load(signal), signal);
      shown = reportBox(report);
      this.element.replaceChildren(shown);
      announce(`${VERDICTS[report.credentials].title}.`);
    } catch (error) {
      if (error.name === "AbortError") return;
      shown = problemBox(asProblem(error));
      this.element.replaceChildren(shown, this.check);
    } finally {
      this.check.disabled = false;
      this.element.removeAttribute("aria-busy");
    }
    const focused = document.activeElement; // the body, unless the user has gone on elsewhere meanwhile
    if (focused !== document.body && !this.element.contains(focused)) return;
    shown.focus({ preventScroll: true });
    shown.scrollIntoView({ block: "nearest" });
  }
}

/** The report in words. Its texts come from the file, and a tampered file can say anything. */
function reportBox(report) {
  const { title, words, mark, symbol } = VERDICTS[report.credentials];
  const rows = [
    ["Generated", GENERATED[report.generated]],
    ["Made by", report.made_by],
    ["Model", report.model && modelWords(report.model)],
    ["Signed by", report.signed_by],
    ["Signed at", report.signed_at && new Date(report.signed_at).toLocaleString()],
    ["What was done", list(report.actions.map(actionWords))],
    ["What was used", list(report.ingredients.map(sourceWords))],
    ["Problems", ["tampered", "unreadable"].includes(report.credentials) && list(report.problems)],
    ["Comment, not signed", report.comment],
  ].filter(([, value]) => value);
  return h(
    "div",
    { class: `verdict ${mark}`, tabindex: "-1" },
    h("p", { class: "verdict-title" }, icon(symbol), h("span", {}, title)),
    h("p", {}, words),
    rows.length > 0 &&
      h(
        "dl",
        {},
        rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]),
      ),
  );
}

function modelWords({ name, weights_sha256: weights }) {
  return [name, weights && h("code", { title: `SHA-256 of its weights: ${weights}` }, ` ${weights.slice(0, 12)}`)];
}

/** A file that was used: what of it was kept, and its own credentials at that time. */
function sourceWords({ title, media_type: type, relationship, credentials }) {
  const what = [title && title !== "upload" ? `“${title}”` : "a file", type && `(${type})`].filter(Boolean).join(" ");
  const kept = relationship === "parentOf" ? `${what}, of which parts were kept` : what;
  return `${kept}; ${SOURCE_CREDENTIALS[credentials]}`;
}

function list(items) {
  if (items.length === 0) return null;
  return h(
    "ul",
    {},
    items.map((each) => h("li", {}, each)),
  );
}
