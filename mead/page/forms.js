// The forms, made of what the service says of its models.

import { about, control } from "./controls.js";
import { $, all, changed, giveFile, make, say } from "./dom.js";
import { dice, quick } from "./quick.js";
import { examples } from "./examples.js";
import { avoidInto, avoidOf, avoid } from "./avoid.js";
import { choicesOf, sliders } from "./named.js";
import { open } from "./tabs.js";

// Of parameters that no section of a form has.
const LABELS = {
  cutouts: "Cutouts", frames: "Time-lapse, pictures", identity: "Keep the person", init_weight: "Keep to the start", iterations: "Steps", l2: "Keep the face",
  mapper: "Ready-made edit", n: "How many", patience: "End early after, steps", refine: "Match the photo, steps", seed: "Seed", size: "Size", sliders: "Sliders",
  space: "What is optimised", start: "Start", tv_weight: "Smooth", upscale: "Enlarge",
};
const MISSING = { prompt: "Say what it should show.", img: "Choose a picture." };

// Puts a model's form into its panel.
export function makeForm(model, send) {
  const { parameters, path, form: layout } = model;
  const form = make("form", { noValidate: true, dataset: { route: path, model: model.name } });
  const fields = layout.sections.flatMap(([, fields]) => fields);
  const shown = new Set();
  const field = (name) => {
    shown.add(name);
    const made = makeField(model, name);
    const its = fields.find(({ name: weight, weight_of: of }) => of === name && weight in parameters);
    if (its) made.append(field(its.name)); // a weight stands at what it weighs
    return made;
  };
  const first = layout.first.filter((name) => name in parameters);
  const go = make("button", { className: "go", textContent: layout.submit });
  form.append(make("div", { className: "bar" }, ...first.map(field), go));
  const offered = Object.keys(parameters).filter((name) => choicesOf(model, name)?.length && !first.includes(name));
  const offers = make("fieldset", { className: "offers", hidden: !offered.length, ariaLabel: "Ready-made" }, ...offered.map(field));
  const advanced = make("details", { className: "advanced" }, make("summary", { textContent: "Advanced" }, make("span", { className: "filled" })));
  for (const [legend, its] of layout.sections) {
    const rest = its.flatMap(({ name }) => (shown.has(name) || !(name in parameters) ? [] : [field(name)]));
    if (parameters.prompts && its.some(({ name }) => name === "prompts")) rest.unshift(avoid(path));
    if (rest.length) advanced.append(make("fieldset", { className: `of-${legend.toLowerCase().replaceAll(" ", "-")}` }, make("legend", { textContent: legend }), ...rest));
  }
  const others = Object.entries(parameters).filter(([name, schema]) => !shown.has(name) && !("const" in schema));
  if (others.length) advanced.append(make("fieldset", { className: "more" }, make("legend", { textContent: "More" }), ...others.map(([name]) => field(name))));
  form.append(examples(model), offers, advanced, make("p", { className: "error", role: "alert" }));
  model.element = form;
  offers.before(quick(form, parameters));
  if (offered.includes("mapper")) useMapper(form);
  for (const { name, weight_of: of, first_weight: usual } of fields) if (of && of in parameters) bind(form, name, of, usual);
  form.addEventListener("input", () => say($(".filled", advanced), filledIn(advanced)));
  form.addEventListener("submit", (event) => { event.preventDefault(); send(model); });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  model.panel.append(form);
}

// The names of the fields that are filled in, so that none is sent unseen.
function filledIn(advanced) {
  const given = all(".field", advanced).filter((field) => all("[name], [data-own]", field).some((input) => input.value && !input.disabled && input.closest(".field") === field));
  const names = given.map((field) => $("label", field).firstChild.textContent.trim());
  return names.length ? `: ${names.join(", ")}` : "";
}

const described = ({ form }, name) => form.sections.flatMap(([, fields]) => fields).find((field) => field.name === name) ?? { label: LABELS[name] };

// What a field is called, also where no form is around it.
export function labelOf(model, name) {
  const { label, weight_of: of } = described(model, name);
  return of ? `${label} of ${labelOf(model, of).toLowerCase()}` : label || name;
}

function makeField(model, name) {
  const { label, about: text, weight_of: of } = described(model, name);
  const schema = model.parameters[name];
  const isWeight = of || /^w\d+$/.test(name);
  const must = model.required.includes(name);
  const made = control(schema, labelOf(model, name), isWeight);
  const choices = choicesOf(model, name);
  const { input } = made;
  const element = choices?.length && !schema.enum ? sliders(input, choices) : made.element;
  const id = `${model.path}-${name}`;
  Object.assign(input, { id, name, ariaRequired: must ? "true" : null });
  input.setAttribute("aria-describedby", `${id}-hint ${id}-error`);
  if (name === "prompt") Object.assign(input, { rows: 2, placeholder: model.examples[0] ? `As in: ${model.examples[0]}` : "" });
  const title = label ? [`${label} `, make("code", { textContent: name })] : [make("code", { textContent: name })];
  const error = make("p", { id: `${id}-error`, className: "error" });
  input.addEventListener("input", () => say(error, "") ?? (input.ariaInvalid = null));
  return make("div", { className: of ? "field weight" : "field", dataset: { field: name }, hidden: choices?.length === 0 },
    make("label", { htmlFor: id }, ...title),
    name === "seed" ? make("div", { className: "with-dice" }, element, dice(input)) : element,
    error,
    ...(name === "prompt" ? [make("p", { className: "note", role: "status" }), make("p", { className: "tokens" })] : []),
    make("p", { id: `${id}-hint`, className: "hint", textContent: about(text || firstSentence(schema.description), isWeight ? {} : schema, must), title: schema.description ?? "" }));
}

// The rest is in its title, and on the API's page.
const firstSentence = (text = "") => text.replaceAll("`", "").replace(/[;.] ?the weights set's own.*? when left out[^.]*\.?/gi, ".").split(/(?<=[.!?]) /, 1)[0];

// A weight counts while its text or picture is there: it is greyed before, and back when that goes.
function bind(form, name, of, usual) {
  const [weight, source] = [form.elements[name], form.elements[of]];
  const show = () => {
    const given = source.type === "file" ? source.files.length > 0 : source.value.trim() !== "";
    if (given && weight.disabled && weight.value === "") weight.value = usual;
    if (!given) weight.value = "";
    weight.disabled = !given;
    changed(weight);
  };
  source.addEventListener("input", show);
  show();
}

// A ready-made edit is chosen by its name alone.
function useMapper({ elements: { mapper, method } }) {
  mapper.addEventListener("input", () => {
    if (!method || (method.value === "mapper") === Boolean(mapper.value)) return;
    method.value = mapper.value ? "mapper" : "";
    changed(method);
  });
}

// What is filled in of a form.
export function written(form) {
  const body = new FormData();
  for (const [name, value] of new FormData(form)) if (value.name || value.trim?.()) body.append(name, value);
  return avoidInto(form, body);
}

// Fills in a form as it was for a job or a picture, but for its pictures, and goes there.
export function fill(model, parameters, pictures = []) {
  const form = model.element;
  const { n, ...values } = { ...parameters, ...avoidOf(form, parameters.prompts) };
  for (const [name, value] of Object.entries(values)) if (String(value) === String(model.parameters[name]?.default)) delete values[name];
  open(model);
  put(model, values);
  form.elements.prompt.focus();
  if (pictures.length) showError(form, { message: `Choose the pictures again: ${pictures.map((name) => labelOf(model, name)).join(", ")}.` });
}

const inputsOf = (form) => all("[name], [data-own]", form);
const nameOf = (input) => input.name || input.dataset.own;

// Writes these values into a form, and empties all its other fields.
export function put({ element: form }, values) {
  clearErrors(form);
  const inputs = inputsOf(form);
  for (const input of inputs) {
    if (input.type === "file") { giveFile(input, null); continue; }
    input.disabled = false;
    input.value = values[nameOf(input)] ?? "";
  }
  for (const input of inputs) changed(input);
  form.querySelector(".advanced").open ||= inputs.some((input) => input.closest(".advanced") && input.value && !input.disabled && !["n", "seed", "iterations", "size"].includes(input.name));
}

// What is filled in, but for pictures, as `put` takes it.
export const valuesOf = (form) => Object.fromEntries(inputsOf(form).filter(({ type, value }) => type !== "file" && value).map((input) => [nameOf(input), input.value]));

export function clearErrors(form) {
  for (const error of all(".error", form)) say(error, "");
  for (const input of all("[aria-invalid]", form)) input.ariaInvalid = null;
}

// Says what is wrong at the field it is about, else below the form. Returns that field.
export function showError(form, { message, field }) {
  const input = field && form.elements[field];
  if (!input?.id) {
    say($(":scope > .error", form), message);
    return null;
  }
  const details = input.closest("details");
  if (details) details.open = true;
  say(document.getElementById(`${input.id}-error`), sentence(message.startsWith(`${field}: `) ? message.slice(field.length + 2) : message));
  input.ariaInvalid = "true";
  return input;
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

// Says at all fields at once what is missing or no number. Returns the first of them.
export function firstWrong(model) {
  const form = model.element;
  const wrong = [...form.elements].filter((input) => input.validity?.badInput && input.name).map(({ name }) => ({ field: name, message: "Write a number." }));
  const empty = (name) => !(form.elements[name].files?.length ?? form.elements[name].value.trim());
  const missing = model.required.filter(empty);
  const wishes = ["prompt", "mapper", "sliders"].filter((name) => form.elements[name]); // one of them says what to do
  if (!missing.includes("prompt") && wishes.every(empty)) missing.unshift("prompt");
  const said = [...missing.map((field) => ({ field, message: MISSING[field] ?? "Fill this in." })), ...wrong];
  const inputs = said.map((problem) => showError(form, problem));
  return inputs[0] ?? null;
}
