/** Which part of the upload a job uses, and how long the clip becomes. The service has the same rules. */

import { framesOf } from "./cost.js";
import { clock } from "./words.js";

/**
 * For the form's `values`; `file`: seconds of the upload, null without one or if the browser does not know.
 * @returns `start` and `end` of the part that is used, `made`: seconds of the clip (undefined: one window), `problems`
 * in words by field, and `notice` if the service uses less than the rest of the upload.
 */
export function lengthOf({ start = 0, duration }, model, file) {
  const { clip, max_duration: most } = model;
  const oneLength = most === clip.duration;
  const problems = {};
  if (duration > most) {
    problems.duration = oneLength
      ? `The model ${model.name} makes clips of ${clip.duration} s only.`
      : `This service makes clips of at most ${most} s.`;
  }
  if (file === null) return { start, end: start, made: duration, problems, notice: null };
  const left = file - start;
  if (left <= 0) problems.start = `The file ends at ${clock(file)}: begin earlier.`;
  else if (duration > Math.max(framesOf(left, model) / clip.fps, clip.duration)) {
    problems.duration ??= `Only ${Math.floor(left * 100) / 100} s of the file are left after ${clock(start)}.`;
  }
  const used = Math.min(left, duration ?? most);
  const cut = duration === undefined && left > most;
  return {
    start,
    end: Math.min(file, start + used),
    made: duration ?? (oneLength ? clip.duration : Math.max(0, used)),
    problems,
    notice: cut ? `Only the first ${most} s of ${left.toFixed(1)} s are used: that is the limit here.` : null,
  };
}
