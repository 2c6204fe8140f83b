/** The form: how to start, with which parameters; and sending it. */

import { api, Problem, upload } from "./api.js";
import { costWords } from "./cost.js";
import { h } from "./dom.js";
import { differenceWords } from "./difference.js";
import { kindOf } from "./drop.js";
import { Edit } from "./edit.js";
import { control } from "./fields.js";
import { lengthOf } from "./length.js";
import { announce, asProblem, problemBox } from "./notices.js";
import { Once } from "./once.js";
import { picker, Source } from "./source.js";
import { bytes, KINDS, label } from "./words.js";

const OPEN = ["model", "prompt", "start", "duration", "seed", "num_outputs", "quality"];

/** Parameters that only go with a certain value of another one. */
const ONLY_WITH = {
  order: (values) => values.sampler === "dpm_solver",
  eta: (values) => values.sampler === "ddim",
  sr_sampler: (values) => values.super_resolution !== false,
  sr_steps: (values) => values.super_resolution !== false,
  sr_start: (values) => values.super_resolution !== false && (values.sr_sampler ?? "dpmpp_2m") === "dpmpp_2m",
  start: (_, kind) => kind !== "edit",
  duration: (_, kind) => kind !== "edit",
  negative_prompt: (values) => values.prompt !== undefined,
  prompt_scale: (values) => values.prompt !== undefined,
  guidance_scale: (values, kind) => kind !== "generate" || values.guidance !== undefined,
};

/** Parameters of an edit whose new sound meets the film's own. */
const MIXING = ["mix", "loudness", "true_peak"];

/** Parameters of models that know words. */
const WORDS = ["prompt", "negative_prompt", "prompt_scale"];

/** The form of the page. `limits` as readLimits gives them, `models` as /models does; `onJob(job)` once one is made. */
export class Composer {
  #controls = new Map();
  #kind = "generate";
  #sending = null;
  #once = new Once();

  constructor(form, models, limits, onJob) {
    this.form = form;
    this.models = models;
    this.limits = limits;
    this.onJob = onJob;
    this.problems = form.querySelector("#composer-problem");
    this.cost = form.querySelector("#cost");
    this.submit = form.querySelector("#submit");
    this.source = new Source(form.querySelector("#source"), {
      remove: () => {
        this.edit.reset();
        this.setKind("generate");
      },
      part: (start, end) => this.#choosePart(start, end),
      duration: () => this.#follow(),
    });
    this.edit = new Edit(form.querySelector("#edit"), () => this.#controls.size && this.#follow());
    form.querySelector("#kind-edit").hidden = !limits.edit;
    form.querySelector("#pickers").append(
      picker("Choose a video", "film", `video/*,${limits.v2a.accept}`, (file) =>
        this.setFile(file, this.#kind === "edit" ? "edit" : "v2a"),
      ),
      picker("Choose a sound", "wave", `audio/*,${limits.a2v.accept}`, (file) =>
        this.setFile(file, kindOf(file) && "a2v"),
      ),
    );
    for (const radio of form.elements.kind) radio.addEventListener("change", () => this.#choose(radio.value));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    form.querySelector("#stop-upload").addEventListener("click", () => this.#sending?.abort());
    this.setKind("generate");
  }

  /** Choose how to start. Without a file for it, the form asks for one. */
  setKind(kind) {
    if (kind === "generate") this.source.show(null);
    const kept = this.#values();
    this.#kind = kind;
    this.form.elements.kind.value = kind;
    this.form.dataset.kind = kind;
    this.submit.querySelector("span").textContent = KINDS[kind].make;
    this.#clearProblems();
    this.#build(kept);
  }

  /** Put a part of the upload into the fields. One that ends with the upload needs no duration. */
  #choosePart(start, end) {
    const most = this.#model().max_duration;
    const toEnd = end === null || (end >= this.source.duration && end - start <= most);
    this.#controls.get("start").value = start;
    if (end !== null)
      this.#controls.get("duration").value = toEnd ? undefined : Math.round(Math.min(end - start, most) * 100) / 100;
    this.#follow();
  }

  /** Take what /models says now. */
  refresh(models) {
    this.models = models;
    this.#follow();
  }

  #choose(kind) {
    // A sound file can only start a2v; a video can start v2a or a2v.
    if (kind !== "a2v" && this.source.file && kindOf(this.source.file) === "a2v") this.source.show(null);
    this.setKind(kind);
  }

  /** Begin with `file`; as a job of `kind`, or of the one that the file looks like. */
  setFile(file, kind = null) {
    this.edit.reset();
    this.source.show(file);
    const likely = kind ?? kindOf(file) ?? (this.#kind === "generate" ? "v2a" : this.#kind);
    this.setKind(likely === "v2a" && this.#kind === "edit" ? "edit" : likely);
    announce(`${file.name} is chosen.`);
  }

  /** Fill in what a job was made with; `file` and `mask`: its uploads, null where it had none. */
  fill(kind, model, parameters, { file, mask }) {
    this.source.show(file);
    this.setKind(kind);
    if (kind === "edit") this.edit.fill(parameters, mask);
    for (const each of this.#controls.values()) each.value = { model, ...parameters }[each.name];
    this.#follow();
    this.form.scrollIntoView({ block: "start" });
    this.submit.focus({ preventScroll: true });
  }

  /** Check what was entered, and send it. */
  async send() {
    if (this.#sending) return;
    this.#clearProblems();
    const wrong = this.#check();
    if (wrong) {
      this.#show(wrong);
      return;
    }
    const unfinished = this.#kind === "edit" ? this.edit.check() : null;
    if (unfinished) {
      unfinished.focus();
      return;
    }
    const parameters = { ...this.#shownValues(), ...(this.#kind === "edit" && this.edit.value) };
    this.#sending = new AbortController();
    this.#busy(true);
    try {
      const job = await this.#post(parameters, this.#sending.signal);
      this.#once.answered();
      this.onJob(job);
    } catch (error) {
      if (error.status >= 400 && error.status < 500 && error.status !== 409) this.#once.answered();
      if (error.name !== "AbortError") this.#show(asProblem(error));
      else announce("The upload was stopped.");
    } finally {
      this.#sending = null;
      this.#busy(false);
    }
  }

  #post(parameters, signal) {
    if (this.#kind === "generate") return api.generate(parameters, this.#once.key("generate", parameters, null));
    const files = { file: this.source.file, mask: this.#kind === "edit" ? this.edit.mask : null };
    const key = this.#once.key(this.#kind, parameters, files.file, files.mask);
    return upload(this.#kind, files, parameters, (sent, total) => this.#sent(sent, total), signal, key);
  }

  #build(kept) {
    const before = this.#controls;
    this.#controls = new Map(
      this.limits[this.#kind].fields.map((field) => [field.name, control(field, (changed) => this.#follow(changed))]),
    );
    const model = this.#controls.get("model");
    model.offer(this.models.map(({ name }) => name));
    model.value = kept.model ?? this.models.find((each) => each.default)?.name;
    for (const [name, each] of this.#controls)
      if (before.has(name) && name !== "model" && name !== "start") each.value = kept[name];
    const place = (id, chosen) => this.form.querySelector(id).replaceChildren(...chosen.map((each) => each.element));
    const all = [...this.#controls.values()];
    place("#fields-open", OPEN.map((name) => this.#controls.get(name)).filter(Boolean));
    place(
      "#fields-more",
      all.filter(({ name }) => !OPEN.includes(name)),
    );
    this.#follow();
  }

  /** Let the controls follow the model and each other. */
  #follow(changed) {
    const model = this.#model();
    if (!changed || changed.name === "model") {
      this.#controls.get("sampler")?.offer(model.samplers);
      this.#controls.get("guidance")?.offer(model.guidance[this.#kind] ?? []);
      this.#controls.get("prompt")?.offer(model.text?.examples ?? []);
      this.#aboutModel(model);
    }
    const values = this.#values();
    const enlarges = model.resolutions.some((size) => size.super_resolution);
    for (const [name, each] of this.#controls) {
      let shown = ONLY_WITH[name]?.(values, this.#kind) ?? true;
      if (name === "super_resolution" || name.startsWith("sr_")) shown &&= enlarges;
      if (MIXING.includes(name) && this.#kind === "edit") shown &&= this.edit.mixes;
      if (WORDS.includes(name)) shown &&= Boolean(model.text);
      if (name.startsWith("guidance")) shown &&= (model.guidance[this.#kind] ?? []).length > 0;
      each.shown = shown;
    }
    this.#controls.get("quality")?.remark(differenceWords(this.#kind, this.#shownValues(), model));
    const enlarged = enlarges && this.#controls.get("super_resolution")?.value === true;
    this.#followLength(values, model, enlarged);
  }

  /** Show which part is used, what becomes of it, and how long that takes. `enlarged`: with super-resolution. */
  #followLength(values, model, enlarged) {
    this.edit.most = model.max_duration;
    this.edit.show(this.#kind === "edit", this.source);
    if (this.#kind === "edit") {
      this.#followEdit(values, model, enlarged);
      return;
    }
    const length = lengthOf(values, model, this.#kind === "generate" ? null : this.source.duration);
    for (const name of ["start", "duration"]) this.#controls.get(name)?.refuse(length.problems[name]);
    this.source.mark(length);
    const known = this.#kind === "generate" || this.source.duration !== null;
    const wrong = Object.keys(length.problems).length > 0 || values.steps === 0 || !values.num_outputs;
    this.#showCost(known && !wrong, () => costWords(this.#kind, length.made, values, model, enlarged));
  }

  /** An edit makes its new seconds and something around them. */
  #followEdit(values, model, enlarged) {
    const extent = this.edit.extent();
    const section = extent + 2 * model.clip.duration; // a window on each side is seen too
    const known = extent > 0 && values.steps !== 0 && Boolean(values.num_outputs);
    this.#showCost(known, () => ({
      made: `${this.edit.made().toFixed(1)} s anew`,
      time: costWords("edit", section, values, model, enlarged && this.edit.draws).time,
    }));
  }

  #showCost(known, words) {
    this.cost.hidden = !known;
    if (!known) return;
    const { made, time } = words();
    this.cost.replaceChildren(
      h("span", {}, `Makes ${made}`),
      h("span", {}, time ?? "The time is known after the first clip of this kind."),
    );
  }

  #aboutModel(model) {
    const { clip } = model;
    const sizes = model.resolutions.map(({ width, height }) => `${width}×${height}`).join(" or ");
    const kilohertz = clip.sample_rate / 1000;
    const facts = `${clip.duration} s · ${sizes} · ${clip.frames} frames · ${kilohertz} kHz · ${model.licence}`;
    this.#controls.get("model").hint.replaceChildren(h("span", { title: model.description }, facts));
    const untrained = document.getElementById("untrained");
    untrained.hidden = model.trained;
    untrained.querySelector("strong").textContent = `The model ${model.name} is untrained:`;
  }

  #model() {
    const name = this.#controls.get("model").value;
    return this.models.find((model) => model.name === name) ?? this.models[0];
  }

  #values() {
    return Object.fromEntries([...this.#controls].map(([name, each]) => [name, each.value]));
  }

  #shownValues() {
    const shown = [...this.#controls].filter(([, each]) => each.shown && each.value !== undefined);
    return Object.fromEntries(shown.map(([name, each]) => [name, each.value]));
  }

  /** Client-side validation error in the format of the service, or null. */
  #check() {
    if (this.#kind !== "generate" && !this.source.file) {
      const what = this.#kind === "a2v" ? "a sound, or a video whose sound is used" : "a video";
      return new Problem(422, { code: "missing_file", detail: `Choose ${what} first.` });
    }
    const errors = [...this.#controls.values()]
      .filter((each) => each.shown && each.problem())
      .map((each) => ({ field: each.name, got: each.input.value, allowed: each.problem() }));
    const names = errors.map(({ field }) => label(field)).join(", ");
    return errors.length
      ? new Problem(422, { code: "invalid_parameter", detail: `Invalid value: ${names}.`, errors })
      : null;
  }

  #show(problem) {
    const mine = problem.errors
      .map((error) => ({ ...error, field: error.field?.replace(/^mix\..*/, "mix") }))
      .filter(({ field }) => this.#controls.has(field));
    for (const { field, allowed } of mine) this.#controls.get(field).fail(allowed);
    const edits = this.#kind === "edit" ? problem.errors.filter(({ field }) => this.edit.has(field)) : [];
    const [edited] = edits.map(({ field, allowed }) => this.edit.fail(field, allowed));
    const folded = this.form.querySelector("details");
    if (mine.some(({ field }) => !OPEN.includes(field))) folded.open = true;
    const box = problemBox(
      problem,
      [...mine, ...edits].map(({ field }) => field),
    );
    this.problems.replaceChildren(box);
    const target = edited ?? (mine.length ? this.#controls.get(mine[0].field).input : box);
    target.focus();
  }

  #clearProblems() {
    this.problems.replaceChildren();
    for (const each of this.#controls.values()) each.fail("");
  }

  #busy(on) {
    this.submit.disabled = on;
    this.form.setAttribute("aria-busy", String(on));
    const progress = this.form.querySelector("#upload");
    progress.hidden = !on || this.#kind === "generate";
    if (on && this.source.file) this.#sent(0, this.source.file.size);
  }

  #sent(sent, total) {
    const all = sent >= total;
    const bar = this.form.querySelector("#upload progress");
    bar.max = total || 1;
    bar.value = Math.min(sent, total);
    this.form.querySelector("#upload-words").textContent = all
      ? "Looking at the file…"
      : `${bytes(sent)} of ${bytes(total)} sent`;
  }
}
