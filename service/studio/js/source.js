/** The file to upload: a preview, and the start of the window in it. */

import { button, h, icon } from "./dom.js";
import { bytes, clock, seconds } from "./words.js";

/** Shows one file. `onRemove()` when the user removes it, `onStart(seconds)` when the user chooses a start. */
export class Source {
  #url = null;
  #media = null;

  constructor(place, onRemove, onStart) {
    this.place = place;
    this.onRemove = onRemove;
    this.onStart = onStart;
    /** Seconds; null until or unless the browser knows. */
    this.duration = null;
    this.file = null;
    this.window = 0;
    this.start = 0;
    this.onDuration = () => {};
  }

  /** Show `file`; null shows nothing. */
  show(file) {
    if (this.#url) URL.revokeObjectURL(this.#url);
    this.#url = this.#media = this.duration = null;
    this.file = file;
    this.place.replaceChildren();
    this.place.hidden = !file;
    if (!file) return;
    this.#url = URL.createObjectURL(file);
    this.facts = h("p", { class: "quiet" }, bytes(file.size));
    this.part = h("p", { class: "quiet" });
    this.here = button("Begin here", null, () => this.onStart(Math.round(this.#media.currentTime * 10) / 10), {
      class: "button quiet-button",
      hidden: true,
    });
    const remove = h(
      "button",
      { type: "button", class: "step", "aria-label": `Remove ${file.name}`, onclick: this.onRemove },
      icon("close"),
    );
    this.place.append(
      h("div", { class: "source-head" }, h("div", {}, h("p", { class: "source-name" }, file.name), this.facts), remove),
      this.#preview(file),
      h("div", { class: "row spread" }, this.part, this.here),
    );
  }

  /** Mark the part of the file that the job would use. */
  mark(start, window) {
    const moved = start !== this.start;
    this.start = start;
    this.window = window;
    if (!this.part || this.duration === null) return;
    const end = Math.min(this.duration, start + window);
    this.part.textContent =
      start < this.duration
        ? `Uses ${clock(start)} – ${clock(end)}`
        : `The file ends at ${clock(this.duration)}: begin earlier.`;
    if (moved && start < this.duration) this.#media.currentTime = start;
  }

  #preview(file) {
    const sound = file.type.startsWith("audio/");
    const media = h(sound ? "audio" : "video", {
      controls: true,
      preload: "metadata",
      playsinline: true,
      "aria-label": `Your file ${file.name}`,
    });
    media.addEventListener("loadedmetadata", () => {
      if (!Number.isFinite(media.duration)) return;
      this.duration = media.duration;
      this.here.hidden = false;
      if (this.start < media.duration) media.currentTime = this.start;
      const size = media.videoWidth && `${media.videoWidth}×${media.videoHeight}`;
      this.facts.textContent = [bytes(file.size), seconds(media.duration), size].filter(Boolean).join(" · ");
      this.mark(this.start, this.window);
      this.onDuration(media.duration);
    });
    media.addEventListener("error", () =>
      media.replaceWith(
        h("p", { class: "quiet" }, "This browser cannot play the file; the service may still read it."),
      ),
    );
    media.src = this.#url;
    this.#media = media;
    return media;
  }
}

/** The button and hidden input that open the file chooser; `accept`: media types. `onFile(file)`. */
export function picker(words, symbol, accept, onFile) {
  const input = h("input", { type: "file", accept, hidden: true, tabindex: "-1", "aria-label": words });
  input.addEventListener("change", () => {
    if (input.files[0]) onFile(input.files[0]);
    input.value = ""; // the same file may be chosen again
  });
  return h(
    "div",
    {},
    input,
    button(words, symbol, () => input.click()),
  );
}
