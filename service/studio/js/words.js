/** Texts of the page: job kinds, states, times, and advice for each problem. */

/** Kinds of job: `title` as a heading, `from` as a choice, `make` on the button. */
export const KINDS = {
  generate: { title: "Clip from nothing", from: "Nothing", make: "Make a clip", symbol: "spark" },
  v2a: { title: "Sound for a video", from: "A video", make: "Make its sound", symbol: "wave" },
  a2v: { title: "Video for a sound", from: "A sound", make: "Make its video", symbol: "film" },
  edit: { title: "Edited film", from: "An edit", make: "Make the edit", symbol: "cut" },
};

/** States of a job. */
export const STATUS = {
  queued: "Waiting",
  in_progress: "Running",
  completed: "Done",
  failed: "Failed",
  canceled: "Canceled",
};

/** The current stage of a job of this kind. */
export function stageWords(kind, stage) {
  if (stage === "sr") return "Enlarging the frames";
  if (stage !== "base") return "Getting ready";
  return {
    generate: "Drawing picture and sound",
    v2a: "Composing the sound",
    a2v: "Drawing the picture",
    edit: "Making the new parts",
  }[kind];
}

/** Labels of parameters; others use the API's name. */
export const LABELS = {
  model: "Model",
  seed: "Seed",
  num_outputs: "Outputs",
  keep: "Outputs to keep",
  rank_by: "Keep the best by",
  quality: "Quality",
  steps: "Steps",
  prompt: "Prompt",
  negative_prompt: "Negative prompt",
  prompt_scale: "Prompt strength",
  start: "Begin at",
  duration: "Length in seconds",
  sampler: "Sampler",
  spacing: "Step spacing",
  order: "Solver order",
  eta: "Noise added per step (eta)",
  guidance: "Guidance",
  guidance_scale: "Guidance strength",
  super_resolution: "Enlarge the frames",
  sr_sampler: "Super-resolution sampler",
  sr_steps: "Super-resolution steps",
  sr_start: "Super-resolution start",
  priority: "Priority",
  mix: "The file's own sound",
  loudness: "Loudness (LUFS)",
  true_peak: "True peak (dBTP)",
};

/** The label of a parameter. */
export function label(name) {
  return LABELS[name] ?? name.replaceAll("_", " ").replace(/^./, (letter) => letter.toUpperCase());
}

/** What the credentials of a file are worth: `title`, `words`, and how it looks. */
export const VERDICTS = {
  valid: {
    title: "Valid credentials",
    words: "The file is unchanged since it was signed by a trusted certificate.",
    mark: "good",
    symbol: "check",
  },
  untrusted: {
    title: "Untrusted credentials",
    words: "The file is unchanged since it was signed, but nobody vouches for the certificate: anyone can sign like this.",
    mark: "warn",
    symbol: "alert",
  },
  tampered: {
    title: "Tampered with",
    words: "The file or its credentials were changed after signing. Do not rely on what they say.",
    mark: "bad",
    symbol: "alert",
  },
  unreadable: {
    title: "Unreadable credentials",
    words: "The credentials are damaged, or too much work to read.",
    mark: "bad",
    symbol: "alert",
  },
  none: {
    title: "No credentials",
    words: "No signature says how the file was made. A model may have made it all the same.",
    mark: "plain",
    symbol: "seal",
  },
};

/** How much of a file a model made. */
export const GENERATED = { all: "all of it, by a model", part: "a part of it, by a model" };

/** Credentials that a file had when it was used for another one. */
export const SOURCE_CREDENTIALS = {
  valid: "it had valid credentials",
  untrusted: "it had untrusted credentials",
  tampered: "it had been tampered with",
  unreadable: "its credentials were unreadable",
  none: "it had no credentials",
};

const ACTIONS = {
  "c2pa.created": "Created",
  "c2pa.opened": "Opened",
  "c2pa.edited": "Edited",
  "c2pa.transcoded": "Converted",
  "c2pa.placed": "Placed",
  "c2pa.published": "Published",
};

/** Something that was done to a file; terms of others are shown as they are. */
export function actionWords({ action, description, when }) {
  const what = description ?? ACTIONS[action] ?? action ?? "Something unnamed";
  return when ? `${what}, ${new Date(when).toLocaleString()}` : what;
}

/** Advice by the code of a problem, or of a job's error. */
const ADVICE = {
  no_answer: "Check that Duet is running and that you are connected, then try again. Nothing you entered is lost.",

  // The request
  unauthorized: "Enter a key that this service knows.",
  cross_site: "Open this page at the service's own address. Behind a proxy, ask the operator to pass the host on.",
  unknown_host: "Open this page at localhost, or ask the operator to set DUET_PUBLIC_URL to this address.",
  invalid_parameter: "Correct the fields that are marked.",
  malformed: "Reload this page and try again; it may be older than the service.",
  not_found: "Reload this page and try again; it may be older than the service.",
  method_not_allowed: "Reload this page and try again; it may be older than the service.",
  http_error: "Reload this page and try again; it may be older than the service.",
  unknown_model: "Choose one of the models in the list. Reload the page if it is not up to date.",
  idempotency_in_progress: "The first request is still in progress. Wait a moment, then press the button again.",
  idempotency_key_reused: "Reload this page, then try again.",

  // The file
  missing_file: "Drop it on the page, or use the buttons above.",
  empty_file: "The file is empty. Choose another one.",
  too_large: "Cut the file shorter or export it smaller, then drop it again.",
  too_slow: "Your connection is slow. Try again, or export a smaller file.",
  unsupported_media:
    "Export it as MP4, MOV, WebM or MKV, or for sound as WAV, MP3, FLAC or OGG, then drop it again.",
  unsupported_media_type: "Reload this page and try again; it may be older than the service.",
  undecodable: "The file may be damaged. Try to play it; if it plays, export it again as MP4 or WAV.",
  no_video_track: "Choose a file with a picture, or make a video for its sound instead.",
  no_audio_track: "Choose a file with sound, or make a new sound for its video instead.",
  too_long: "Cut it to the part you want, then drop it again.",
  too_short: "Choose a longer file, or an earlier start.",
  too_many_pixels: "Export the video smaller, then drop it again.",

  // Limits
  rate_limited: "Wait a moment, then try again.",
  too_many_queued: "Wait until some of your jobs have finished, or cancel those you no longer need.",
  too_many_uploads: "Wait until one of your other uploads has finished, then try again.",
  too_many_streams: "Many clients are connected. Progress is shown with a delay until one leaves.",
  too_many_streams_of_key: "Close other tabs that show running jobs. Until then progress is shown with a delay.",
  queue_full: "Many jobs are waiting. Try again in a few minutes.",

  // The service
  queue_unavailable: "Try again in a moment. If the problem persists, ask the operator to check the queue.",
  store_timeout: "The service is busy. Try again in a moment.",
  storage_unavailable: "Try again in a moment. If the problem persists, ask the operator to check the storage.",
  storage_full: "Delete jobs you no longer need, or ask the operator to free space.",
  probe_unavailable: "Try again in a moment. If the problem persists, ask the operator to check the installation.",
  not_ready: "Wait until the job is done.",
  internal_error: "Try again. If it happens again, send the request id or the job's id to the operator.",

  // A job
  unknown_job: "It may belong to another key, or have been deleted.",
  unknown_file: "Open the job again to see which files it has.",
  range_not_satisfiable: "Reload this page, then try again.",
  job_failed: "A failed job has no files. Try it again.",
  job_canceled: "A canceled job has no files. Try it again.",
  gone: "Results are kept for a limited time. Make it again with the same seed.",
  upload_gone: "Drop the file again.",
  already_ended: "There is nothing left to cancel.",
  unreadable_record: "Another version of Duet wrote this job. Ask the operator; your other jobs are not affected.",
  models_refused: "Ask the operator to repair the model's folder, then reload again.",
  not_an_admin: "Ask the operator to reload the models.",
  model_unavailable: "No worker has this model. Choose another model, or ask the operator to start one that has it.",
  invalid_request: "The worker's model does not fit these parameters. Choose another model, or ask the operator.",
  input_missing: "Drop the file again.",
  not_signed: "Ask the operator to check the signing certificate and key, then try again.",
  undecodable_input: "The part that the job uses cannot be decoded. Export the file again, or begin elsewhere in it.",
  out_of_memory: "Try fewer outputs, or a smaller model.",
  worker_died: "Try other parameters: this job crashed its worker several times.",

  // A study
  unknown_study: "Ask the person who sent you the link for a new one.",
  study_closed: "There is nothing left to do. Thank you.",
  study_submitted: "There is nothing left to do. Thank you.",
  votes_missing: "Go back and judge the clips that are left.",
};

/** Advice by status, for answers without a code: a proxy's, or those of a connection that is refused. */
const ADVICE_BY_STATUS = {
  408: ADVICE.too_slow,
  413: ADVICE.too_large,
  431: "Clear this site's cookies, then try again.",
  502: "The service is down or restarting. Try again in a moment.",
  503: "The service is overloaded or restarting. Try again in a moment.",
  504: "The service took too long to answer. Try again in a moment.",
};

/** Advice for a problem. */
export function advice({ code, status, retryAfter }) {
  const wait = retryAfter > 5 ? ` Try again in ${retryAfter} s.` : "";
  const words = ADVICE[code] ?? ADVICE_BY_STATUS[status] ?? "Try again. If it happens again, change the request.";
  return words + wait;
}

/** A duration: `4 s`, `1 min 20 s`. */
export function seconds(value) {
  const whole = Math.max(0, Math.round(value));
  if (whole < 60) return `${whole} s`;
  return whole % 60 && whole < 600 ? `${Math.floor(whole / 60)} min ${whole % 60} s` : `${Math.round(whole / 60)} min`;
}

/** The length of a file: `7.8 s`, `1 min 20 s`. */
export function lengthWords(value) {
  return value < 59.95 ? `${value.toFixed(1)} s` : seconds(value);
}

/** Rounded to tenths of a second. */
export function tenths(value) {
  return Math.round(value * 10) / 10;
}

/** A position in a clip: `0:01.6`. */
export function clock(value) {
  const tenths = Math.floor(value * 10 + 1e-6);
  return `${Math.floor(tenths / 600)}:${String(Math.floor(tenths / 10) % 60).padStart(2, "0")}.${tenths % 10}`;
}

/** A file size. */
export function bytes(value) {
  if (value < 1000) return `${value} bytes`;
  return value < 1e6 ? `${Math.round(value / 1e3)} kB` : `${(value / 1e6).toFixed(1)} MB`;
}

const AGO = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

/** The age of a time. */
export function ago(time) {
  const minutes = (Date.now() - new Date(time)) / 60_000;
  if (minutes < 1) return "just now";
  if (minutes < 60) return AGO.format(-Math.floor(minutes), "minute");
  if (minutes < 60 * 24) return AGO.format(-Math.floor(minutes / 60), "hour");
  return AGO.format(-Math.floor(minutes / 1440), "day");
}
