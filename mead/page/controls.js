// A control for each kind of field, made of its JSON Schema.

import { all, button, changed, giveFile, make, say } from "./dom.js";
import { bindSlider } from "./ranges.js";

const WIDEST = 50; // a range that a slider can show
const WEIGHT = 5; // weights from -5 to 5 have a slider, though others may be written

// The control of a field: what is shown, and the input that is sent.
export function control(schema, label, isWeight) {
  if (schema.enum) return same(selection(schema));
  if (schema.format === "binary") return picture();
  if (schema.type === "number" || schema.type === "integer") return number(schema, label, isWeight);
  if (schema.maxLength) return same(make("textarea", { rows: 1 }));
  return same(make("input", { type: "text", autocomplete: "off", placeholder: schema.default ?? schema.examples?.[0] ?? "" }));
}

// A name as it is read: curly_hair.
export const words = (name) => String(name).replaceAll("_", " ");

const same = (input) => ({ element: input, input });

function selection({ enum: values, default: usual }) {
  const option = (value) => (value === usual ? make("option", { value: "", textContent: `${value} (usual)` }) : make("option", { value, textContent: words(value) }));
  const none = usual === undefined ? [make("option", { value: "", textContent: "not chosen" })] : [];
  return make("select", {}, ...none, ...[...values].sort((a, b) => (b === usual) - (a === usual)).map(option));
}

function number(schema, label, isWeight) {
  const [least, most] = isWeight ? [-WEIGHT, WEIGHT] : [schema.minimum, schema.maximum];
  const whole = schema.type === "integer";
  const input = make("input", { type: "number", step: whole ? 1 : "any", min: schema.minimum, max: schema.maximum, placeholder: schema.default ?? "" });
  if (!(most - least <= WIDEST)) return same(input);
  return { element: bindSlider(input, least, most, schema.default ?? 0, label, whole ? 1 : undefined), input };
}

// A place for a picture: chosen, dropped or pasted into it.
function picture() {
  const input = make("input", { type: "file", accept: "image/*" });
  const text = make("span");
  const shown = make("img", { alt: "", onerror: () => { shown.hidden = true; } }); // a kind this browser cannot show
  const remove = button("Remove", () => { giveFile(input, null); input.focus(); });
  const element = make("div", { className: "drop" }, text, shown, input, remove);
  const show = () => {
    const [file] = input.files;
    URL.revokeObjectURL(shown.src);
    if (file) shown.src = URL.createObjectURL(file);
    shown.hidden = remove.hidden = !file;
    element.classList.remove("over");
    say(text, file ? file.name : "Drop or choose a picture");
  };
  show();
  input.addEventListener("input", show);
  input.addEventListener("dragenter", () => element.classList.add("over"));
  input.addEventListener("dragleave", () => element.classList.remove("over"));
  input.addEventListener("drop", (event) => { if (event.dataTransfer.files.length) giveFile(input, event.dataTransfer.files[0]); });
  return { element, input };
}

// What a field may be, in a sentence or two.
export function about(text, schema, must) {
  const facts = [text];
  if (must) facts.push("Must be given.");
  if (schema.default !== undefined && !schema.enum && schema.format !== "binary") facts.push(`Usually ${schema.default}.`);
  if (schema.maximum <= Number.MAX_SAFE_INTEGER) facts.push(`From ${schema.minimum} to ${schema.maximum}.`.replace("-", "−"));
  else if (schema.minimum !== undefined) facts.push(`A whole number from ${schema.minimum}.`);
  if (schema.examples && schema.default === undefined) facts.push(`As in ${schema.examples[0]}.`);
  return facts.join(" ");
}

// Buttons that write a value into an input: [value, label, title or null].
export function presets(label, input, options) {
  const choose = (value) => { input.value = value; changed(input); };
  const group = make("div", { className: "presets", role: "group", ariaLabel: label }, make("span", { textContent: label, ariaHidden: "true" }));
  for (const [value, face, title] of options) {
    group.append(make("button", { type: "button", dataset: { value }, title: title ?? "", ariaLabel: title ?? face, onclick: () => choose(value) }, face));
  }
  const show = () => { for (const one of all("button", group)) one.ariaPressed = String(one.dataset.value === input.value); };
  input.addEventListener("input", show);
  show();
  return group;
}
