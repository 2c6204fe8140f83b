/** A spectrogram with a playhead. */

import { get } from "./api.js";
import { h } from "./dom.js";

/**
 * `files`: of one output. The picture has axes around the plot. The manifest has the plot's position in it; without
 * the manifest there is no playhead. `onSeek(fraction)` is called when the plot is clicked.
 */
export class Spectrogram {
  #plot = null;

  constructor(files, onSeek) {
    this.line = h("div", { class: "playhead", hidden: true });
    this.image = h("img", {
      src: files["spectrogram.png"],
      alt: "Spectrogram of the sound: time from left to right, pitch upwards",
    });
    this.element = h("div", { class: "spectrogram" }, this.image, this.line);
    this.image.addEventListener("click", (event) => {
      const { left, width } = this.image.getBoundingClientRect();
      const within = this.#fraction((event.clientX - left) / width);
      if (within !== null) onSeek(within);
    });
    this.#findPlot(files["manifest.json"]);
  }

  /** Move the playhead to a fraction (0 … 1) of the sound. */
  at(fraction) {
    if (!this.#plot) return;
    const { left, right, width } = this.#plot;
    this.line.style.insetInlineStart = `${(100 * (left + (right - left) * fraction)) / width}%`;
  }

  #fraction(across) {
    if (!this.#plot) return null;
    const { left, right, width } = this.#plot;
    const fraction = (across * width - left) / (right - left);
    return fraction >= 0 && fraction <= 1 ? fraction : null;
  }

  async #findPlot(manifest) {
    if (!manifest) return;
    let plot;
    try {
      plot = (await get(manifest)).pictures?.spectrogram?.plot;
    } catch {
      return; // the picture is shown without a playhead; the bar below it has the position
    }
    if (!plot) return;
    this.#plot = plot;
    const { top, bottom, height } = plot;
    this.line.style.insetBlockStart = `${(100 * top) / height}%`;
    this.line.style.blockSize = `${(100 * (bottom - top)) / height}%`;
    this.line.hidden = false;
    this.at(0);
  }
}
