/** Plays one clip, beside the upload if there is one. */

import { h, icon } from "./dom.js";
import { Spectrogram } from "./playhead.js";
import { clock } from "./words.js";
import { drawWaveform, waveformOf } from "./waveform.js";

const DRIFT = 0.08; // seconds of drift before the companion is aligned
const PAIRS = 240;

/**
 * Plays output `output` of `job`. The upload, if there is one, follows the clip's position, and one of the two is
 * audible; of an edit, visible too. `onStale()` is called when the clip cannot be loaded, for example because its signed URL has expired.
 */
export class Player {
  #raf = null;
  #stop = new AbortController();

  constructor(job, output, onStale) {
    this.job = job;
    this.clip = video(output.files["video.mp4"], `Output ${output.index + 1}`);
    this.clip.addEventListener("error", onStale);
    this.companion = this.#companion(output);
    // Beside the user's video both show the same moment, which a poster would not.
    if (output.files["poster.webp"] && !job.input?.video) this.clip.poster = output.files["poster.webp"];
    this.spectrogram = output.files["spectrogram.png"] ? new Spectrogram(output.files, (to) => this.seek(to)) : null;
    this.toggle = h("button", { type: "button", class: "play", onclick: () => this.#playOrPause() });
    this.position = h("input", {
      type: "range",
      min: 0,
      max: 1,
      step: "any",
      value: 0,
      class: "position",
      "aria-label": "Position",
    });
    this.position.addEventListener("input", () => this.seek(Number(this.position.value)));
    this.time = h("span", { class: "time" });
    this.again = this.#pressed("loop", "Repeat", true);
    this.mute = this.#pressed("mute", "Mute", false, () => this.#listen());
    this.choice = this.#soundChoice();
    const screens = [
      this.companion && this.#screen(this.companion.element, this.companion.words),
      this.#screen(this.clip, this.#edited ? "After" : this.companion ? "Result" : null),
    ];
    this.element = h(
      "section",
      { class: `player ${this.#edited ? "stacked" : this.companion ? "pair" : "single"}`, "aria-label": `Output ${output.index + 1}` },
      h("div", { class: "screens" }, screens),
      h("div", { class: "controls" }, this.toggle, this.position, this.time, this.again, this.mute, this.choice),
      this.spectrogram?.element,
    );
    this.#watch();
    this.#listen();
    this.#show();
  }

  /** The film before an edit is at the same place as the result: one of the two is seen and heard. */
  get #edited() {
    return this.job.kind === "edit";
  }

  /** Go to a fraction (0 … 1) of the clip. */
  seek(fraction) {
    if (!Number.isFinite(this.clip.duration)) return;
    this.clip.currentTime = fraction * this.clip.duration;
    this.#align(true);
    this.#show();
  }

  /** Stop playback and loading. */
  close() {
    this.#stop.abort();
    cancelAnimationFrame(this.#raf);
    for (const media of [this.clip, this.companion?.media]) media?.pause();
  }

  #playOrPause() {
    if (this.clip.paused) this.clip.play();
    else this.clip.pause();
  }

  #watch() {
    const { clip } = this;
    const companion = this.companion?.media;
    clip.addEventListener("play", () => {
      this.#align(true);
      companion?.play().catch(() => {}); // it may have ended; align() handles that
      this.#tick();
    });
    clip.addEventListener("pause", () => companion?.pause());
    clip.addEventListener("ended", () => {
      if (this.again.getAttribute("aria-pressed") !== "true") return;
      clip.currentTime = 0;
      clip.play();
    });
    for (const event of ["play", "pause", "seeked", "loadedmetadata", "durationchange"])
      clip.addEventListener(event, () => this.#show());
    companion?.addEventListener("loadedmetadata", () => this.#align(true));
  }

  #tick() {
    cancelAnimationFrame(this.#raf);
    this.#raf = requestAnimationFrame(() => {
      this.#show();
      this.#align(false);
      if (!this.clip.paused) this.#tick();
    });
  }

  /** Bring the companion to the clip's position. */
  #align(exactly) {
    const media = this.companion?.media;
    if (!media || media.readyState === 0) return;
    const due = Math.max(0, Math.min(this.companion.start + this.clip.currentTime, media.duration));
    if (exactly || Math.abs(media.currentTime - due) > DRIFT) media.currentTime = due;
  }

  /** Unmute the chosen sound. */
  #listen() {
    const muted = this.mute.getAttribute("aria-pressed") === "true";
    const old = this.choice?.querySelector(":checked").value === "old";
    this.clip.muted = muted || old;
    if (this.companion?.media) this.companion.media.muted = muted || !old;
    this.element.dataset.seen = old ? "before" : "after";
  }

  #show() {
    const { currentTime, duration, paused } = this.clip;
    const known = Number.isFinite(duration) && duration > 0;
    this.toggle.replaceChildren(icon(paused ? "play" : "pause"));
    this.toggle.setAttribute("aria-label", paused ? "Play" : "Pause");
    this.position.value = known ? String(currentTime / duration) : "0";
    this.position.setAttribute("aria-valuetext", `${currentTime.toFixed(1)} seconds`);
    this.time.textContent = `${clock(currentTime)} / ${known ? clock(duration) : "–"}`;
    this.spectrogram?.at(known ? currentTime / duration : 0);
  }

  #screen(content, words) {
    return h("figure", { class: "screen" }, content, words && h("figcaption", {}, words));
  }

  /** The upload, played along with the clip. `media` is null if it can only be shown. */
  #companion(output) {
    const { input, urls } = this.job;
    if (!input || !urls.input) return null;
    if (this.#edited) {
      const media = video(urls.input, `Before: ${input.filename}`);
      return { element: media, media, start: -(this.job.params.extend?.before ?? 0), words: "Before" };
    }
    const { start, duration } = input.used;
    const words = `Yours: ${input.filename}, ${start.toFixed(1)} – ${(start + duration).toFixed(1)} s`;
    if (input.video) {
      const media = video(urls.input, words);
      return { element: media, media, start, words };
    }
    const media = h("audio", { src: urls.input, preload: "auto" });
    const wave = h("canvas", { class: "own-wave", role: "img", "aria-label": "Waveform of your sound" });
    this.#drawOwn(wave, output);
    return { element: h("div", { class: "own-sound" }, wave, media), media, start, words };
  }

  /** audio.wav of an a2v job is the user's own sound, cut to the part that was used. */
  async #drawOwn(canvas, output) {
    try {
      const pairs = await waveformOf(output.files["audio.wav"], PAIRS, this.#stop.signal);
      const draw = () => drawWaveform(canvas, pairs);
      const observer = new ResizeObserver(draw);
      observer.observe(canvas);
      this.#stop.signal.addEventListener("abort", () => observer.disconnect());
    } catch (error) {
      if (error.name !== "AbortError")
        canvas.replaceWith(h("p", { class: "quiet" }, "The waveform cannot be drawn here."));
    }
  }

  #soundChoice() {
    if (!this.companion) return null;
    const silent = !this.job.input.audio && !this.#edited;
    const [old, made] = this.#edited
      ? ["Before", "After"]
      : ["Your sound", this.job.kind === "a2v" ? "In the clip" : "New sound"];
    const name = `sound-${this.job.id}`;
    const radio = (value, words, attributes) =>
      h(
        "label",
        { class: "segment" },
        h("input", { type: "radio", name, value, onchange: () => this.#listen(), ...attributes }),
        h("span", {}, words),
      );
    return h(
      "fieldset",
      { class: "segments sound-choice" },
      h("legend", { class: "hidden" }, this.#edited ? "Which film is seen and heard" : "Which sound is heard"),
      radio("old", old, { disabled: silent, title: silent && "Your video has no sound" }),
      radio("new", made, { checked: true }),
    );
  }

  #pressed(symbol, words, on, then = () => {}) {
    const flip = (event) => {
      const now = event.currentTarget.getAttribute("aria-pressed") !== "true";
      event.currentTarget.setAttribute("aria-pressed", String(now));
      then();
    };
    return h(
      "button",
      { type: "button", class: "toggle", "aria-label": words, title: words, "aria-pressed": String(on), onclick: flip },
      icon(symbol),
    );
  }
}

function video(source, words) {
  return h("video", { src: source, playsinline: true, preload: "auto", "aria-label": words });
}
