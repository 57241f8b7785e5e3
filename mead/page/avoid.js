// "Avoid": what the picture should not show. It is sent as a further text with a negative weight.

import { $, make } from "./dom.js";
import { bindSlider } from "./ranges.js";

const USUAL = 5;

// The field; its inputs have no name, as the form has no such field.
export function avoid(path) {
  const id = `${path}-avoid`;
  const text = make("input", { type: "text", id, dataset: { own: "avoid" }, autocomplete: "off" });
  const weight = make("input", { type: "number", min: 0, max: 1000, step: "any", placeholder: USUAL, dataset: { own: "avoid_weight" }, ariaLabel: "How strongly to avoid it" });
  text.setAttribute("aria-describedby", `${id}-hint`);
  return make("div", { className: "field", dataset: { field: "avoid" } },
    make("label", { htmlFor: id, textContent: "Avoid" }), text, bindSlider(weight, 0, 5, USUAL, "How strongly"),
    make("p", { id: `${id}-hint`, className: "hint", textContent: "What the picture should not show. Sent with prompts, with a negative weight." }));
}

const own = (form, name) => $(`[data-own="${name}"]`, form);

// Adds the text to what is sent.
export function avoidInto(form, body) {
  const text = own(form, "avoid")?.value.trim();
  if (!text) return body;
  const weight = -Math.abs(Number(own(form, "avoid_weight").value || USUAL));
  const avoided = text.split("|").map((part) => part.trim()).filter(Boolean).map((part) => `${part}:${weight}`);
  body.set("prompts", [...(body.get("prompts") ? [body.get("prompts")] : []), ...avoided].join(" | "));
  return body;
}

// Splits such texts off: the values of `prompts`, `avoid` and `avoid_weight`.
export function avoidOf(form, prompts) {
  if (!prompts || !own(form, "avoid")) return {};
  const parts = prompts.split("|").map((part) => part.trim());
  const weightOf = (part) => Number(part.match(/:\s*(-[\d.]+)$/)?.[1] ?? 0);
  const weight = Math.min(0, ...parts.map(weightOf));
  const avoided = weight < 0 ? parts.filter((part) => weightOf(part) === weight) : [];
  return {
    prompts: parts.filter((part) => !avoided.includes(part)).join(" | "),
    avoid: avoided.map((part) => part.slice(0, part.lastIndexOf(":")).trim()).join(" | "),
    avoid_weight: weight === -USUAL || !weight ? "" : -weight,
  };
}
