// What can be done with the job on the stage.

import { ask, call, PATIENCE, UPLOAD } from "./api.js";
import { $, all, button, copy, giveFile, save, say } from "./dom.js";
import { facesOf, looksForFaces } from "./faces.js";
import { fill } from "./forms.js";
import { insist } from "./insist.js";
import { choose, chosen, groupOf, running, sent, take } from "./jobs.js";
import { fileOf, preview } from "./pictures.js";
import { submit } from "./send.js";
import { has, modelOf, models, queued } from "./service.js";
import { open } from "./tabs.js";
import { goesOn } from "./versions.js";

const place = $("#actions");

const SELDOM = ["Reuse settings", "Copy link", "Copy settings"]; // behind "More", so that the others fit into a line
let more = false; // whether they are shown

// Every action: its label, when it is there, and what it does.
const ACTIONS = [
  ["Cancel", running, cancel],
  ["Cancel all", (job) => running(job) && groupOf(job).filter(running).length > 1 && has("DELETE /jobs"), cancelAll],
  ["Download", (job) => !running(job) && !job.playing && fileOf(job), (job) => save(fileOf(job), fileOf(job).name)],
  ["Run again", (job) => job.status === "failed" && !job.error_field && has("POST /jobs/{job_id}/retry"), retry],
  ["New seed", settled, (job) => again(job, {})],
  ["4 variations", (job) => settled(job) && queued, (job) => again(job, { n: 4 })],
  ...models.filter(({ form }) => form.reuse).map((model) => [model.form.reuse, (job) => !running(job) && fileOf(job) && !(job.faceless && looksForFaces(model)), (job) => use(model, job)]),
  ["Continue", (job) => modelOf(job)?.form.goes_on && goesOn(job), goOn],
  ["Play time-lapse", (job) => canPlay(job) && !job.playing, play],
  ["Stop", (job) => job.playing, (job) => take({ id: job.id, playing: null })],
  ["Download time-lapse", (job) => job.playing, (job) => downloadLapse(job)],
  ["Another face", (job) => !running(job) && modelOf(job)?.photo?.faces.length > 1, () => choose(null)],
  ["Reuse settings", settled, (job) => fill(modelOf(job), job, job.files)],
  ["Copy link", (job) => queued && !running(job), () => copied(location.href)],
  ["Copy settings", settled, (job) => copied(JSON.stringify({ model: modelOf(job).name, parameters: parametersOf(job) }, null, 2))],
];

function settled(job) {
  return !running(job) && Boolean(modelOf(job));
}

// Shows the buttons of a job; those that stay are not made anew, so that they keep the focus.
export function actions(job) {
  const wanted = job ? ACTIONS.filter(([, when]) => when(job)) : [];
  const star = job && starOf(job);
  const labels = [...(star ? [star] : []), ...wanted.map(([label]) => label)].join();
  if (place.dataset.labels === labels) return;
  place.dataset.labels = labels;
  const had = place.contains(document.activeElement) ? document.activeElement.textContent : null;
  const buttons = wanted.map(([label, , act]) => button(label, () => perform(act), { className: label.startsWith("Download") ? "main" : "" }));
  const seldom = buttons.filter(({ textContent }) => SELDOM.includes(textContent));
  if (seldom.length) buttons.splice(-seldom.length, 0, opener(seldom));
  if (star) buttons.unshift(button(star, () => perform(keep), { className: "star", ariaPressed: String(Boolean(job.kept)) }));
  place.replaceChildren(...buttons);
  place.hidden = !place.children.length;
  focusOn(had);
}

function opener(seldom) {
  const show = () => {
    toggle.ariaExpanded = String(more);
    for (const one of seldom) one.hidden = !more;
  };
  const toggle = button("More", () => { more = !more; show(); });
  show();
  return toggle;
}

let left = null; // the label of the button that had the focus and went

// Gives the focus to the stage, and back to the same button once there is one again.
function focusOn(label) {
  if (label) left = label;
  const stage = $("#stage");
  if (!label && document.activeElement !== stage) return;
  (all("button", place).find(({ textContent }) => textContent === left) ?? stage).focus();
}

async function perform(act) {
  say($("#done"), "");
  const job = chosen();
  try {
    await insist(() => act(job));
  } catch (error) {
    say($("#done"), error.message);
  }
}

async function copied(text) {
  await copy(text);
  say($("#done"), "Copied.");
}

// What is there of the picture is kept, in this window.
async function cancel(job) {
  if (!queued) return job.hand.abort();
  if (job.status === "processing") await preview(job);
  try {
    await ask(`jobs/${job.id}`, { method: "DELETE" });
    take({ id: job.id, status: "cancelled" });
  } catch (error) {
    if (error.status !== 409) throw error; // 409: it has ended, as its events say
  }
}

async function cancelAll(job) {
  await Promise.all(groupOf(job).filter((one) => one.status === "processing").map(preview));
  const { ids } = await ask(`jobs?group=${job.group}`, { method: "DELETE" });
  for (const id of ids) take({ id, status: "cancelled" });
}

async function retry(job) {
  const record = await ask(`jobs/${job.id}/retry`, { method: "POST" });
  delete job.message;
  take(record);
}

// The star is there where the service can keep pictures.
function starOf(job) {
  if (!job.file || !has("PUT /jobs/{job_id}/keep")) return null;
  return job.kept ? "★ Kept" : "☆ Keep";
}

async function keep(job) {
  const answer = await call(`jobs/${job.id}/keep`, { method: job.kept ? "DELETE" : "PUT" });
  const record = await answer.json().catch(() => ({}));
  take({ ...(record.created_at ? record : { id: job.id }), kept: !job.kept });
}

function parametersOf(job) {
  const names = Object.keys(modelOf(job)?.parameters ?? {}).filter((name) => name !== "n" && name in job && !(job.files ?? []).includes(name));
  return Object.fromEntries(names.map((name) => [name, job[name]]));
}

// The same form with another seed. Its pictures must be given again, unless this page has sent them.
async function again(job, changes) {
  const model = modelOf(job);
  const pictures = sent.get(job.group ?? job.id) ?? {};
  if ((job.files ?? []).some((name) => !pictures[name])) {
    fill(model, job, job.files);
    return;
  }
  const body = new FormData();
  const { seed, ...parameters } = { ...parametersOf(job), ...changes };
  for (const [name, value] of Object.entries(parameters)) body.append(name, value);
  for (const [name, file] of Object.entries(pictures)) body.append(name, file);
  await submit(model, body, Object.keys(pictures).length ? UPLOAD : PATIENCE);
}

async function use(model, job) {
  const file = fileOf(job);
  if (looksForFaces(model)) {
    say($("#done"), "Looking for a face …");
    const { faces } = await facesOf(file);
    if (job !== chosen()) return; // another picture by now
    say($("#done"), faces.length ? "" : "There is no face in this picture.");
    if (!faces.length) return take({ id: job.id, faceless: true });
  }
  open(model);
  giveFile(model.element.elements.img, file);
  model.element.elements.prompt.focus();
}

// Further steps from where it ended; all else is as it was.
async function goOn(job) {
  const body = new FormData();
  body.append("from", job.id);
  await submit(modelOf(job), body, PATIENCE, job.prompt);
}

const lapse = (job, kind) => call(`jobs/${job.id}/timelapse.${kind}`, { timeout: UPLOAD }).then((answer) => answer.blob());

const canPlay = (job) => job.file && job.frames && has("GET /jobs/{job_id}/timelapse.webp");

async function play(job) {
  take({ id: job.id, playing: URL.createObjectURL(await lapse(job, "webp")) });
}

// As a video where the service can make one, else as an animated picture.
async function downloadLapse(job) {
  const [blob, kind] = await lapse(job, "mp4").then((video) => [video, "mp4"], async () => [await lapse(job, "webp"), "webp"]);
  save(blob, fileOf(job).name.replace(/png$/, kind));
}
