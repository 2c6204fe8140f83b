/** Progress of a job: its place in the queue, then stage, step and time left. */

import { h } from "./dom.js";
import { announce } from "./notices.js";
import { seconds, stageWords } from "./words.js";

const SAY_EVERY = 0.25; // fraction between announcements to screen readers

/** A progress bar with text. */
export class ProgressView {
  #said = -1;

  constructor(kind) {
    this.kind = kind;
    this.words = h("p", { class: "progress-words", id: "progress-words" });
    this.detail = h("p", { class: "quiet progress-detail" });
    this.bar = h("progress", { max: 1, "aria-labelledby": "progress-words" });
    this.element = h(
      "div",
      { class: "progress" },
      h("div", { class: "progress-head" }, this.words, this.detail),
      this.bar,
    );
  }

  /** Show the progress of `job`, or of a `progress` event, which has the same fields. */
  show({
    status,
    stage,
    step,
    total_steps: total,
    progress,
    eta_seconds: eta,
    queue_position: ahead,
    waiting_for: reason,
    attempt,
    cancel_requested_at: stopping,
  }) {
    const waiting = status === "queued";
    if (waiting) {
      this.bar.removeAttribute("value");
      this.words.textContent = "Waiting in the queue";
      this.detail.textContent = reason
        ? reason.message
        : ahead === null ? "" : ahead === 0 ? "next in line" : `${ahead} ${ahead === 1 ? "job" : "jobs"} before it`;
    } else {
      this.bar.value = progress;
      this.words.textContent = stopping ? "Stopping" : stageWords(this.kind, stage);
      const parts = [
        stage && total && `step ${step} of ${total}`,
        `${Math.round(progress * 100)} %`,
        eta !== null && `about ${seconds(eta)} left`,
        attempt > 1 && `attempt ${attempt}`,
      ];
      this.detail.textContent = parts.filter(Boolean).join(" · ");
    }
    this.#say(waiting, progress);
  }

  #say(waiting, progress) {
    const part = waiting ? -0.5 : Math.floor(progress / SAY_EVERY) * SAY_EVERY;
    if (part === this.#said) return;
    this.#said = part;
    announce(`${this.words.textContent}. ${this.detail.textContent}`);
  }
}
