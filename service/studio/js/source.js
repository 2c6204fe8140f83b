/** The file to upload: a preview, and the part of it that is used. */

import { Credentials } from "./credentials.js";
import { button, h, icon } from "./dom.js";
import { Part } from "./part.js";
import { Timeline } from "./timeline.js";
import { bytes, clock, lengthWords, tenths } from "./words.js";

/**
 * Shows one file. `on.remove()` when the user removes it; `on.part(start, end)` in seconds when the user chooses a part,
 * with `end` null if only its begin was chosen; `on.duration()` once the length of the file is known.
 */
export class Source {
  #url = null;
  #media = null;
  #timeline = null;
  #part = null;
  #credentials = null;

  constructor(place, on) {
    this.place = place;
    this.on = on;
    /** Seconds; null until or unless the browser knows. */
    this.duration = null;
    this.file = null;
    this.editor = null;
  }

  /** Show `file`; null shows nothing. */
  show(file) {
    if (this.#url) URL.revokeObjectURL(this.#url);
    this.#timeline?.close();
    this.#credentials?.close();
    this.#url = this.#media = this.#timeline = this.#part = this.duration = null;
    this.file = file;
    this.place.replaceChildren();
    this.place.hidden = !file;
    if (!file) return;
    this.#url = URL.createObjectURL(file);
    this.facts = h("p", { class: "quiet" }, bytes(file.size));
    this.used = h("p", { class: "quiet" });
    this.notice = h("p", { class: "quiet", hidden: true });
    this.here = button("Begin here", null, () => this.on.part(tenths(this.#media.currentTime), null), {
      class: "button quiet-button",
      hidden: true,
    });
    const remove = h(
      "button",
      { type: "button", class: "step", "aria-label": `Remove ${file.name}`, onclick: this.on.remove },
      icon("close"),
    );
    this.#credentials = new Credentials(() => file);
    this.axis = h("div", {});
    this.screen = h("div", { class: "source-screen" }, this.#preview(file));
    this.toggle = button("Play", "play", () => this.#playOrPause(), { class: "button quiet-button play-source" });
    this.place.append(
      h("div", { class: "source-head" }, h("div", {}, h("p", { class: "source-name" }, file.name), this.facts), remove),
      this.screen,
      this.axis,
      h("div", { class: "row spread" }, this.used, this.here, this.toggle),
      this.notice,
      this.#credentials.element,
    );
  }

  /** Show the part that the job would use, in seconds of the file; `notice`: why it is not the whole. */
  mark({ start, end, notice }) {
    if (this.duration === null) return;
    const moved = start !== this.#part.start;
    this.used.textContent = start < end ? `Uses ${clock(start)} – ${clock(end)}` : "";
    this.notice.textContent = notice ?? "";
    this.notice.hidden = !notice;
    this.#part.show(start, Math.max(start, end));
    if (moved && start < this.duration) this.#media.currentTime = start;
  }

  /** What an edit works on: `{timeline, media, screen}`; null while the browser does not know the file. */
  get opened() {
    return this.#timeline && { timeline: this.#timeline, media: this.#media, screen: this.screen };
  }

  /** Choose parts by an edit, which gets what the pointer draws; null: the part that a job uses. */
  edit(editor) {
    this.editor = editor;
    if (this.#media) this.#media.controls = !editor;
    if (this.#part) this.#part.element.hidden = Boolean(editor);
  }

  #playOrPause() {
    if (this.#media.paused) this.#media.play();
    else this.#media.pause();
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
      const size = media.videoWidth && `${media.videoWidth}×${media.videoHeight}`;
      this.facts.textContent = [bytes(file.size), lengthWords(media.duration), size].filter(Boolean).join(" · ");
      this.#drawAxis(file, Boolean(media.videoWidth));
    });
    media.addEventListener("timeupdate", () => this.#timeline?.at(media.currentTime));
    for (const event of ["play", "pause"])
      media.addEventListener(event, () => {
        this.toggle.querySelector("span").textContent = media.paused ? "Play" : "Pause";
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

  #drawAxis(file, picture) {
    this.#timeline = new Timeline("The part of your file that is used", {
      seek: (to) => {
        this.#media.currentTime = to;
      },
      draw: (track, from, to) => {
        if (this.editor) this.editor.draw(track, from, to);
        else this.on.part(tenths(from), tenths(to));
      },
      drawn: () => this.editor?.drawn(),
    });
    this.axis.replaceChildren(this.#timeline.element);
    this.#timeline.load(file, this.#url, this.duration, picture);
    this.#part = new Part(this.#timeline, "Part used", (start, end) => this.on.part(start, end));
    this.#timeline.axis.append(this.#part.element);
    this.edit(this.editor);
    this.on.duration();
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
