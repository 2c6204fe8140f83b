/** Plays one clip. There is no way to skip: the end is reached only by playing the whole. */

import { h, icon } from "../../studio/js/dom.js";

/** `onWhole()` is called when the clip has been played to its end for the first time. */
export class Clip {
  #wasWhole = false;

  constructor(url, onWhole) {
    this.video = h("video", {
      src: url,
      playsinline: true,
      preload: "auto",
      disablepictureinpicture: true,
      disableremoteplayback: true,
      "aria-label": "The clip",
    });
    this.words = h("span", {}, "Play");
    this.play = h("button", { type: "button", class: "button primary", onclick: () => this.#start() });
    this.play.append(icon("play"), this.words);
    this.bar = h("progress", { max: 1, value: 0, "aria-label": "Position in the clip" });
    this.trouble = h("p", { class: "error", role: "alert" });
    this.element = h(
      "section",
      { "aria-label": "Clip" },
      h("div", { class: "screen" }, this.video),
      h("div", { class: "clip-controls" }, this.play, this.bar),
      this.trouble,
    );
    this.video.addEventListener("timeupdate", () => this.#show());
    this.video.addEventListener("play", () => this.#show());
    this.video.addEventListener("pause", () => this.#show());
    this.video.addEventListener("ended", () => {
      this.#show();
      if (this.#wasWhole) return;
      this.#wasWhole = true;
      onWhole();
    });
    this.video.addEventListener("error", () => this.#failed());
  }

  close() {
    this.video.pause();
    this.video.removeAttribute("src");
    this.video.load();
  }

  #start() {
    if (!this.video.paused && !this.video.ended) return;
    this.trouble.textContent = "";
    if (this.video.error) this.video.load();
    this.video.muted = false;
    this.video.volume = 1;
    this.video.play().catch((error) => {
      if (error.name !== "AbortError") this.#failed();
    });
  }

  #failed() {
    this.trouble.textContent = "The clip cannot be played. Check your connection, then press Play again.";
    this.#show();
  }

  #show() {
    const { currentTime, duration, paused, ended } = this.video;
    this.bar.value = Number.isFinite(duration) && duration > 0 ? Math.min(1, currentTime / duration) : 0;
    const playing = !paused && !ended;
    this.play.setAttribute("aria-disabled", String(playing)); // not `disabled`, which would take the focus away
    this.words.textContent = playing ? "Playing" : this.#wasWhole || ended ? "Play again" : "Play";
  }
}
