/** Earlier jobs, newest first. The service stores them, so they survive a reload and a restart. */

import { api } from "./api.js";
import { h, icon } from "./dom.js";
import { ended } from "./events.js";
import { asProblem, problemBox } from "./notices.js";
import { ago, KINDS, STATUS } from "./words.js";

const PAGE = 12;
const LOOK_AGAIN = 4000;
const LOOK_SELDOM = 10_000;

/** `kinds`: those that the service has; `onOpen(job)` when a job is chosen. */
export class Gallery {
  #jobs = new Map();
  #next = null;
  #timer = null;
  #current = null;
  #loaded = false;

  constructor(place, kinds, onOpen) {
    this.list = place.querySelector("#jobs");
    this.more = place.querySelector("#more-jobs");
    this.empty = place.querySelector("#no-jobs");
    this.problems = place.querySelector("#gallery-problem");
    this.kind = place.querySelector("#jobs-kind");
    for (const kind of kinds) this.kind.append(h("option", { value: kind }, KINDS[kind].title));
    this.kind.addEventListener("change", () => this.#restart());
    this.onOpen = onOpen;
    this.more.addEventListener("click", () => this.#loadMore());
    addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.refresh());
  }

  /** Fetch the newest jobs, including those created or deleted elsewhere. */
  async refresh() {
    clearTimeout(this.#timer);
    await this.#guarded(async () => {
      const kind = this.kind.value;
      const { data, next } = await api.jobs(PAGE, { kind });
      if (kind !== this.kind.value) return; // another kind was chosen meanwhile; its jobs are being fetched
      const oldest = data.at(-1)?.created_at;
      const older = next === null ? [] : [...this.#jobs.values()].filter((job) => job.created_at < oldest);
      if (older.length === 0) this.#next = next;
      this.#loaded = true;
      this.#jobs = new Map([...data, ...older].map((job) => [job.id, job]));
      this.#draw();
    });
    const busy = [...this.#jobs.values()].some((job) => !ended(job));
    this.#timer = setTimeout(() => this.#lookAgain(), busy ? LOOK_AGAIN : LOOK_SELDOM);
  }

  /** A job that is open elsewhere on the page has changed, or is new. */
  update(job) {
    if (this.kind.value && job.kind !== this.kind.value) return;
    const known = [...this.#jobs.values()].filter(({ id }) => id !== job.id);
    const all = [job, ...known].sort((one, other) => other.created_at.localeCompare(one.created_at));
    this.#jobs = new Map(all.map((each) => [each.id, each]));
    this.#draw();
  }

  /** Remove the card of a deleted job. */
  remove(id) {
    this.#jobs.delete(id);
    this.#draw();
  }

  /** Mark the job that is open; null for none. */
  mark(id) {
    this.#current = id;
    this.#draw();
  }

  /** Start again with the chosen kind. */
  #restart() {
    this.#jobs.clear();
    this.#next = null;
    this.#loaded = false;
    this.#draw();
    return this.refresh();
  }

  #lookAgain() {
    if (document.visibilityState === "visible") this.refresh();
  }

  async #loadMore() {
    this.more.disabled = true;
    await this.#guarded(async () => {
      const before = this.list.children.length;
      const kind = this.kind.value;
      const { data, next } = await api.jobs(PAGE, { after: this.#next, kind });
      if (kind !== this.kind.value) return;
      for (const job of data) this.#jobs.set(job.id, job);
      this.#next = next;
      this.#draw();
      this.list.children[before]?.querySelector("button").focus();
    });
    this.more.disabled = false;
  }

  async #guarded(fetching) {
    try {
      await fetching();
      this.problems.replaceChildren();
    } catch (error) {
      this.problems.replaceChildren(problemBox(asProblem(error)));
    }
  }

  /** Replace only the cards of changed jobs, so that pictures do not flicker and the focus stays. */
  #draw() {
    const before = new Map([...this.list.children].map((item) => [item.dataset.id, item]));
    const items = [...this.#jobs.values()].map((job) => {
      const state = `${job.status} ${job.outputs.length} ${job.id === this.#current} ${ago(job.created_at)}`;
      const old = before.get(job.id);
      if (old?.dataset.state === state) return old;
      const item = h("li", { "data-id": job.id, "data-state": state }, this.#card(job));
      const focused = old?.contains(document.activeElement);
      old?.replaceWith(item);
      if (focused) item.querySelector("button").focus();
      return item;
    });
    const same =
      items.length === this.list.children.length && items.every((item, at) => this.list.children[at] === item);
    if (!same) this.list.replaceChildren(...items);
    this.empty.hidden = items.length > 0 || !this.#loaded;
    this.empty.textContent = this.kind.value ? "No jobs of this kind." : "No jobs yet, or they have expired.";
    this.more.hidden = this.#next === null;
  }

  #card(job) {
    const { title, symbol } = KINDS[job.kind];
    const poster = job.outputs[0]?.files["poster.webp"];
    const picture = poster ? h("img", { src: poster, alt: "", loading: "lazy" }) : icon(symbol);
    const count = job.outputs.length > 1 && ` · ${job.outputs.length} outputs`;
    return h(
      "button",
      {
        type: "button",
        class: "card",
        "aria-current": job.id === this.#current && "true",
        onclick: () => this.onOpen(job),
      },
      h(
        "span",
        { class: "card-picture" },
        picture,
        job.status !== "completed" && h("span", { class: `chip ${job.status}` }, STATUS[job.status]),
      ),
      h("span", { class: "card-title" }, job.input?.filename ?? title),
      job.params.prompt && h("span", { class: "card-prompt", title: job.params.prompt }, job.params.prompt),
      h("span", { class: "quiet" }, job.input ? `${title} · ` : "", ago(job.created_at), count),
    );
  }
}
