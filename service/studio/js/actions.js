/** Actions on a finished output or job. */

import { api, fetchFile, Problem, upload } from "./api.js";
import { curl } from "./curl.js";
import { confirmed, copied } from "./dialogs.js";
import { button, h, icon } from "./dom.js";
import { note } from "./notices.js";

const FILES = [
  ["video.mp4", "Video"],
  ["audio.wav", "Sound"],
  ["audio-new.wav", "New sound alone"],
  ["poster.webp", "Poster"],
  ["spectrogram.png", "Spectrogram"],
  ["manifest.json", "Manifest"],
];

/**
 * The row of buttons of one output. `page`: `{url(job, output), openJob(job), fill(job, files), fail(problem)}`.
 * @returns {HTMLElement}
 */
export function outputActions(job, output, page) {
  const stem = `${job.id}${output.index ? `-${output.index}` : ""}`;
  const [main, ...others] = FILES.filter(([name]) => output.files[name]);
  const link = ([name, words], attributes) =>
    h(
      "a",
      { href: output.files[name], download: `${stem}-${name}`, ...attributes },
      icon("download"),
      h("span", {}, attributes ? "Download" : words),
    );
  return h(
    "div",
    { class: "row actions" },
    main && link(main, { class: "button primary" }),
    others.length > 0 &&
      h(
        "details",
        { class: "menu" },
        h("summary", { class: "button" }, "Files"),
        h(
          "div",
          { class: "menu-list" },
          others.map((file) => link(file)),
        ),
      ),
    button("Copy link", "link", () => copy(page.url(job, output), "Link to this clip")),
    button("Copy as curl", "code", () => copy(curl(job), "The command that repeats this job")),
    button("Use this seed", "repeat", (event) => guarded(event, page, () => reuse(job, page))),
    button("Vary", "dice", (event) => guarded(event, page, () => vary(job, page)), {
      title: "The same parameters, a new seed",
    }),
  );
}

/** Stop the job: a button. `onJob(job)` with its new state. */
export function cancelButton(job, page) {
  return button("Cancel", "close", (event) => guarded(event, page, async () => page.update(await api.cancel(job))));
}

/** Try a job again that failed or was canceled: the same parameters, the same seed. */
export function retryButton(job, page) {
  return button("Try again", "repeat", (event) => guarded(event, page, async () => page.openJob(await api.retry(job))));
}

/** Delete the job after confirmation. */
export function deleteButton(job, page) {
  const ask = async () => {
    const loss = "The job, its upload and its results are deleted permanently.";
    if (!(await confirmed("Delete this job?", loss, "Delete"))) return;
    await api.erase(job);
    note("The job is deleted.");
    page.leave(job);
  };
  const words = "Delete this job";
  const press = (event) => guarded(event, page, ask);
  return h(
    "button",
    { type: "button", class: "toggle", "aria-label": words, title: words, onclick: press },
    icon("trash"),
  );
}

async function copy(text, what) {
  if (await copied(text, what)) note(`${what}: copied.`);
}

async function reuse(job, page) {
  page.fill(job, await inputOf(job));
  note("The form is filled in with this seed.");
}

async function vary(job, page) {
  const { seed, ...parameters } = { model: job.model, ...job.params };
  const { file, mask } = await inputOf(job);
  const stop = new AbortController();
  const varied = file
    ? await upload(job.kind, { file, mask }, parameters, () => {}, stop.signal)
    : await api.generate(parameters);
  page.openJob(varied);
}

/** The uploads of a job as files that can be sent again: `{file, mask}`, null where it had none. */
async function inputOf(job) {
  return {
    file: job.input && (await fetchFile(job.urls.input, job.input.filename)),
    mask: job.urls.mask ? await fetchFile(job.urls.mask, "mask.png") : null,
  };
}

/** Run one action at a time and show its error. */
async function guarded(event, page, action) {
  const pressed = event.currentTarget;
  pressed.disabled = true;
  try {
    await action();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    page.fail(error);
  } finally {
    pressed.disabled = false;
  }
}
