// Sends forms, and takes in the jobs that are made of them.

import { ask, call, PATIENCE, UPLOAD } from "./api.js";
import { $, all, say } from "./dom.js";
import { forget } from "./draft.js";
import { clearErrors, firstWrong, showError, written } from "./forms.js";
import { before } from "./faces.js";
import { insist } from "./insist.js";
import { choose, chosen, sent, take } from "./jobs.js";
import { queued } from "./service.js";
import { events } from "./sse.js";

export async function send(model) {
  const form = model.element;
  if (form.ariaBusy === "true") return;
  clearErrors(form);
  const wrong = firstWrong(model);
  if (wrong) return goTo(form, wrong);
  form.ariaBusy = "true";
  try {
    const body = written(form);
    const pictures = [...body.values()].some((value) => value.name);
    await submit(model, body, pictures ? UPLOAD : PATIENCE);
    forget(model);
    say($(".note", form), ""); // it is said of the job
    if (matchMedia("(max-width: 63rem)").matches) $("#stage").scrollIntoView({ block: "nearest" });
  } catch (error) {
    goTo(form, showError(form, error));
  } finally {
    form.ariaBusy = null;
  }
}

// What is wrong comes into sight.
function goTo(form, input) {
  input?.focus();
  all(".error", form).find((said) => said.textContent)?.scrollIntoView({ block: "center" });
}

// Makes jobs of a form, and shows the first of them.
export async function submit(model, body, timeout, prompt = body.get("prompt") ?? "") {
  if (!queued) return direct(model, body);
  const headers = { Prefer: "respond-async", "Idempotency-Key": keyOf(model, body) };
  const { id, ids = [id], notes } = await insist(() => ask(model.path, { method: "POST", body, headers, timeout }));
  model.key = null;
  const parameters = Object.fromEntries([...body].filter(([, value]) => !value.name));
  const pictures = Object.fromEntries([...body].filter(([, value]) => value.name));
  sent.set(id, pictures);
  const group = ids.length > 1 ? { group: id } : {};
  const compared = await before(model, pictures, parameters).catch(() => null);
  for (const one of ids) take({ ...parameters, prompt, id: one, before: compared, type: model.type, status: "queued", rank: 0, notes, files: Object.keys(pictures), ...group });
  choose(id);
  look(ids);
}

async function look(ids) {
  for (const id of ids) await ask(`jobs/${id}`).then(take, () => {}); // the list has it too
}

// A form that got no answer is sent again with the same key, so that it makes its jobs once.
function keyOf(model, body) {
  const content = JSON.stringify([...body].map(([name, value]) => [name, value.name ? [value.name, value.size, value.lastModified] : value]));
  if (model.key?.content !== content) model.key = { content, key: newKey() };
  return model.key.key;
}

export const newKey = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

// Without a queue, the answer is a stream of the job's events, and the last one has the picture.
async function direct(model, body) {
  const hand = new AbortController();
  const answer = await insist(() => call(model.path, { method: "POST", body, headers: { Accept: "text/event-stream" }, signal: hand.signal, stream: true }));
  const id = String(Date.now());
  take({ id, type: model.type, prompt: body.get("prompt"), status: "queued", rank: 0, hand });
  choose(id);
  hear(model, id, answer).catch((error) => take({ id, status: hand.signal.aborted ? "cancelled" : "lost", message: error.message }));
}

async function hear(model, id, answer) {
  for await (const { data } of events(answer)) {
    take({ ...data, id });
    if (data.field && chosen()?.id === id) showError(model.element, data);
  }
}
