/** The open job: waiting, running, finished. */

import { api, fetchFile } from "./api.js";
import { cancelButton, deleteButton, outputActions, retryButton } from "./actions.js";
import { Credentials } from "./credentials.js";
import { h, icon } from "./dom.js";
import { ended, follow } from "./events.js";
import { announce, asProblem, problemBox } from "./notices.js";
import { Player } from "./player.js";
import { Emerging } from "./preview.js";
import { ProgressView } from "./progress.js";
import { scoreBox, scoreWords } from "./scores.js";
import { advice, ago, KINDS, STATUS } from "./words.js";

/** `place`: the element to fill; `page` as actions.js wants it; `models` for what their clips are. */
export class Stage {
  #following = new AbortController();
  #player = null;
  #emerging = null;
  #shown = null;
  #credentials = null;

  constructor(place, models, page) {
    this.place = place;
    this.models = models;
    this.page = { ...page, fail: (problem) => this.#trouble(problem), update: (job) => this.#take(job) };
    this.empty = [...place.children];
    this.job = null;
  }

  /** Open the job with this id; `output`: index of the one to be played. */
  async open(id, output = 0) {
    this.close();
    const { signal } = this.#following;
    this.chosen = output;
    this.place.replaceChildren(h("p", { class: "quiet", "aria-busy": "true" }, "Loading…"));
    try {
      await this.#show(await api.job(id, { signal }), signal);
    } catch (error) {
      if (error.name === "AbortError") return;
      const problem = asProblem(error);
      this.place.replaceChildren(problemBox(problem));
    }
  }

  /** Show a job that is known already. */
  show(job) {
    this.close();
    this.chosen = 0;
    return this.#show(job, this.#following.signal);
  }

  /** Show nothing. */
  close() {
    this.#following.abort();
    this.#following = new AbortController();
    this.#clear();
    this.job = this.#shown = null;
    this.place.replaceChildren(...this.empty);
    document.title = "Duet studio";
  }

  /** Move the focus to the job's heading, for users of screen readers. */
  focus() {
    this.place.querySelector("h2")?.focus({ preventScroll: true });
    this.place.scrollIntoView({ block: "start" });
  }

  async #show(job, signal) {
    this.#take(job);
    if (ended(job)) return;
    const here = (tell) => (content) => !signal.aborted && tell(content);
    await follow(
      job,
      {
        job: here((now) => this.#take(now)),
        progress: here((progress) => this.#progress(progress)),
        preview: here((preview) => this.#preview(preview)),
        gone: here(() => this.page.leave(this.job)),
        connection: here((problem) => this.#trouble(problem)),
      },
      signal,
    );
  }

  /** Take the current job; redraw it if its state has changed. */
  #take(job) {
    this.job = job;
    const state = `${job.status} ${job.outputs.length}`;
    if (this.#shown !== state) {
      const first = this.#shown === null;
      this.#shown = state;
      this.#clear();
      if (ended(job)) this.#drawEnd(job, first);
      else this.#drawRunning(job);
      this.page.changed(job);
    }
    if (!ended(job)) this.#progress(job);
    else document.title = `${STATUS[job.status]} · Duet studio`;
  }

  #progress(progress) {
    Object.assign(this.job, progress);
    this.progress?.show(this.job);
    const percent = this.job.status === "queued" ? "Waiting" : `${Math.round(this.job.progress * 100)} %`;
    document.title = `${percent} · Duet studio`;
  }

  #preview(preview) {
    if (preview.attempt < this.job.attempt) return; // of an earlier attempt
    this.#emerging?.show(preview);
  }

  #drawRunning(job) {
    const model = this.models.find(({ name }) => name === job.model);
    const { start, duration } = job.input?.used ?? {};
    const own = job.kind === "v2a" ? `${job.urls.input}#t=${start},${start + duration}` : null;
    this.progress = new ProgressView(job.kind);
    this.#emerging = new Emerging(model?.clip.fps ?? 10, own);
    this.#draw(job, [
      this.progress.element,
      this.#emerging.element,
      h("div", { class: "row end" }, cancelButton(job, this.page)),
    ]);
  }

  #drawEnd(job, first) {
    this.progress = null;
    if (job.status === "completed") this.#drawOutputs(job);
    else this.#drawNothing(job);
    if (!first) announce(`${KINDS[job.kind].title}: ${STATUS[job.status]}.`);
  }

  #drawNothing(job) {
    const words = job.error
      ? h(
          "div",
          { class: "problem" },
          icon("alert"),
          h(
            "div",
            {},
            h("p", { class: "problem-what" }, `The job failed: ${job.error.message}.`),
            h("p", {}, advice(job.error)),
          ),
        )
      : h("p", { class: "quiet" }, "The job was canceled; no results were kept.");
    this.#draw(job, [words, h("div", { class: "row end" }, retryButton(job, this.page))]);
  }

  #drawOutputs(job) {
    const output = job.outputs.find(({ index }) => index === this.chosen) ?? job.outputs[0];
    this.#player = new Player(job, output, () => this.#renew());
    this.#credentials = new Credentials((signal) => fetchFile(output.files["video.mp4"], "video.mp4", signal));
    const grid =
      job.outputs.length > 1 &&
      h(
        "ul",
        { class: "outputs", "aria-label": "Outputs" },
        job.outputs.map((each) => h("li", {}, this.#outputTile(each, each === output))),
      );
    this.#draw(job, [
      this.#player.element,
      scoreBox(job, output),
      grid,
      outputActions(job, output, this.page),
      facts(job, output, this.#credentials.element),
    ]);
  }

  #outputTile(output, current) {
    const poster = output.files["poster.webp"];
    const score = scoreWords(output, this.job.params.rank_by ?? "sync");
    const choose = () => {
      this.chosen = output.index;
      this.#clear();
      this.#drawOutputs(this.job);
      this.page.changed(this.job);
      this.place.querySelector(".outputs [aria-pressed=true]").focus();
    };
    const picture = poster
      ? h("img", { src: poster, alt: "", loading: "lazy" })
      : h("video", {
          src: `${output.files["video.mp4"]}#t=0.1`,
          preload: "metadata",
          playsinline: true,
          tabindex: "-1",
          "aria-hidden": "true",
        });
    return h(
      "button",
      { type: "button", class: "output", "aria-pressed": String(current), onclick: choose },
      picture,
      h("span", {}, `Output ${output.index + 1}`),
      score && h("span", { class: "quiet" }, score),
    );
  }

  /** Fetch the job again: its signed URLs have expired, and it has new ones. */
  async #renew() {
    if (this.renewed === this.job.id) return;
    this.renewed = this.job.id;
    const { signal } = this.#following;
    try {
      const job = await api.job(this.job.id, { signal });
      this.#shown = null;
      this.#take(job);
    } catch (error) {
      if (error.name !== "AbortError") this.#trouble(asProblem(error));
    }
  }

  #draw(job, content) {
    const { title, symbol } = KINDS[job.kind];
    const chip = h("span", { class: `chip ${job.status}` }, STATUS[job.status]);
    const when = h(
      "time",
      { datetime: job.created_at, title: new Date(job.created_at).toLocaleString() },
      ago(job.created_at),
    );
    const notice = job.input?.used?.notice;
    const focused = this.place.contains(document.activeElement);
    this.trouble = h("div", {});
    this.place.replaceChildren(
      h(
        "header",
        { class: "stage-head" },
        icon(symbol),
        h("h2", { tabindex: "-1" }, title),
        chip,
        h("p", { class: "quiet" }, when, ` · ${job.model}`),
        deleteButton(job, this.page),
      ),
      this.trouble,
      ...[promptWords(job), notice && h("p", { class: "quiet" }, notice), ...content].filter(Boolean),
    );
    // The focused element is gone: move the focus to the job for keyboard and screen-reader users.
    if (focused) this.place.querySelector("h2").focus({ preventScroll: true });
  }

  #trouble(problem) {
    if (problem) this.trouble?.replaceChildren(problemBox(problem));
    else this.trouble?.replaceChildren();
  }

  #clear() {
    this.#player?.close();
    this.#emerging?.stop();
    this.#credentials?.close();
    this.#player = this.#emerging = this.#credentials = null;
  }
}

/** What the job's prompt says; null without one. */
function promptWords({ params }) {
  if (!params.prompt) return null;
  const away = params.negative_prompt && h("span", { class: "quiet" }, ` not: ${params.negative_prompt}`);
  return h("p", { class: "prompt" }, `“${params.prompt}”`, away);
}

/** How the clip was made, folded away, with a check of its `credentials`. */
function facts(job, output, credentials) {
  const { queued, decode, base, sr, encode, upload } = job.timings ?? {};
  const made = job.timings && (decode + base + sr + encode + upload).toFixed(1);
  const rows = [
    ["Seed", output.index ? `${job.params.seed}, output ${output.index}` : job.params.seed],
    ...Object.entries(job.params).filter(([name]) => name !== "seed"),
    job.timings && ["Time", `${made} s after ${queued.toFixed(1)} s in the queue`],
    ["Kept until", new Date(job.expires_at).toLocaleString()],
    ["Job", job.id],
  ].filter(Boolean);
  return h(
    "details",
    { class: "facts" },
    h("summary", {}, h("span", {}, "How it was made"), h("code", { class: "seed" }, `seed ${output.seed}`)),
    h(
      "dl",
      {},
      rows.map(([name, value]) => [h("dt", {}, name.replaceAll("_", " ")), h("dd", {}, written(value))]).flat(),
    ),
    credentials,
  );
}

/** A parameter in words; one with parts as `own -6, new 2.5`. */
function written(value) {
  if (typeof value !== "object" || value === null) return String(value);
  if (Array.isArray(value)) return value.map(written).join(Array.isArray(value[0]) ? ", " : "–");
  const parts = Object.entries(value).filter(([, part]) => part !== null);
  return parts.map(([name, part]) => `${name} ${written(part)}`).join(", ");
}
