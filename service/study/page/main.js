/** The page of a study: an introduction, one clip at a time, the submission. A reload goes on at the first clip without
 * a vote. */

import { h, icon } from "../../studio/js/dom.js";
import { Clip } from "./clip.js";
import { Questions } from "./questions.js";
import { Refusal, keep, load, source, submit } from "./session.js";

/** What a study that cannot go on says, by status. */
const ENDS = {
  404: ["This link does not work", "It does not belong to a study. Check that it is complete, or ask for a new one."],
  410: ["This study is closed", "It accepts no more ratings. Thank you."],
};

const main = document.getElementById("main");
const count = document.getElementById("count");

let session = null;
let shown = null; // the clip that is open
const whole = new Set(); // ids of the clips that were played to the end

begin();

async function begin() {
  try {
    session = await load();
  } catch (error) {
    document.body.classList.add("ready");
    failed(error, begin);
    return;
  }
  document.body.classList.add("ready");
  if (session.submitted) thanks();
  else introduce();
}

function introduce() {
  const done = rated();
  const total = session.clips.length;
  const seen = done > 0;
  panel(
    seen ? "Welcome back" : "What to do",
    seen && h("p", {}, `You have rated ${done} of ${total} clips. Your ratings are saved.`),
    h(
      "ul",
      { class: "steps" },
      h("li", {}, `You see ${total} short clips. Play each one to its end, then answer four questions.`),
      h("li", {}, "Some clips are real, others are made by a machine. Judge what you see and hear."),
      h("li", {}, "Turn the sound on; use headphones if you can. Keep the volume the same for all clips."),
      h("li", {}, "Some clips may be checks: they show which answers to give."),
      h("li", {}, "You may stop at any time and go on later with the same link."),
    ),
    h("p", { class: "quiet" }, "Your ratings are stored with a random number, and nothing else about you."),
    h("button", { type: "button", class: "button primary wide", onclick: next }, seen ? "Go on" : "Start"),
  );
}

/** The first clip without a vote, or the end. */
function next() {
  const left = session.clips.findIndex((clip) => clip.vote === null);
  if (left < 0) finish();
  else open(left);
}

function open(index) {
  const clip = session.clips[index];
  shown?.close();
  announce("");
  const again = whole.has(clip.id) || clip.vote !== null;
  const hint = h("p", { class: "quiet", id: "hint" });
  const trouble = h("div");
  const onward = h("button", { type: "submit", class: "button primary" }, "Save and go on");
  const back = h("button", { type: "button", class: "button", onclick: () => open(index - 1), disabled: index === 0 });
  back.append("Back");
  const questions = new Questions(clip.vote, ready);
  shown = new Clip(source(clip), () => {
    whole.add(clip.id);
    questions.enable();
    ready();
    announce("You can answer now.");
  });
  if (again) questions.enable();

  function ready() {
    const enabled = !questions.element.disabled;
    onward.disabled = !(enabled && questions.answers());
    hint.textContent = enabled
      ? onward.disabled
        ? "Answer all four questions to go on."
        : ""
      : "Play the clip to its end. Then you can answer.";
  }

  async function save(event) {
    event.preventDefault();
    const answers = questions.answers();
    if (!answers || onward.disabled) return;
    onward.disabled = true;
    trouble.replaceChildren();
    try {
      clip.vote = await keep(clip, answers);
    } catch (error) {
      if (ended(error)) return;
      onward.disabled = false;
      trouble.replaceChildren(problem(error, "Your rating is not saved yet."));
      return;
    }
    if (index + 1 < session.clips.length && session.clips[index + 1].vote !== null) open(index + 1);
    else next();
  }

  ready();
  const ways = h("div", { class: "ways" }, back, onward);
  const form = h("form", { class: "panel", onsubmit: save }, questions.element, hint, trouble, ways);
  form.prepend(h("h2", { tabindex: "-1" }, `Clip ${index + 1} of ${session.clips.length}`), shown.element);
  show(form);
}

function finish() {
  const send = h("button", { type: "button", class: "button primary wide" }, "Submit");
  const trouble = h("div");
  send.addEventListener("click", async () => {
    send.disabled = true;
    trouble.replaceChildren();
    try {
      session = await submit();
      thanks();
    } catch (error) {
      if (ended(error)) return;
      send.disabled = false;
      trouble.replaceChildren(problem(error, "Your ratings are saved, but not submitted yet."));
    }
  });
  panel(
    "All clips are rated",
    h("p", {}, "Submit your ratings, or go back to change them. After that they cannot be changed."),
    trouble,
    send,
    h("button", { type: "button", class: "button", onclick: () => open(session.clips.length - 1) }, "Back"),
  );
}

function thanks() {
  panel("Thank you", h("p", {}, "Your ratings are submitted. You can close this page."));
}

/** Whether the study ended meanwhile, which the page then says. */
function ended(error) {
  if (!(error instanceof Refusal)) throw error;
  const [title, words] = ENDS[error.status] ?? [];
  if (title) panel(title, h("p", {}, words));
  return Boolean(title);
}

function failed(error, again) {
  if (ended(error)) return;
  panel(
    "The study cannot be loaded",
    problem(error, ""),
    h("button", { type: "button", class: "button primary wide", onclick: again }, "Try again"),
  );
}

function problem(error, words) {
  const lines = [words && h("p", { class: "problem-what" }, words), h("p", {}, error.message)];
  return h("div", { class: "problem", role: "alert" }, icon("alert"), h("div", {}, lines));
}

function panel(title, ...content) {
  shown?.close();
  shown = null;
  show(h("section", { class: "panel" }, h("h2", { tabindex: "-1" }, title), ...content));
}

/** Show the element; its heading gets the focus, so that a screen reader reads it and Tab goes on from there. */
function show(element) {
  const first = main.childElementCount === 0;
  main.replaceChildren(element);
  count.textContent = session ? `${rated()} of ${session.clips.length} rated` : "";
  if (!first) {
    element.querySelector("h2").focus();
    scrollTo(0, 0);
  }
}

function rated() {
  return session.clips.filter((clip) => clip.vote !== null).length;
}

function announce(words) {
  document.getElementById("announcer").textContent = words;
}
