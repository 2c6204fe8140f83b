/** Assembles the studio page. The open job is part of the URL (`?job=…`), so a reload shows it again. */

import { api, onUnauthorized } from "./api.js";
import { Composer } from "./composer.js";
import { acceptDrops } from "./drop.js";
import { ended } from "./events.js";
import { Gallery } from "./gallery.js";
import { keyPanel } from "./keypanel.js";
import { readLimits } from "./limits.js";
import { asProblem, problemBox } from "./notices.js";
import { Stage } from "./stage.js";
import { themeSwitch } from "./theme-switch.js";

/** On narrow screens the form is above the clip; a link to a clip scrolls past it. */
const NARROW = matchMedia("(max-width: 61.99rem)");

const find = (id) => document.getElementById(id);

themeSwitch(find("theme"));
const keys = keyPanel(() => begin());
onUnauthorized(() => keys.ask());

let resume = null;

/** Fetch models and limits, then build the page. If the service requires a key, wait for it first. */
async function begin() {
  const trouble = find("start-problem");
  try {
    const [models, description] = await Promise.all([api.models(), api.description()]);
    trouble.replaceChildren();
    keys.settle();
    if (resume) resume();
    else resume = open(models, readLimits(description));
  } catch (error) {
    const problem = asProblem(error);
    if (problem.status === 401) return;
    const again = document.createElement("button");
    again.className = "button";
    again.textContent = "Try again";
    again.addEventListener("click", begin);
    trouble.replaceChildren(problemBox(problem), again);
  }
}

/** @returns {() => void} to call when a new key was entered: without one nothing was loaded */
function open(models, limits) {
  const gallery = new Gallery(find("gallery"), Object.keys(limits), (job) => visit(job.id, true));
  const running = new Set();
  const page = {
    url: (job, output) => pageUrl(job.id, output.index),
    openJob,
    changed(job) {
      gallery.update(job);
      if (!ended(job)) running.add(job.id);
      else if (running.delete(job.id)) learn(composer);
      const { id, output } = inAddress();
      if (id === job.id && output !== stage.chosen) history.replaceState(null, "", pageUrl(id, stage.chosen));
    },
    leave(job) {
      gallery.remove(job.id);
      history.pushState(null, "", pageUrl(null));
      gallery.mark(null);
      stage.close();
      find("stage").focus();
    },
    fill: (job, files) => composer.fill(job.kind, job.model, job.params, files),
  };
  const stage = new Stage(find("stage"), models, page);
  const composer = new Composer(find("composer"), models, limits, openJob);

  function openJob(job) {
    history.pushState(null, "", pageUrl(job.id));
    gallery.mark(job.id);
    stage.show(job);
    stage.focus();
  }

  async function visit(id, pushed) {
    if (pushed) history.pushState(null, "", pageUrl(id));
    gallery.mark(id);
    if (id) await Promise.race([stage.open(id, inAddress().output), drawn(find("stage"))]);
    else stage.close();
    if (pushed) stage.focus();
  }

  function look() {
    gallery.refresh();
    if (inAddress().id) visit(inAddress().id, false).then(() => NARROW.matches && stage.focus());
  }

  acceptDrops((file) => composer.setFile(file));
  addEventListener("popstate", () => visit(inAddress().id, false));
  document.body.classList.add("ready");
  look();
  return look;
}

/** A job has ended: its worker has measured how fast it is. */
async function learn(composer) {
  try {
    composer.refresh(await api.models());
  } catch (error) {
    asProblem(error); // the figures on the page stay
  }
}

/** Resolves when `place` has a heading: the job is shown, though it may still run. */
function drawn(place) {
  return new Promise((resolve) => {
    const observer = new MutationObserver(() => {
      if (!place.querySelector(".stage-head, .problem")) return;
      observer.disconnect();
      resolve();
    });
    observer.observe(place, { childList: true });
  });
}

function inAddress() {
  const query = new URLSearchParams(location.search);
  return { id: query.get("job"), output: Number(query.get("output") ?? 1) - 1 };
}

function pageUrl(id, output = 0) {
  const url = new URL(location.pathname, location.href);
  if (id) url.searchParams.set("job", id);
  if (id && output) url.searchParams.set("output", String(output + 1));
  return url.href;
}

begin();
