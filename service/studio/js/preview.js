/** Previews: the current estimate of a clip while it is generated. */

import { calm, h } from "./dom.js";
import { drawWaveform } from "./waveform.js";

/** One tile for each output. `fps`: of the model's clips; `input`: URL of the user's own video, if it is shown. */
export class Emerging {
  #tiles = new Map();

  constructor(fps, input) {
    this.fps = fps;
    this.input = input;
    this.element = h("div", { class: "emerging", hidden: true });
  }

  /** Show a preview from an event. */
  show(preview) {
    this.element.hidden = false;
    if (!this.#tiles.has(preview.index)) {
      const tile = new Tile(this.fps, this.input, preview.index);
      this.#tiles.set(preview.index, tile);
      const order = [...this.#tiles].sort(([one], [other]) => one - other);
      this.element.replaceChildren(...order.map(([, each]) => each.element));
    }
    this.#tiles.get(preview.index).show(preview);
  }

  /** Stop all animation. */
  stop() {
    for (const tile of this.#tiles.values()) tile.stop();
  }
}

class Tile {
  #timer = null;
  #frame = 0;
  #sheet = null;

  constructor(fps, input, index) {
    this.fps = fps;
    this.name = `Output ${index + 1}`;
    this.picture = h("canvas", {
      class: "emerging-picture",
      role: "img",
      "aria-label": `${this.name}: frames so far`,
      hidden: true,
    });
    this.own =
      input &&
      h("video", {
        class: "emerging-picture",
        src: input,
        playsinline: true,
        preload: "metadata",
        tabindex: "-1",
        "aria-label": "Your own frames",
      });
    if (this.own) this.own.muted = true;
    this.wave = h("canvas", {
      class: "emerging-wave",
      role: "img",
      "aria-label": `${this.name}: waveform so far`,
      hidden: true,
    });
    this.words = h("figcaption", { class: "quiet" });
    this.element = h("figure", { class: "emerging-tile" }, this.own, this.picture, this.wave, this.words);
  }

  async show({ sprite, waveform, stage, step, total_steps: total }) {
    this.words.textContent = `${this.name}, ${stage === "sr" ? "enlarged, " : ""}step ${step} of ${total}`;
    this.wave.hidden = !waveform;
    if (waveform) drawWaveform(this.wave, waveform);
    this.picture.hidden = !sprite;
    if (!sprite) return;
    const image = new Image();
    image.src = sprite.url;
    await image.decode();
    this.#sheet = { image, ...sprite };
    this.picture.width = sprite.width;
    this.picture.height = sprite.height;
    this.#draw();
    if (this.#timer === null && !calm()) this.#timer = setInterval(() => this.#draw(), 1000 / this.fps);
  }

  stop() {
    clearInterval(this.#timer);
    this.#timer = null;
  }

  #draw() {
    const { image, columns, frames, width, height } = this.#sheet;
    const frame = this.#frame++ % frames;
    const [x, y] = [(frame % columns) * width, Math.floor(frame / columns) * height];
    this.picture.getContext("2d").drawImage(image, x, y, width, height, 0, 0, width, height);
  }
}
