// The page: asks the API for pictures and shows how they get on. What it says of fields (what each means, its
// default, its range) is read from openapi.json, so it cannot say anything else than the API does.

const WATCHED = 4; // jobs followed at once: a browser opens only six connections to one server
const KEPT = 24; // jobs remembered: their ids, in localStorage
const PAUSE = 2000; // milliseconds before a lost connection is tried again, and between looks at the rank
const PREVIEW_EVERY = 1000; // milliseconds
const NOTES_AFTER = 400; // milliseconds without a change of the form
const KEY = "mead.key";
const JOBS = "mead.jobs";
const STATES = { queued: "Waiting", processing: "Running", succeeded: "Done", failed: "Failed", cancelled: "Cancelled", lost: "Lost" };

const $ = (selector, within = document) => within.querySelector(selector);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const say = (element, text) => { if (element.textContent !== text) element.textContent = text; }; // else it is read out again
const pause = () => new Promise((done) => setTimeout(done, PAUSE));

// Asking the API

async function call(path, options = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const answer = await fetch(path, { ...options, headers: { ...options.headers, ...(key && { "X-API-Key": key }) } });
    if (answer.ok) return answer;
    const { message, field } = await answer.json().catch(() => ({ message: `the server answered ${answer.status}` }));
    if (answer.status !== 401) throw Object.assign(new Error(message), { status: answer.status, field });
    if (key === sessionStorage.getItem(KEY)) await askForKey(key ? "This key is not known here." : "This service asks for a key. It is kept until this tab is closed.");
  }
}

const ask = async (path) => (await call(path)).json();

let entering = null;
function askForKey(why) {
  const before = document.activeElement;
  entering ??= new Promise((entered) => {
    $("#door").onsubmit = (event) => {
      event.preventDefault();
      sessionStorage.setItem(KEY, $("#key").value);
      $("#door").reset();
      $("#door").hidden = true;
      entering = null;
      before.focus();
      entered();
    };
    $("#door").hidden = false;
    say($("#why"), why);
    $("#key").focus();
  });
  return entering;
}

// Server-sent events by fetch: EventSource can neither send a key nor a form.
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const event = Object.fromEntries(part.split("\n").map((line) => line.split(/: ?(.*)/s, 2)));
      if (event.data) yield { kind: event.event, id: event.id, data: JSON.parse(event.data) };
    }
  }
}

// Forms, made of openapi.json

const api = await ask("openapi.json");
const queued = "/jobs/{job_id}/events" in api.paths; // app.py has no queue: there a job is one answer
const fields = {}; // of all forms
for (const form of all("form[data-route]")) {
  const schema = api.paths[`/${form.dataset.route}`].post.requestBody.content["multipart/form-data"].schema;
  const placed = all("[data-field]", form).map((place) => place.dataset.field);
  for (const [name, field] of Object.entries(schema.properties)) {
    if (name.startsWith("webhook")) continue; // for programs
    fields[name] = field;
    if (placed.includes(name) || "const" in field) continue; // no choice, no field
    const place = make("div", { textContent: name });
    place.dataset.field = name;
    $(".more", form).append(place);
  }
  for (const place of all("[data-field]", form)) {
    const name = place.dataset.field;
    fillField(form, place, schema.properties[name], schema.required.includes(name));
  }
  form.addEventListener("submit", (event) => { event.preventDefault(); send(form); });
  form.addEventListener("input", () => noteSoon(form));
  const { img, face } = form.elements;
  if (img && face && "/faces" in api.paths) img.addEventListener("input", () => offerFaces(img, face));
}

function fillField(form, place, field, must) {
  const name = place.dataset.field;
  const title = place.textContent;
  const input = inputFor(field);
  const id = `${form.dataset.route}-${name}`;
  Object.assign(input, { id, name, ariaRequired: must });
  input.setAttribute("aria-describedby", `${id}-hint ${id}-error`);
  place.replaceChildren(
    make("label", { htmlFor: id }, ...(title === name ? [name] : [`${title} `, make("code", { textContent: name })])),
    input.type === "file" ? dropZone(input) : input,
    make("p", { id: `${id}-error`, className: "error" }),
    ...(name === "prompt" ? [make("p", { className: "note", role: "status" })] : []),
    make("p", { id: `${id}-hint`, className: "hint", textContent: aboutField(place.dataset.about ?? field.description, field, must) }),
    ...(name === "prompt" ? all(".examples", form.parentElement) : []),
  );
  input.addEventListener("input", () => {
    showError(input, "");
    const weight = $(`[data-of="${name}"]`, form); // what is given should count: its weight is 0 by default
    const box = weight && $("input", weight);
    if (box?.value === "" && input.value.trim()) box.value = weight.dataset.first;
  });
}

function inputFor(field) {
  if (field.enum) return make("select", {}, make("option", { value: "", textContent: "not chosen" }), ...field.enum.map((one) => make("option", {}, one)));
  if (field.format === "binary") return make("input", { type: "file", accept: "image/*" });
  if (field.maxLength) return make("textarea", { rows: 2 });
  if (field.type === "string") return make("input", { type: "text", placeholder: field.examples?.[0] ?? "" });
  const step = field.type === "integer" ? 1 : "any";
  return make("input", { type: "number", step, min: field.minimum, max: field.maximum, placeholder: field.default ?? "" });
}

function aboutField(about, field, must) {
  const facts = [about];
  if (must) facts.push("Must be given.");
  if (field.default !== undefined) facts.push(`Default ${field.default}.`);
  if (field.maximum <= Number.MAX_SAFE_INTEGER) facts.push(`From ${field.minimum} to ${field.maximum}.`.replace("-", "−"));
  else if (field.minimum !== undefined) facts.push(`A whole number from ${field.minimum}.`);
  if (field.maxLength) facts.push(`Up to ${field.maxLength} characters.`);
  if (field.examples) facts.push(`As in ${field.examples[0]}.`);
  return facts.join(" ");
}

function dropZone(input) {
  const text = make("span");
  const picture = make("img", { alt: "", onerror: () => { picture.hidden = true; } }); // a kind this browser cannot show
  const remove = make("button", { type: "button", textContent: "Remove", onclick: () => { giveFile(input, null); input.focus(); } });
  const zone = make("div", { className: "drop" }, text, picture, input, remove);
  const show = () => {
    const [file] = input.files;
    URL.revokeObjectURL(picture.src);
    if (file) picture.src = URL.createObjectURL(file);
    picture.hidden = remove.hidden = !file;
    say(text, file ? file.name : "Drop a picture here, or choose one");
  };
  show();
  input.addEventListener("input", show);
  input.addEventListener("dragenter", () => zone.classList.add("over"));
  input.addEventListener("dragleave", () => zone.classList.remove("over"));
  input.addEventListener("drop", (event) => {
    zone.classList.remove("over");
    if (event.dataTransfer.files.length) giveFile(input, event.dataTransfer.files[0]);
  });
  return zone;
}

function giveFile(input, file) {
  const files = new DataTransfer();
  if (file) files.items.add(file);
  input.files = files.files;
  input.dispatchEvent(new Event("input", { bubbles: true }));
}

window.addEventListener("dragover", (event) => event.preventDefault()); // a miss must not leave the page
window.addEventListener("drop", (event) => {
  event.preventDefault();
  const [file] = event.dataTransfer.files;
  if (file && !event.target.closest(".drop")) fillFrom(file);
});

// A picture that was made here says how: its PNG has a text chunk "mead", in JSON.
async function provenance(file) {
  const bytes = await file.arrayBuffer();
  const view = new DataView(bytes);
  const text = (from, length) => new TextDecoder("latin1").decode(new Uint8Array(bytes, from, length));
  for (let at = 8; at + 12 <= bytes.byteLength;) {
    const length = view.getUint32(at);
    if (text(at + 4, 4) === "tEXt") {
      const [keyword, said] = text(at + 8, Math.min(length, bytes.byteLength - at - 8)).split("\0", 2);
      if (keyword === "mead") return JSON.parse(said);
    }
    at += 12 + length;
  }
  return null;
}

// Fills in a form as it was when a picture was made.
async function fillFrom(file) {
  const made = await provenance(file).catch(() => null);
  const form = made?.parameters && $(`form[data-model="${CSS.escape(made.model)}"]`);
  if (!form) return showErrorIn($('[role="tabpanel"]:not([hidden]) form'), { message: "This file does not say how it was made. Pictures made here do." });
  form.reset();
  showErrorIn(form, { message: "" });
  for (const input of form.elements) {
    if (!input.name) continue;
    showError(input, "");
    if (input.type === "file") giveFile(input, null);
    else if (input.name in made.parameters) input.value = made.parameters[input.name];
    if (input.value && input.closest("details")) input.closest("details").open = true;
  }
  if (made.pictures.length) showErrorIn(form, { message: `Choose the pictures again: ${made.pictures.join(", ")}.` });
  open(document.getElementById(`tab-${form.dataset.route}`));
  noteSoon(form);
  form.elements.prompt.focus();
}

function showError(input, message) {
  say(document.getElementById(`${input.id}-error`), message);
  input.ariaInvalid = message ? "true" : null;
}

// Says what was wrong at the field it is about, else below the form. Returns that field.
function showErrorIn(form, { message, field }) {
  const input = field && form.elements[field];
  if (!input) return say($(":scope > .error", form), message);
  const details = input.closest("details");
  if (details) details.open = true;
  showError(input, message.startsWith(`${field}: `) ? message.slice(field.length + 2) : message);
  return input;
}

// Nobody is asked for a key while filling in a form.
const isLocked = () => "securitySchemes" in api.components && !sessionStorage.getItem(KEY);

// What would be noted on a job of this form is said at its prompt, before it is sent.

function noteSoon(form) {
  clearTimeout(form.soon);
  form.soon = setTimeout(() => note(form), NOTES_AFTER);
}

async function note(form) {
  const mine = form.soon; // a later change makes another
  const body = written(form);
  for (const [name, value] of [...body]) if (value.name) body.set(name, new File([], value.name)); // that there is one will do
  let notes = [];
  try {
    if (body.has("prompt") && !isLocked()) ({ notes } = await (await call(`${form.dataset.route}/notes`, { method: "POST", body })).json());
  } catch {} // what is wrong is said when the form is sent
  if (mine === form.soon) say($(".note", form), notes.join("\n"));
}

// Which faces the photo has is said at the field that chooses one, which offers them.
async function offerFaces(img, face) {
  const [file] = img.files;
  const choices = face.list ?? make("datalist", { id: `${face.id}-choices` });
  const said = choices.nextElementSibling ?? make("p", { className: "hint", role: "status" });
  if (!face.list) {
    face.after(choices, said);
    face.setAttribute("list", choices.id);
  }
  say(said, "");
  choices.replaceChildren();
  if (!file || isLocked()) return;
  const body = new FormData();
  body.append("img", file);
  const faces = await call("faces", { method: "POST", body }).then((answer) => answer.json()).then((found) => found.faces, () => null);
  if (file !== img.files[0] || !faces) return; // another photo, or one that will be refused
  const numbers = faces.map(({ number }) => number);
  choices.append(...["largest", "all", ...numbers].map((value) => make("option", { value })));
  say(said, faces.length === 1 ? "The photo shows one face." : `The photo shows ${faces.length || "no"} faces.`);
}

// What is filled in of a form.
function written(form) {
  const body = new FormData();
  for (const [name, value] of new FormData(form)) if (value.name || value.trim?.()) body.append(name, value);
  return body;
}

for (const button of all("[data-example]")) {
  button.addEventListener("click", () => {
    const prompt = $('[name="prompt"]', button.closest('[role="tabpanel"]'));
    prompt.value = button.textContent;
    prompt.dispatchEvent(new Event("input", { bubbles: true }));
    prompt.focus();
  });
}

async function send(form) {
  if (form.ariaBusy === "true") return;
  for (const input of form.elements) if (input.name) showError(input, "");
  showErrorIn(form, { message: "" });
  const unread = [...form.elements].find((input) => input.validity.badInput);
  if (unread) return showErrorIn(form, { field: unread.name, message: "write a number" }).focus();
  const body = written(form);
  form.ariaBusy = "true";
  try {
    const hand = new AbortController();
    const headers = queued ? { Prefer: "respond-async" } : { Accept: "text/event-stream" };
    const answer = await call(form.dataset.route, { method: "POST", body, headers, signal: hand.signal });
    if (queued) {
      const { id, ids = [id], notes } = await answer.json();
      localStorage.setItem(JOBS, JSON.stringify([...ids, ...remembered()].slice(0, KEPT)));
      for (const one of ids.toReversed()) choose(add({ notes, ...(await ask(`jobs/${one}`)), form }));
      watch();
    } else {
      const job = add({ prompt: body.get("prompt"), status: "queued", form, hand });
      choose(job);
      hear(job, answer).catch((error) => update(job, { status: hand.signal.aborted ? "cancelled" : "lost", message: error.message }));
    }
    $("#stage").scrollIntoView({ block: "nearest" });
  } catch (error) {
    showErrorIn(form, error.status ? error : { message: "The server does not answer; try again soon." })?.focus();
  } finally {
    form.ariaBusy = null;
  }
}

// Tabs

const tabs = all('[role="tab"]');
const panel = (tab) => document.getElementById(tab.getAttribute("aria-controls"));
function open(tab) {
  for (const one of tabs) {
    one.ariaSelected = String(one === tab);
    one.tabIndex = one === tab ? 0 : -1;
    panel(one).hidden = one !== tab;
  }
}
tabs.forEach((tab, place) => {
  tab.addEventListener("click", () => open(tab));
  tab.addEventListener("keydown", (event) => {
    if (!["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    const other = tabs.at((place + (event.key === "ArrowRight" ? 1 : -1)) % tabs.length);
    open(other);
    other.focus();
  });
});

// Jobs, the newest first

const jobs = [];
let chosen = null;
const ended = (job) => !["queued", "processing"].includes(job.status);
const remembered = () => JSON.parse(localStorage.getItem(JOBS) ?? "[]");

function add(job, last = false) {
  const picture = make("img", { alt: "", hidden: true });
  job.card = make("button", { type: "button", onclick: () => { choose(job); $("#stage").scrollIntoView({ block: "nearest" }); } },
    make("span", { className: "frame" }, picture), make("span", { className: "words", textContent: job.prompt }), make("span"));
  jobs[last ? "push" : "unshift"](job);
  $("#gallery ul")[last ? "append" : "prepend"](make("li", {}, job.card));
  $("#gallery").hidden = false;
  return update(job, {});
}

function choose(job) {
  chosen = job;
  for (const one of jobs) one.card.ariaPressed = String(one === job);
  draw(job);
}

// Takes in what is new of a job, and shows it.
function update(job, news) {
  Object.assign(job, news);
  const share = job.status === "processing" && job.total_steps ? ` ${Math.floor((100 * job.steps) / job.total_steps)}%` : "";
  say(job.card.lastChild, STATES[job.status] + share);
  if (job === chosen) draw(job);
  if (job === chosen && job.status === "processing" && queued) preview(job);
  if (job.status === "succeeded" && !job.file) finish(job);
  return job;
}

async function preview(job) {
  if (performance.now() < (job.looked ?? -PREVIEW_EVERY) + PREVIEW_EVERY) return;
  job.looked = performance.now();
  const answer = await call(`jobs/${job.id}/preview`).catch(() => null); // there will be another
  if (answer?.status === 200 && !ended(job)) show(job, await answer.blob());
}

async function finish(job) {
  try { // app.py sends the picture itself; /jobs/ID/image may redirect to an object store, which this page may not ask
    const { image } = queued ? await (await call("check", { method: "POST", body: new URLSearchParams({ id: job.id }) })).json() : job;
    const png = Uint8Array.from(atob(image), (sign) => sign.charCodeAt(0));
    const words = job.prompt.toLowerCase().match(/[a-z0-9]+/g)?.slice(0, 6).join("-") ?? "picture";
    job.file = new File([png], `${words}-${job.id.slice(0, 6)}.png`, { type: "image/png" });
    show(job, job.file);
  } catch (error) {
    update(job, { status: "lost", message: error.message });
  }
}

function show(job, blob) {
  if (job.file && blob !== job.file) return; // a preview that came late
  URL.revokeObjectURL(job.address);
  job.address = URL.createObjectURL(blob);
  Object.assign($("img", job.card), { src: job.address, hidden: false });
  if (job === chosen) draw(job);
}

function draw(job) {
  const busy = !ended(job);
  if (job.address && $("#picture").src !== job.address) $("#picture").src = job.address;
  Object.assign($("#picture"), { alt: `${busy ? "So far: " : ""}${job.prompt}`, hidden: !job.address });
  $("#empty").hidden = Boolean(job.address);
  say($("#empty"), busy ? "No picture yet." : "No picture.");
  say($("#caption"), job.prompt);
  say($("#notes"), (job.notes ?? []).join("\n"));
  const waiting = job.status === "queued" && (job.rank ? `: ${job.rank} before this one` : ": next in line");
  const why = ["failed", "lost"].includes(job.status) && `: ${job.message ?? job.error}`;
  say($("#state"), STATES[job.status] + (waiting || why || ""));
  say($("#steps"), job.total_steps ? `step ${job.steps} of ${job.total_steps}` : "");
  const told = Object.keys(job).filter((name) => name !== "prompt" && name in fields && job[name] !== fields[name].default);
  say($("#facts"), [...told.map((name) => `${name} ${job[name]}`), ...(job.files ?? [])].join(" · "));
  $("#bar").hidden = !busy;
  if (job.total_steps) $("#bar").value = job.steps / job.total_steps;
  else $("#bar").removeAttribute("value"); // not known yet
  $("#actions").hidden = !busy && !job.file;
  $("#cancel").hidden = !busy;
  for (const action of all("#download, [data-to]")) action.hidden = !job.file;
  if (job.file) Object.assign($("#download"), { href: job.address, download: job.file.name });
}

// Following jobs

async function hear(job, answer) {
  for await (const { kind, id, data } of events(answer)) {
    if (kind === "closing") return;
    job.seen = id;
    update(job, data);
    if (data.field && job.form) showErrorIn(job.form, data);
  }
}

async function follow(job) {
  while (!ended(job) && !document.hidden) {
    job.hand = new AbortController();
    try {
      await hear(job, await call(`jobs/${job.id}/events`, { headers: job.seen && { "Last-Event-ID": job.seen }, signal: job.hand.signal }));
    } catch (error) {
      if (error.status === 404) update(job, { status: "lost", message: error.message });
    }
    if (!ended(job)) await pause();
  }
  job.hand = null;
  watch();
}

// Follows the oldest that have not ended: they end first.
function watch() {
  if (!queued || document.hidden) return;
  for (const job of jobs.filter((one) => !ended(one)).slice(-WATCHED)) if (!job.hand) follow(job);
}

document.addEventListener("visibilitychange", () => { // out of sight, the page holds no connections
  if (queued && document.hidden) for (const job of jobs) job.hand?.abort();
  watch();
});

setInterval(async () => { // the rank changes without an event
  const job = chosen;
  if (!queued || job?.status !== "queued" || document.hidden) return;
  const record = await ask(`jobs/${job.id}`).catch(() => null);
  if (record && job.status === "queued") update(job, record);
}, PAUSE);

// What can be done with a job

$("#cancel").addEventListener("click", async () => {
  const job = chosen;
  $("#stage").focus(); // the button goes away
  if (!queued) return job.hand.abort();
  try {
    await call(`jobs/${job.id}`, { method: "DELETE" });
    update(job, { status: "cancelled" });
  } catch (error) {
    if (error.status !== 409) say($("#steps"), error.message); // 409: it has ended, as its events say
  }
});
for (const button of all("[data-to]")) {
  button.addEventListener("click", () => {
    const tab = document.getElementById(button.dataset.to);
    open(tab);
    giveFile($('[name="img"]', panel(tab)), chosen.file);
    $('[name="prompt"]', panel(tab)).focus();
  });
}

// Those of earlier visits. One that is not known any more is not shown: it is too old, or another key's.
for (const id of queued ? remembered() : []) {
  const record = await ask(`jobs/${id}`).catch(() => null);
  if (record) add(record, true);
  if (!chosen && jobs.length) choose(jobs[0]);
}
watch();
