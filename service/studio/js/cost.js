/** Length of the clip that a job makes, and the time that it takes. The formulas are those of /models. */

import { seconds } from "./words.js";

const ROUNDING = 1e-6;

/** Steps of super-resolution by sampler, where the form has neither a number nor a quality. */
export const SR_STEPS = { dpmpp_2m: 8, ddim: 25 };

/** Frames of a clip of `duration` seconds by `model`; undefined is one window. */
export function framesOf(duration, { clip }) {
  return duration === undefined ? clip.frames : Math.max(1, Math.ceil(duration * clip.fps - ROUNDING));
}

/** The most windows of `window` frames that a step evaluates for a clip of `frames`. */
export function windowsOf(frames, window) {
  return frames <= window ? 1 : 2 + Math.ceil((frames - window - 1) / (window - 1));
}

/** Whether a prompt guides, which takes two evaluations in some of the steps, or all. */
export function guidedByWords(values, model) {
  return Boolean(model.text) && values.prompt !== undefined && (values.prompt_scale ?? model.text.prompt_scale) !== 1;
}

/** Evaluations of a step on average. A scale below 1 guides in all steps. */
function forwardsOf(values, model) {
  if (!guidedByWords(values, model)) return 1;
  return (values.prompt_scale ?? model.text.prompt_scale) < 1 ? 2 : 1 + model.text.guided_share;
}

/** Seconds for a job of this kind with the form's `values`; null while the service has not measured one. */
export function costOf(kind, duration, values, model, enlarged) {
  const speed = model.speed?.[kind];
  if (!speed) return null;
  const frames = framesOf(duration, model);
  const chosen = (sampler) => model.qualities[values.quality ?? (sampler === "tuned" ? "fast" : "best")];
  const quality = chosen(values.sampler);
  const steps = (values.steps ?? quality.steps) * forwardsOf(values, model);
  let each = steps * windowsOf(frames, model.clip.frames) * speed.step + speed.files;
  if (enlarged) {
    if (speed.sr_step === null) return null;
    const enlarging = values.sr_steps ?? (values.sr_sampler === "ddim" ? SR_STEPS.ddim : chosen(values.sr_sampler).sr_steps);
    each += enlarging * Math.ceil(frames / model.clip.frames) * speed.sr_step;
  }
  return each * values.num_outputs;
}

/** What is made, in words: `3.2 s, 32 frames in 3 windows · about 40 s on this server`. */
export function costWords(kind, duration, values, model, enlarged) {
  const frames = framesOf(duration, model);
  const windows = windowsOf(frames, model.clip.frames);
  const made = `${(frames / model.clip.fps).toFixed(1)} s, ${frames} frames in ${windows === 1 ? "1 window" : `${windows} windows`}`;
  const time = costOf(kind, duration, values, model, enlarged);
  return { made, time: time === null ? null : `about ${seconds(Math.max(1, time))} on this server` };
}
