/** How well sound and picture of an output agree: a line for each output, and what the scores mean. */

import { h } from "./dom.js";

/** Scores by their name in the API: `label`, what it `means`, and a value in words. */
const SCORES = {
  sync: {
    label: "Sync",
    means: "onsets that are heard and changes of motion that are seen within a frame of each other: from 0 to 1, the best",
    words: (value) => value.toFixed(2),
  },
  av_align: {
    label: "AV-Align",
    means: "the same for onsets and peaks of any motion: from 0 to 1, the best",
    words: (value) => value.toFixed(2),
  },
  lag: {
    label: "Lag",
    means: "how late the sound is where it fits the motion best: 0 s is the best",
    words: (value) => (value === 0 ? "0 s" : `${Math.abs(value).toFixed(2)} s ${value > 0 ? "late" : "early"}`),
  },
};

/** The score `name` of an output in words, such as `Sync 0.80`; null where it cannot be said. */
export function scoreWords(output, name) {
  const value = output.scores?.[name];
  return value === null || value === undefined ? null : `${SCORES[name].label} ${SCORES[name].words(value)}`;
}

/** The scores of `output`, those of the outputs that `job` dropped, and their meaning; null if there are none. */
export function scoreBox(job, output) {
  const line = scoreLine(output);
  const dropped = job.dropped ?? [];
  if (!line && dropped.length === 0 && !output.scores_reason) return null;
  return h(
    "div",
    { class: "scores" },
    line ?? h("p", { class: "quiet" }, noScores(output)),
    h(
      "details",
      {},
      h("summary", {}, dropped.length ? `Scores, and ${dropped.length} not kept` : "What these mean"),
      dropped.length > 0 &&
        h(
          "ul",
          { "aria-label": "Outputs that were not kept" },
          dropped.map((each) => h("li", {}, `Output ${each.index + 1}: `, scoreLine(each) ?? noScores(each))),
        ),
      h(
        "dl",
        {},
        Object.values(SCORES).flatMap(({ label, means }) => [h("dt", {}, label), h("dd", {}, `${means}.`)]),
      ),
    ),
  );
}

/** Why an output has no scores. */
function noScores(output) {
  return output.scores_reason ? `No scores: ${output.scores_reason}` : "No scores";
}

/** A line of the scores that can be said; null without any. */
function scoreLine(output) {
  const known = Object.keys(SCORES).filter((name) => scoreWords(output, name) !== null);
  if (known.length === 0) return null;
  return h(
    "span",
    { class: "score-line" },
    known.map((name) => h("span", { title: SCORES[name].means }, scoreWords(output, name))),
  );
}
